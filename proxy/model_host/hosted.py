"""Which local models are configured, and how the process of each is started."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters import registry
from proxy.config import Backend, Config, Provider, Target
from proxy.errors import StartError
from proxy.inventory import FoundModel, Inventory
from proxy.model_host import gpu, memory, model_files
from proxy.model_host.core import Group, Need
from proxy.model_host.lookout import Lookout
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


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A local model: what it needs, and what follows `python -m` to serve it."""

    need: Need
    backend: Backend
    arguments: Sequence[str]
    files: Sequence[Path] = ()
    """All that it reads."""
    program: str | None = None
    """What its backend runs, where that is a program of the operator's."""

    @property
    def name(self) -> str:
        """The target's."""
        return self.need.name


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """What the model host needs to know; made before it is forked."""

    models: Sequence[HostedModel]
    memory_bytes: int
    gpu_memory_bytes: int
    """0 where no GPU has memory of its own: whatever models need is of the same memory then."""
    max_loaded: int
    groups: Sequence[Group]
    ttl_s: float
    collate_s: float
    queue: int
    preload: Sequence[str]
    validation_s: float
    load_timeout_s: float
    health_s: float
    discovery_s: float = 30.0
    lookout: Lookout | None = None
    """What looks for models; None where there is nothing to look at."""
    found: Callable[[Inventory], Sequence[HostedModel]] = lambda inventory: ()
    """Those of what was found that run here."""


def plan(
    config: Config,
    table: TargetTable,
    environ: Mapping[str, str],
    *,
    lookout: Lookout | None = None,
    found: Callable[[Inventory], Sequence[HostedModel]] = lambda inventory: (),
) -> HostPlan | None:
    """The local models of a configuration, and where to look for more.

    None where there is neither. Raises `StartError`.
    """
    targets = [
        (target, config.providers[provider])
        for target in config.targets
        if registry.is_hosted(config.providers[provider := target.target.partition("/")[0]].adapter)
        and not target.target.endswith("/*")
    ]
    if lookout is not None and lookout.is_idle:
        lookout = None
    if not targets and lookout is None:
        return None
    gpu_bytes = _gpu_bytes(config)
    models = [
        _hosted(target, provider, table, environ, has_gpu_memory=gpu_bytes > 0)
        for target, provider in targets
    ]
    room = idle(config)
    return replace(room, models=models, gpu_memory_bytes=gpu_bytes, lookout=lookout, found=found)


def idle(config: Config) -> HostPlan:
    """The plan of a host that has no models and looks for none, any more."""
    host = config.host
    share = memory.installed_bytes() * 3 // 4
    return HostPlan(
        models=(),
        memory_bytes=share if host.memory_mb is None else host.memory_mb << 20,
        gpu_memory_bytes=0,
        groups=tuple(
            Group(
                models=frozenset(group.targets),
                max_loaded=group.max_loaded,
                exclusive=group.exclusive,
            )
            for group in host.groups.values()
        ),
        max_loaded=host.max_loaded,
        ttl_s=host.ttl_s,
        collate_s=host.collate_s,
        queue=host.queue,
        preload=tuple(host.preload),
        validation_s=host.validation_s,
        load_timeout_s=host.load_timeout_s,
        health_s=host.health_s,
        discovery_s=host.discovery_s,
    )


def _gpu_bytes(config: Config) -> int:
    if config.host.gpu_memory_mb is not None:
        return config.host.gpu_memory_mb << 20
    return gpu.installed_bytes() * 9 // 10


def found(
    config: Config,
    table: TargetTable,
    facts: Mapping[str, FoundModel],
    environ: Mapping[str, str],
) -> Sequence[HostedModel]:
    """The local models among what was found; without those that went away meanwhile."""
    # Who asks runs in an event loop, and asking for a GPU's memory takes a program's time.
    has_gpu_memory = any(each.needs_gpu_mb for each in config.targets) and _gpu_bytes(config) > 0
    models = []
    for target in config.targets:
        provider = config.providers[target.target.partition("/")[0]]
        if target.target in facts and registry.is_hosted(provider.adapter):
            projector = facts[target.target].projector
            with contextlib.suppress(StartError, OSError):
                models.append(
                    _hosted(
                        target,
                        provider,
                        table,
                        environ,
                        has_gpu_memory=has_gpu_memory,
                        projector=projector,
                    )
                )
    return models


def _hosted(
    target: Target,
    provider: Provider,
    table: TargetTable,
    environ: Mapping[str, str],
    *,
    has_gpu_memory: bool,
    projector: str = "",
) -> HostedModel:
    backend = target.backend or "llama_server"
    concurrency = target.concurrency or _CONCURRENCY[backend]
    path = _path(target, provider)
    files = _files(path)
    known = table.targets[target.target]
    # In one piece: the name of a file may begin as an option does.
    arguments = [_MODULES[backend], f"--name={known.model}", "--model", str(path), "--port", "0"]
    if known.context_length is not None:
        arguments += ["--context", str(known.context_length)]
    if "embeddings" in known.capabilities:
        arguments.append("--embeddings")
    if target.gpu_layers is not None:
        arguments += ["--gpu-layers", str(target.gpu_layers)]
    program = None
    if backend == "llama_server":
        program = _llama_server(target.target, provider, environ)
        arguments += ["--parallel", str(concurrency), "--binary", program]
        if projector:
            arguments += ["--projector", projector]
    if target.kept_prompts_mb is not None:
        arguments += ["--kept-prompts-mb", str(target.kept_prompts_mb)]
    size = target.needs_mb << 20 if target.needs_mb is not None else _estimate(files)
    gpu_size = (target.needs_gpu_mb or 0) << 20
    return HostedModel(
        need=Need(
            name=target.target,
            bytes=size if has_gpu_memory else size + gpu_size,
            gpu_bytes=gpu_size if has_gpu_memory else 0,
            concurrency=concurrency,
            pinned=target.pinned,
        ),
        backend=backend,
        arguments=arguments,
        files=files,
        program=program,
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
    named = model_files.llama_server(provider.llama_server, environ)
    found = shutil.which(Path(named).expanduser(), path=environ.get("PATH"))
    if found is None:
        raise StartError(
            f"{name}: there is no program {named!r}; install llama.cpp, or name its llama-server "
            "with 'llama_server' of the provider or LLAMA_SERVER"
        )
    return str(Path(found).resolve())


def _estimate(files: Sequence[Path]) -> int:
    """What a model takes in memory, going by its files; corrected by what it really takes."""
    size = sum(file.stat().st_size for file in files if file.exists())
    return size + size // _WORKING_PART + _OVERHEAD_BYTES


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return model_files.parts_of(path)  # what is missing is told before a load
