"""`python -m benchmarks.routing --data FOLDER`: train the learned router, and show how it does.

The weights go to `policies/difficulty.json`; the same data give the same weights. docs/routing.md
says where the data come from, `benchmarks/routing/requirements.txt` what has to be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.routing import evaluation, speed, training
from benchmarks.routing.outcomes import FAMILIES, TESTS, read
from policies.difficulty import WEIGHTS, Difficulty, Weights


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the file to write")
    parser.add_argument(
        "--keep", action="store_true", help="judge the weights in the file, and write none"
    )
    parser.add_argument("--resamples", type=int, default=evaluation.RESAMPLES)
    options = parser.parse_args(arguments)

    try:
        tests = [read(options.data, name) for name in TESTS]
        collected = [read(options.data, name) for name in FAMILIES]
    except FileNotFoundError as error:
        print(f"{error.filename}: no such file; docs/routing.md says where it is", file=sys.stderr)
        return 2
    sets, left_out = training.without_tests(collected, tests)
    rows = training.with_requests(training.prompts(sets))
    print(f"{len(rows):,} prompts; {left_out} more share 13 words with a test prompt\n")
    unseen = training.scores_unseen(rows)
    if not options.keep:
        weights = training.train_and_calibrate(rows, unseen)
        options.weights.write_bytes(
            msgspec.json.format(msgspec.json.encode(weights, order="sorted"), indent=1) + b"\n"
        )
    written = options.weights.read_bytes()
    weights = msgspec.json.decode(written, type=Weights)
    print(f"{options.weights}: {len(written):,} bytes, {len(weights.terms):,} terms")
    print(f"sha256 {hashlib.sha256(written).hexdigest()}\n")

    learned = Difficulty(weights)
    by_hand = Difficulty(training.by_hand_alone(weights.calibration))
    for contest in evaluation.held_out(tests, by_hand, learned):
        print(f"{contest.title}\n\n{evaluation.table(contest, options.resamples)}\n")
    unseen_kinds = list(evaluation.unseen_kinds(sets, rows, by_hand, unseen))
    print(
        f"Kinds left out of the training\n\n{evaluation.summary(unseen_kinds, options.resamples)}\n"
    )
    print(f"Microseconds\n\n{speed.table()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
