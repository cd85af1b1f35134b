"""llama.cpp's `llama-server` as a child: it says when it is ready, and ends when we do.

    python -m adapters.children.llama_server --model FILE --name NAME --binary PROGRAM ...

Source: llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, NoReturn

from adapters.children.gguf import tells_pooling

_LISTENING = re.compile(rb"listening on http://127\.0\.0\.1:([0-9]+)")
_POLL_S = 0.05
_ASK_S = 5.0
_GRACE_S = 3.0


def main() -> NoReturn:
    """Serve until standard input ends, or SIGTERM comes, or the server ends."""
    signal.signal(signal.SIGTERM, _leave)
    server = subprocess.Popen(  # noqa: S603 # the operator's own program
        _command(_arguments()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # A pipe of our own: were it our parent's, the server could keep that open without us.
        stderr=subprocess.PIPE,
    )
    threading.Thread(target=_leave_with_parent, args=(server,), daemon=True).start()
    try:
        sys.exit(_serve(server))
    finally:
        _end(server)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama_server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--binary", default="llama-server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, default=0, help="of each request; 0: the model's")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--projector", help="the file that turns images into what it reads")
    return parser.parse_args()


def _command(asked: argparse.Namespace) -> list[str]:
    command = [asked.binary, "--model", asked.model, "--alias", asked.name]
    command += ["--host", "127.0.0.1", "--port", str(asked.port), "--offline", "--no-webui"]
    # Its slots share the context evenly.
    command += ["--parallel", str(asked.parallel), "--no-kv-unified"]
    command += ["--ctx-size", str(asked.context * asked.parallel)]
    if asked.threads is not None:
        command += ["--threads", str(asked.threads)]
    if asked.gpu_layers is not None:
        command += ["--n-gpu-layers", str(asked.gpu_layers)]
    if asked.projector is not None:
        command += ["--mmproj", asked.projector]
    if asked.embeddings:
        command.append("--embeddings")
        if not tells_pooling(Path(asked.model)):
            command += ["--pooling", "mean"]
    return command


def _serve(server: subprocess.Popen[bytes]) -> int:
    """Say where the server serves once it does, and wait for its end."""
    assert server.stderr is not None
    last: deque[bytes] = deque(maxlen=20)
    for line in server.stderr:
        last.append(line)
        if found := _LISTENING.search(line):
            _say_when_ready(int(found[1]), server)
            break
    _drain(server.stderr, last)
    status = server.wait()
    print(_reason(last, status), file=sys.stderr, flush=True)  # noqa: T201 # what our parent reads
    return status if status > 0 else 1


def _say_when_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    """Some versions listen before the model is loaded, and answer 503 until then."""

    def watch() -> None:
        while server.poll() is None:
            if _is_healthy(port):
                print(f"ready {port}", flush=True)  # noqa: T201 # what our parent waits for
                return
            time.sleep(_POLL_S)

    threading.Thread(target=watch, daemon=True).start()


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _drain(stream: IO[bytes], last: deque[bytes]) -> None:
    """Read on, so that what the server logs never fills the pipe."""
    for line in stream:
        last.append(line)


def _reason(last: deque[bytes], status: int) -> str:
    """The line that says most: the last error it logged, else its last line."""
    if status == -signal.SIGKILL:  # it had no time to say why
        return "llama-server was killed (SIGKILL), as the system does when memory runs out"
    lines = [line.decode(errors="replace").strip() for line in last]
    errors = [line for line in lines if " E " in line or "error" in line.lower()]
    said = [*(line for line in lines if line), *errors]
    end = f"exit code {status}" if status >= 0 else signal.Signals(-status).name
    return f"llama-server ended ({end}): {said[-1][:300] if said else 'it said nothing'}"


def _leave_with_parent(server: subprocess.Popen[bytes]) -> None:
    """Only our parent holds the other end of standard input open."""
    while os.read(0, 4096):
        pass
    _end(server)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
