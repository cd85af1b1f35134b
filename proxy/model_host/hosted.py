"""Which local models are configured, and how the process of each is started."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import registry
from proxy.config import Backend, Config, Provider, Target
from proxy.errors import StartError
from proxy.model_host import memory
from proxy.model_host.core import Need
from proxy.targets import TargetTable

_MODULES: Mapping[Backend, str] = {
    "llama_server": "adapters.children.llama_server",
    "llama_cpp": "adapters.children.llama_cpp",
    "mlx": "adapters.children.mlx",
    "minilm": "adapters.children.minilm",
}
# How many requests each takes at a time, unless the configuration says otherwise.
_CONCURRENCY: Mapping[Backend, int] = {
    "llama_server": 4,
    "llama_cpp": 1,
    "mlx": 1,
    "minilm": 4,
}
# What a process takes besides its model, and besides that part of it for what it computes with.
_OVERHEAD_BYTES = 128 << 20
_WORKING_PART = 4
# The first of several files that make up one model, as llama.cpp's `gguf-split` names them.
_SPLIT = re.compile(r"(.*)-00001-of-([0-9]{5})\.gguf")


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A local model: what it needs, and what follows `python -m` to serve it."""

    need: Need
    backend: Backend
    arguments: Sequence[str]

    @property
    def name(self) -> str:
        """The target's."""
        return self.need.name


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """What the model host needs to know; made before it is forked."""

    models: Sequence[HostedModel]
    memory_bytes: int
    max_loaded: int
    ttl_s: float
    collate_s: float
    queue: int
    preload: Sequence[str]
    load_timeout_s: float
    health_s: float


def plan(config: Config, table: TargetTable, environ: Mapping[str, str]) -> HostPlan | None:
    """The local models of a configuration; None where there are none. Raises `StartError`."""
    models = [
        _hosted(target, config.providers[provider], table, environ)
        for target in config.targets
        if registry.is_hosted(config.providers[provider := target.target.partition("/")[0]].adapter)
    ]
    if not models:
        return None
    host = config.host
    share = memory.installed_bytes() * 3 // 4
    return HostPlan(
        models=models,
        memory_bytes=share if host.memory_mb is None else host.memory_mb << 20,
        max_loaded=host.max_loaded,
        ttl_s=host.ttl_s,
        collate_s=host.collate_s,
        queue=host.queue,
        preload=tuple(host.preload),
        load_timeout_s=host.load_timeout_s,
        health_s=host.health_s,
    )


def _hosted(
    target: Target, provider: Provider, table: TargetTable, environ: Mapping[str, str]
) -> HostedModel:
    backend = target.backend or "llama_server"
    concurrency = target.concurrency or _CONCURRENCY[backend]
    path = _path(target, provider)
    known = table.targets[target.target]
    arguments = [_MODULES[backend], "--model", str(path), "--name", known.model, "--port", "0"]
    if known.context_length is not None:
        arguments += ["--context", str(known.context_length)]
    if "embeddings" in known.capabilities:
        arguments.append("--embeddings")
    if backend == "llama_server":
        binary = _llama_server(target.target, provider, environ)
        arguments += ["--parallel", str(concurrency), "--binary", binary]
    if target.kept_prompts_mb is not None:
        arguments += ["--kept-prompts-mb", str(target.kept_prompts_mb)]
    return HostedModel(
        need=Need(
            name=target.target,
            bytes=target.needs_mb << 20 if target.needs_mb is not None else _estimate(path),
            concurrency=concurrency,
            pinned=target.pinned,
        ),
        backend=backend,
        arguments=arguments,
    )


def _path(target: Target, provider: Provider) -> Path:
    named = target.model or target.target.partition("/")[2]
    path = Path(provider.folder or ".").expanduser() / Path(named).expanduser()
    if not path.exists():
        raise StartError(
            f"{target.target}: there is no file or folder {str(path)!r}; "
            "correct 'model' of the target, or 'folder' of its provider"
        )
    return path.resolve()


def _llama_server(name: str, provider: Provider, environ: Mapping[str, str]) -> str:
    named = provider.llama_server or environ.get("LLAMA_SERVER") or "llama-server"
    found = shutil.which(Path(named).expanduser(), path=environ.get("PATH"))
    if found is None:
        raise StartError(
            f"{name}: there is no program {named!r}; install llama.cpp, or name its llama-server "
            "with 'llama_server' of the provider or LLAMA_SERVER"
        )
    return str(Path(found).resolve())


def _estimate(path: Path) -> int:
    """What a model takes in memory, going by its files; corrected by what it really takes."""
    size = sum(file.stat().st_size for file in _files(path))
    return size + size // _WORKING_PART + _OVERHEAD_BYTES


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    split = _SPLIT.fullmatch(path.name)
    if split is None:
        return [path]
    return sorted(path.parent.glob(f"{split[1]}-*-of-{split[2]}.gguf"))
