"""What an upstream that speaks TLS costs more than one that does not, in turns.

Each has the same answers. The certificate is made for the run, and trusted by way of OpenSSL's own
variable, as one of the machine's is: a target with a `ca_bundle` goes through another transport.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Bench
from benchmarks.subjects import (
    Tollway,
    create_key,
    free_port,
    serve,
    tollway,
    upstream,
    wait_for_answer,
    write_config,
)

PLAIN, OVER_TLS = "plain HTTP", "TLS"
# name: (workload when saturated, workload at a fixed rate)
_WORKLOADS = {"json": ("json", "json"), "stream": ("stream-20", "stream-20-paced")}


def is_possible() -> bool:
    """Whether a certificate can be made here."""
    return shutil.which("openssl") is not None


def side_by_side(measured: Mapping[str, Any]) -> list[tuple[str, str, float, float]]:
    """Of what was measured: what, the unit, plain and over TLS."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for load in measured["loads"]:
        what = f"{load['workload']}, {load['load']}"
        rows.setdefault((what, "ms"), {})[load["subject"]] = load["cpu_ms"]
    for event in measured["events"]:
        what = f"an event, {event['arriving']}"
        rows.setdefault((what, "µs"), {})[event["subject"]] = event["cpu_us"]
    return [(*what, found[PLAIN], found[OVER_TLS]) for what, found in rows.items()]


def tls(bench: Bench) -> dict[str, Any]:
    """JSON answers, streams and their events from both kinds of upstream.

    Raises `RuntimeError` where an answer is not on record.
    """
    with contextlib.ExitStack() as running:
        plain = running.enter_context(
            tollway(bench.folder / "tls-plain", bench.upstream_port, access_log=False)
        )
        subjects = [
            replace(plain, name=PLAIN),
            running.enter_context(_over_tls(bench.folder / "tls")),
        ]
        loads = [
            load.as_json()
            for name, (saturated, at_rate) in _WORKLOADS.items()
            for load in measure.workload(
                bench, subjects, name, saturated=saturated, at_rate=at_rate
            )
        ]
        events = [event.as_json() for event in measure.events(bench, subjects)]
        for subject in subjects:
            measure.check_records(bench, subject)
            del bench.sent[subject.name]
    return {"loads": loads, "events": events}


@contextlib.contextmanager
def _over_tls(folder: Path) -> Iterator[Tollway]:
    """A server whose upstream speaks TLS."""
    folder.mkdir(parents=True)
    certificate = _certificate(folder / "upstream.pem")
    with upstream(certificate) as provider:
        config = write_config(folder, provider.port, access_log=False)
        config.write_text(config.read_text().replace("http://127.0.0.1:", "https://localhost:"))
        data, port = folder / "data", free_port()
        key = create_key(config, data)
        environ = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        with serve(data, port, folder / "output", config=config, environ=environ) as process:
            wait_for_answer(process, port, key)
            yield Tollway(name=OVER_TLS, port=port, pid=process.pid, key=key, data=data)


def _certificate(file: Path) -> Path:
    """A key and a certificate for localhost, which is signed by itself, in one file."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "-", "-out", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command!r} failed: {done.stderr.decode(errors='replace')}")
    file.touch(mode=0o600)
    file.write_bytes(done.stdout)
    return file
