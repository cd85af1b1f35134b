"""A large request: the memory that it takes, and how long it keeps everybody else waiting.

A chat with images of 5 MB in all, in base64, once as plain ASCII and once with a word that is not:
then every byte has to be looked at as UTF-8. One at a time, and several at once.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure, proc
from benchmarks.load import Order
from benchmarks.measure import Bench
from benchmarks.numbered import write_numbered
from benchmarks.subjects import Tollway, create_key, free_port, serve, wait_for_answer
from benchmarks.watched import Watched

BODY_BYTES = 5_000_000
_IMAGES = 4
_TEXTS = {"ASCII": "What do these show?", "beyond ASCII": "Was zeigen diese Bilder? 🖼"}
_AT_ONCE = (1, 8)
_MODEL = "json"


@dataclass(kw_only=True)
class Large:
    """So many such requests at the same time; a value per turn."""

    text: str
    at_once: int
    body_bytes: int
    peak_kib: list[int] = field(default_factory=list)
    """Of the worker, beyond what it has idle."""
    turn_cpu_ms: list[float] = field(default_factory=list)
    """The longest turn of the worker's event loop."""
    turn_ms: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All values, and the medians; the memory in bodies that were there at the same time."""
        bodies = self.body_bytes * self.at_once
        return {
            **asdict(self),
            "peak_bodies": round(max(self.peak_kib) * 1024 / bodies, 2),
            "turn_cpu_ms": round(statistics.median(self.turn_cpu_ms), 2),
            "turn_ms": round(statistics.median(self.turn_ms), 2),
        }


def large(bench: Bench) -> list[dict[str, Any]]:
    """Measure each kind of body and each number at once. Raises `RuntimeError`."""
    found: list[dict[str, Any]] = []
    for text in _TEXTS:
        for at_once in _AT_ONCE:
            bench.progress(f"large bodies, {text}: {at_once} at once")
            folder = bench.folder / f"large-{len(found)}"
            found.append(measured(bench, folder, text, at_once).as_json())
    return found


def body(text: str, *, size: int = BODY_BYTES) -> bytes:
    """A chat of about so many bytes, most of them images, as clients' SDKs write it."""
    chance = random.Random(5)
    images = [
        base64.b64encode(chance.randbytes(size // _IMAGES * 3 // 4)).decode()
        for _ in range(_IMAGES)
    ]
    content = [
        {"type": "text", "text": text},
        *(
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
            for image in images
        ),
    ]
    asked = {"model": _MODEL, "messages": [{"role": "user", "content": content}]}
    return json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()


def measured(bench: Bench, folder: Path, text: str, at_once: int) -> Large:
    """A server that is asked so many at once, turn by turn. Raises `RuntimeError`."""
    turns = folder / "turns"
    turns.mkdir(parents=True)
    config = folder / "router.yaml"
    capabilities = ("chat", "vision")
    write_numbered(config, bench.upstream_port, model=_MODEL, routed=2, capabilities=capabilities)
    data, port = folder / "data", free_port()
    key = create_key(config, data)
    command = [sys.executable, "-m", "benchmarks.watched", str(turns)]
    with serve(data, port, folder / "output", config=config, command=command) as process:
        wait_for_answer(process, port, key)
        subject = Tollway(name=str(folder), port=port, pid=process.pid, key=key, data=data)
        worker = next(pid for pid, role in subject.roles().items() if role == "worker")
        watched = Watched(turns / str(worker))
        # Small ones first, so that what is made once is there.
        bench.turn(subject, _MODEL, "saturate", seconds=bench.effort.saturated_s)
        asked = body(_TEXTS[text])
        found = Large(text=text, at_once=at_once, body_bytes=len(asked))
        idle_kib = proc.forget_peak(worker)
        for _ in range(bench.effort.turns):
            _take_turn(bench, subject, asked, found, watched)
            found.peak_kib.append(proc.peak_kib(worker) - idle_kib)
        measure.check_records(bench, subject)
    del bench.sent[subject.name]
    return found


def _take_turn(
    bench: Bench, subject: Tollway, asked: bytes, found: Large, watched: Watched
) -> None:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{subject.port}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {subject.key}\r\n"
        f"content-length: {len(asked)}\r\n\r\n"
    ).encode()
    bench.generator.prepare(
        Order(
            port=subject.port,
            request=head + asked,
            end=b"",
            mode="saturate",
            connections=found.at_once,
            seconds=bench.effort.saturated_s,
            warm_s=0,
        )
    )
    watched.forget()
    report = bench.generator.run()
    bench.generator.close()
    bench.sent[subject.name] += report.requests
    found.turn_cpu_ms.append(watched.cpu_ns / 1e6)
    found.turn_ms.append(watched.time_ns / 1e6)
