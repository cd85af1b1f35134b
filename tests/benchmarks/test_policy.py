from pathlib import Path

# With its command, which must be there for whoever lacks the extras that it can measure.
from benchmarks import __main__ as command


def test_each_policy_is_measured_on_each_size(tmp_path: Path) -> None:
    rows = command.policy(tmp_path, decisions=3)
    assert len({(row.policy, row.prompt_bytes) for row in rows}) == len(rows) > 1
    assert all(0 < row.p50_us <= row.p99_us for row in rows)
