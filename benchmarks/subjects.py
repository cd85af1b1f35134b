"""What is measured: Tollway, and what it is compared with, each in processes of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks import proc
from benchmarks.dialects import ADAPTERS
from benchmarks.workloads import PROVIDER_KEY, Workload, all_workloads

ROOT = Path(__file__).parent.parent
_START_S = 30.0
_KEY = re.compile(r"^sk-\S+", re.MULTILINE)

# Two priced targets a model, so that the policy has something to decide and every hold is real.
_CONFIG = """\
server:
  access_log: {access_log}
  open_metrics: true
{server}providers:
{providers}
targets:
{targets}
models:
{models}
budgets:
  - scope: global
    window: month
    limit_usd: 1000000
"""
_PROVIDER = """\
  {name}:
    adapter: {adapter}
    base_url: http://127.0.0.1:{upstream_port}{path}
    api_key: {provider_key}
"""
_TARGET = """\
  - target: {provider}/{model}
    price: {{input: {price}, output: {output_price}}}
    context_length: 128000
    max_output_tokens: 4096
    capabilities: [{capabilities}]
"""
_MODEL = """\
  {model}:
    policy: cheapest
    targets: [far-{provider}/{model}, near-{provider}/{model}]
"""

_NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
{user}
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  keepalive_requests 10000000;
  upstream provider {{
    server 127.0.0.1:{upstream_port};
    keepalive 64;
    keepalive_requests 10000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_buffer_size 64k;
      proxy_buffers 8 64k;
    }}
  }}
}}
"""

_LITELLM = """\
model_list:
{models}
litellm_settings:
  telemetry: false
general_settings:
  master_key: {key}
"""
_LITELLM_MODEL = """\
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: {provider_key}
"""
_LITELLM_KEY = "sk-bench"
# Its imports take long.
_LITELLM_START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that serves the workloads at a port."""

    name: str
    port: int
    pid: int
    key: str = "none"

    def roles(self) -> Mapping[int, str]:
        """Its processes and what each is for."""
        return dict.fromkeys(proc.descendants(self.pid), "all")

    def cpu_ns(self) -> Mapping[str, int]:
        """CPU time so far by the role of the process."""
        spent: dict[str, int] = {}
        for pid, role in self.roles().items():
            spent[role] = spent.get(role, 0) + proc.cpu_ns(pid)
        return spent

    def memory_kib(self) -> Mapping[str, Mapping[str, int]]:
        """Resident memory by the role of the process."""
        return {role: proc.memory_kib(pid) for pid, role in self.roles().items()}


class Direct(Subject):
    """The upstream itself: what the machine, the upstream and the load generator take."""


@dataclass(frozen=True, kw_only=True)
class Tollway(Subject):
    """A running `tollway serve`."""

    data: Path

    def roles(self) -> Mapping[int, str]:
        """Supervisor, ledger and worker; the ledger is the one that has the database open."""
        supervisor, *children = proc.descendants(self.pid)
        return {
            supervisor: "supervisor",
            **{pid: "ledger" if proc.has_open(pid, "ledger.db") else "worker" for pid in children},
        }

    def recorded(self) -> Mapping[str, float]:
        """Requests, attempts and cost that the ledger has on record."""
        rows = json.loads(_tollway("spend", "--json", "--by", "target", data=self.data))
        return {
            "requests": sum(row["requests"] for row in rows),
            "attempts": sum(row["attempts"] for row in rows),
            "cost_usd": sum(row["cost_nanousd"] for row in rows) / 1e9,
        }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def upstream(certificate: Path | None = None) -> Iterator[Direct]:
    """The upstream, as long as the context lasts; over TLS where it has a certificate."""
    command = [sys.executable, "-m", "benchmarks.upstream", *map(str, filter(None, [certificate]))]
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Direct(name="direct", port=port, pid=process.pid)


@contextlib.contextmanager
def bare_relay(upstream_port: int) -> Iterator[Subject]:
    """The bare relay."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_relay", str(port), str(upstream_port)]
    with _process(command) as process:
        subject = Subject(name="bare relay", port=port, pid=process.pid)
        wait_for_answer(process, port)
        yield subject


def nginx_program() -> str | None:
    """Where nginx is, if anywhere."""
    # Distributions put it where only root's path leads.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextlib.contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Subject | None]:
    """nginx as a reverse proxy; None where it is not installed."""
    program = nginx_program()
    if program is None:
        yield None
        return
    port = free_port()
    config = folder / "nginx.conf"
    # As root it would give its workers to a user who cannot reach the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        _NGINX.format(folder=folder, port=port, upstream_port=upstream_port, user=user)
    )
    command = [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with _process(command) as process:
        wait_for_answer(process, port)
        yield Subject(name="nginx", port=port, pid=process.pid)


@contextlib.contextmanager
def litellm(folder: Path, upstream_port: int, program: Path | None) -> Iterator[Subject | None]:
    """LiteLLM's proxy with a key and no database; None where there is no such program.

    Everything of its own is as it comes, but that it asks for nothing from elsewhere.
    """
    if program is None or not program.exists():
        yield None
        return
    port = free_port()
    config = folder / "litellm.yaml"
    models = "".join(
        _LITELLM_MODEL.format(model=model, upstream_port=upstream_port, provider_key=PROVIDER_KEY)
        for model in all_workloads()
    )
    config.write_text(_LITELLM.format(models=models, key=_LITELLM_KEY))
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with (
        (folder / "litellm-output").open("wb") as output,
        _process(command, stdout=output, stderr=output, environ=environ) as process,
    ):
        wait_for_answer(process, port, _LITELLM_KEY, within_s=_LITELLM_START_S)
        yield Subject(name="LiteLLM", port=port, pid=process.pid, key=_LITELLM_KEY)


@contextlib.contextmanager
def tollway(
    folder: Path,
    upstream_port: int,
    *,
    access_log: bool,
    workloads: Mapping[str, Workload] | None = None,
    workers: int = 1,
    server: Mapping[str, int] | None = None,
) -> Iterator[Tollway]:
    """A server with everything on: a key, a policy, hard budgets, fsync, metrics.

    Its data folder is `folder/data`; its output goes to `folder/output`. `server` are more of the
    settings there.
    """
    config = write_config(
        folder, upstream_port, access_log=access_log, workloads=workloads, server=server
    )
    data = folder / "data"
    key = create_key(config, data)
    port = free_port()
    with serve(data, port, folder / "output", config=config, workers=workers) as process:
        first = next(iter(workloads.values())) if workloads else None
        wait_for_answer(process, port, key, first)
        name = "Tollway+log" if access_log else "Tollway"
        yield Tollway(name=name, port=port, pid=process.pid, key=key, data=data)


def write_config(
    folder: Path,
    upstream_port: int,
    *,
    access_log: bool,
    workloads: Mapping[str, Workload] | None = None,
    server: Mapping[str, int] | None = None,
) -> Path:
    """The `router.yaml` of a measured server, for all workloads or for these."""
    workloads = workloads or all_workloads()
    folder.mkdir(parents=True, exist_ok=True)
    providers, targets, models = [], [], []
    for provider in dict.fromkeys(workload.provider for workload in workloads.values()):
        adapter, path = ADAPTERS[provider]
        providers += [
            _PROVIDER.format(
                name=f"{distance}-{provider}",
                adapter=adapter,
                path=path,
                upstream_port=upstream_port,
                provider_key=PROVIDER_KEY,
            )
            for distance in ("near", "far")
        ]
    for model, workload in workloads.items():
        is_chat = model != "embeddings"
        for distance, factor in (("near", 1), ("far", 2)):
            targets.append(
                _TARGET.format(
                    provider=f"{distance}-{workload.provider}",
                    model=model,
                    price=0.15 * factor,
                    output_price=0.6 * factor if is_chat else 0,
                    capabilities="chat" if is_chat else "embeddings",
                )
            )
        models.append(_MODEL.format(model=model, provider=workload.provider))
    file = folder / "router.yaml"
    file.write_text(
        _CONFIG.format(
            access_log=str(access_log).lower(),
            server="".join(f"  {name}: {value}\n" for name, value in (server or {}).items()),
            providers="".join(providers),
            targets="".join(targets),
            models="".join(models),
        )
    )
    return file


def create_key(config: Path, data: Path, *options: str) -> str:
    """A key with a hard budget of its own, and what further options give it."""
    command = ("keys", "create", "bench", "--budget", "1000000", "--config", str(config))
    printed = _tollway(*command, *options, data=data)
    found = _KEY.search(printed)
    if found is None:
        raise RuntimeError(f"'tollway keys create' printed no key: {printed!r}")
    return found[0]


@contextlib.contextmanager
def serve(
    data: Path,
    port: int,
    output: Path,
    *,
    config: Path | None = None,
    folder: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    workers: int = 1,
    command: Sequence[str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`tollway serve`, just started in `folder`; its output goes to a file.

    `command` is what takes the place of `tollway`, if anything.
    """
    command = [*(command or _tollway_command()), "serve"]
    command += ["--data", str(data), "--port", str(port)]
    command += ["--workers", str(workers)]
    if config is not None:
        command += ["--config", str(config)]
    with (
        output.open("ab") as file,
        _process(command, stdout=file, stderr=file, folder=folder, environ=environ) as process,
    ):
        try:
            yield process
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{output.read_text()[-2000:]}") from None


def wait_for_answer(
    process: subprocess.Popen[bytes],
    port: int,
    key: str = "none",
    workload: Workload | None = None,
    within_s: float = _START_S,
) -> float:
    """Ask until a workload, the JSON one, is answered; `time.monotonic()` of that moment."""
    workload = workload or all_workloads()["json"]
    return wait_for(process, port, "POST", workload.path, workload.body, key, within_s)


def wait_for(
    process: subprocess.Popen[bytes],
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    key: str = "none",
    within_s: float = _START_S,
) -> float:
    """Ask until the answer is 200; returns `time.monotonic()` of that moment.

    Raises `RuntimeError` where the process ends, or answers anything else for too long.
    """
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    give_up_at = time.monotonic() + within_s
    said = "nothing listens"
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within_s)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (ConnectionError, http.client.HTTPException) as error:
            said = str(error)
        else:
            if response.status == 200:
                return time.monotonic()
            said = f"{response.status} {answer.decode(errors='replace')}"
        finally:
            connection.close()
        time.sleep(0.001)
    raise RuntimeError(f"{process.args!r} does not answer: {said}")


def _tollway(*arguments: str, data: Path) -> str:
    command = [*_tollway_command(), *arguments, "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command!r} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _tollway_command() -> Sequence[str]:
    """The installed command; without an installation, the module behind it."""
    installed = Path(sys.executable).with_name("tollway")
    if installed.exists():
        return [str(installed)]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from proxy.cli import main; main()"
    return [sys.executable, "-c", program]


@contextlib.contextmanager
def _process(
    command: Sequence[str],
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = None,
    folder: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
