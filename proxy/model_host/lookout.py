"""Looks for models on this machine: in folders, and at servers that run here.

Nobody who is asked is trusted: to answer at all, in time, or with what should be answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import msgspec

from adapters import registry
from adapters.base import Adapter, AdapterError, ConnectFailed
from adapters.listing import Listed, listed
from policies.base import Capability
from proxy.accounts import make_adapter
from proxy.addresses import is_nearby
from proxy.config import LOCAL_FOLDER, LOCAL_SERVERS, LONGEST_NAME, Config, Provider
from proxy.inventory import (
    MOST_MODELS,
    NOTHING,
    FoundModel,
    FoundProvider,
    Inventory,
    readable,
)
from proxy.model_host import model_files
from proxy.model_host.aside import Background
from proxy.model_host.folders import Folders

_LIST_S = 2.0
# A server that computes may be late to answer; one that is late so often in a row is not there.
_MISSES = 3
# Reading the headers of many files takes longer than a start should: the rest is read afterwards.
_FIRST_FOLDERS_S = 0.3
_EARLY_FOLDERS_S = 1.0
_FOLDERS_S = 10.0
_CAPABILITIES = frozenset(get_args(Capability))
_TAGS = frozenset({"thinking"})
# What Ollama has at /v1 cuts long prompts in silence, so it is spoken to as it speaks itself.
_LOCAL_ADAPTERS = {
    "ollama": ("ollama", ""),
    "lmstudio": ("lm_studio", "/v1"),
    "llama-server": ("llama_server", "/v1"),
}


@dataclass(slots=True)
class _Server:
    """A server that is asked, and what it said last."""

    name: str
    provider: Provider
    by: str
    adapter: Adapter | None = None
    last: Sequence[Listed] = ()
    misses: int = 0

    async def ask(self) -> None:
        """Ask for its models; raises `StartError` for settings that cannot be."""
        if self.adapter is None:
            self.adapter = make_adapter(self.name, self.provider)
        try:
            async with asyncio.timeout(_LIST_S):
                self.last = await listed(self.adapter)
            self.misses = 0
        except ConnectFailed:
            self.last, self.misses = (), _MISSES
        except (AdapterError, TimeoutError):
            self.misses += 1
            if self.misses >= _MISSES:
                self.last = ()

    async def aclose(self) -> None:
        """Close idle connections; the next question opens others."""
        if self.adapter is not None:
            await self.adapter.aclose()
        self.adapter = None

    @property
    def is_mlx(self) -> bool:
        """Whether mlx-lm's server answers on llama-server's port.

        It says when its models were made, and not whose they are; no other does so.
        """
        told = self.last if self.name == "llama-server" else ()
        return bool(told) and all(model.created and not model.owner for model in told)

    @property
    def called(self) -> str:
        """Under which name it is found."""
        return "mlx" if self.is_mlx else self.name

    def found(self) -> FoundProvider:
        """What it has."""
        models = {m.name: _model(m) for m in self.last[:MOST_MODELS] if _is_fit(m.name)}
        return FoundProvider(
            name=self.called,
            adapter="mlx_server" if self.is_mlx else self.provider.adapter,
            by=self.by,
            base_url=self.provider.base_url,
            models=tuple(models.values()),
        )

    @property
    def is_known(self) -> bool:
        """Whether it is there or not, as far as can be told: one that is late once may be."""
        return bool(self.last) or self.misses == 0 or self.misses >= _MISSES

    @property
    def loaded(self) -> frozenset[str]:
        """What it has in memory."""
        name = self.called
        return frozenset(f"{name}/{m.name}" for m in self.last if m.is_loaded)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A folder with models of a provider, and files of its that the configuration names."""

    name: str
    by: str
    root: Path | None
    named: Mapping[str, Path]
    llama_server: str
    is_configured: bool = True


@dataclass(slots=True)
class Lookout:
    """Where to look, and what was seen last."""

    servers: list[_Server]
    places: list[_Place]
    configured: Mapping[str, Provider] = field(default_factory=dict)
    """The Ollama servers of the configuration, asked or not."""
    inventory: Inventory = NOTHING
    _folders: Folders = field(default_factory=Folders)
    _seen: tuple[FoundProvider, ...] = ()
    """What the folders had last."""
    _late: int = 0
    """How often in a row there was no time to see all of them."""
    _reading: Background[tuple[FoundProvider, ...]] = field(default_factory=Background)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at."""
        return not (self.servers or self.places or self.configured)

    @property
    def is_sure(self) -> bool:
        """Whether what is not in the inventory is not there."""
        is_late = 0 < self._late < _MISSES
        return not is_late and all(server.is_known for server in self.servers)

    def missing_folders(self) -> Iterator[tuple[str, Path]]:
        """Folders of the configuration that are not there (yet), with their providers."""
        for place in self.places:
            if place.is_configured and place.root is not None and not place.root.is_dir():
                yield place.name, place.root

    def go_on_from(self, before: Lookout) -> None:
        """Know what another one knew of the places that both look at."""
        known = {server.name: server for server in before.servers}
        for server in self.servers:
            other = known.get(server.name)
            if other is not None and other.provider == server.provider:
                server.last, server.misses = other.last, other.misses
        roots = {place.name: place.root for place in before.places}
        same = {place.name for place in self.places if roots.get(place.name) == place.root}
        self._seen = tuple(found for found in before._seen if found.name in same)
        self._folders = before._folders
        self._sum_up()

    def server(self, name: str) -> Provider | None:
        """The server of a provider, if there is one that is known here."""
        asked = {server.name: server.provider for server in self.servers}
        return asked.get(name) or self.configured.get(name)

    def first(self) -> Inventory:
        """Look before there is any process; blocks for two seconds where a server hangs."""
        self._seen = self._read_folders(_FIRST_FOLDERS_S)
        if self.servers:
            asyncio.run(self._ask_once())
        return self._sum_up()

    async def look(self) -> Inventory:
        """Look again."""
        asked = (server.ask() for server in self.servers)
        await asyncio.gather(self._look_into_folders(_FOLDERS_S), *asked)
        return self._sum_up()

    async def look_into_folders(self) -> Inventory:
        """Look again into the folders alone, for about a second."""
        await self._look_into_folders(_EARLY_FOLDERS_S)
        return self._sum_up()

    async def _look_into_folders(self, within_s: float) -> None:
        if not self.places:
            return
        read = await self._reading.run(lambda: self._read_folders(within_s), within_s + 1)
        if read is None:
            self._late += 1
        else:
            self._seen = read

    async def aclose(self) -> None:
        """Close connections."""
        for server in self.servers:
            await server.aclose()

    async def _ask_once(self) -> None:
        await asyncio.gather(*(server.ask() for server in self.servers))
        await self.aclose()

    def _sum_up(self) -> Inventory:
        found = [found for server in self.servers if (found := server.found()).models]
        self.inventory = Inventory(
            providers=(*found, *(place for place in self._seen if place.models)),
            loaded=frozenset[str]().union(*(server.loaded for server in self.servers)),
            tells_loading=frozenset(
                server.called
                for server in self.servers
                if any(model.is_loaded is not None for model in server.last)
            ),
            silent=frozenset(server.called for server in self.servers if server.misses),
        )
        return self.inventory

    def _read_folders(self, within_s: float) -> tuple[FoundProvider, ...]:
        before = {provider.name: provider for provider in self._seen}
        read, is_late = [], False
        for place in self.places:
            found = self._read(place, within_s)
            if self._folders.was_late:
                is_late = True
                found = _with_those_there(found, before.get(place.name))
            read.append(found)
        self._late = self._late + 1 if is_late else 0
        return tuple(read)

    def _read(self, place: _Place, within_s: float) -> FoundProvider:
        self._folders.was_late = False
        runtimes = model_files.installed(place.llama_server)
        named = {path.resolve() for path in place.named.values()}
        models = [
            model
            for name, path in place.named.items()
            if (model := self._folders.model(path, name, runtimes)) is not None
        ]
        if place.root is not None:
            models += (
                model
                for model in self._folders.models(place.root, runtimes, within_s=within_s)
                if Path(model.path).resolve() not in named
            )
        return FoundProvider(
            name=place.name,
            adapter="local",
            by=place.by,
            folder=None if place.root is None else str(place.root),
            models=tuple(models),
        )


def _with_those_there(now: FoundProvider, before: FoundProvider | None) -> FoundProvider:
    """What was seen before is there as long as its file is, though there was no time to see it."""
    if before is None:
        return now
    names = {model.name for model in now.models}
    there = (m for m in before.models if m.name not in names and Path(m.path).exists())
    return msgspec.structs.replace(now, models=(*now.models, *there))


def lookout(
    config: Config,
    environ: Mapping[str, str],
    *,
    local_servers: Mapping[str, int] = LOCAL_SERVERS,
    folder: Path = LOCAL_FOLDER,
) -> Lookout:
    """What a configuration has looked at."""
    servers = [
        _Server(name=name, provider=provider, by=_place_of(provider))
        for name, provider in config.providers.items()
        if f"{name}/*" in _targets(config) and _is_asked(provider)
    ]
    places = [
        place
        for name, provider in config.providers.items()
        if registry.is_hosted(provider.adapter)
        and (place := _configured_place(name, provider, config, environ)) is not None
    ]
    if config.discover:
        taken = {server.by for server in servers} | {
            _place_of(provider) for provider in config.providers.values() if provider.base_url
        }
        for name, port in local_servers.items():
            by = f"127.0.0.1:{port}"
            if name not in config.providers and port != config.server.port and by not in taken:
                servers.append(_Server(name=name, provider=_local(name, port), by=by))
        if "local" not in config.providers:
            places.append(
                _Place(
                    name="local",
                    by=f"{folder.name}/",
                    root=folder.absolute(),
                    named={},
                    llama_server=model_files.llama_server(None, environ),
                    is_configured=False,
                )
            )
    configured = {n: each for n, each in config.providers.items() if each.adapter == "ollama"}
    return Lookout(servers=servers, places=places, configured=configured)


def _targets(config: Config) -> set[str]:
    return {target.target for target in config.targets}


def _configured_place(
    name: str, provider: Provider, config: Config, environ: Mapping[str, str]
) -> _Place | None:
    root = Path(provider.folder or ".").expanduser().absolute()
    named = {
        model: root / Path(target.model or model).expanduser()
        for target in config.targets
        if (model := target.target.partition("/")[2]) != "*"
        and target.target.partition("/")[0] == name
    }
    scanned = root if f"{name}/*" in _targets(config) else None
    if scanned is None and not named:
        return None
    return _Place(
        name=name,
        by=f"{root.name}/",
        root=scanned,
        named=named,
        llama_server=model_files.llama_server(provider.llama_server, environ),
    )


def is_looked_at(provider: Provider) -> bool:
    """Whether the models of a configured provider are found: files, and servers nearby."""
    return registry.is_hosted(provider.adapter) or _is_asked(provider)


def _is_asked(provider: Provider) -> bool:
    """Whether it is a server nearby, which may be asked every now and then."""
    host = urlsplit(provider.base_url or "").hostname
    return provider.adapter == "ollama" or (host is not None and is_nearby(host))


def _place_of(provider: Provider) -> str:
    """Where a provider listens, for people, and to know it by."""
    url = provider.base_url or registry.base_url(provider.adapter) or ""
    place = urlsplit(url).netloc.rpartition("@")[2]
    return place.replace("localhost:", "127.0.0.1:").replace("[::1]:", "127.0.0.1:")


def _local(name: str, port: int) -> Provider:
    adapter, path = _LOCAL_ADAPTERS.get(name, ("openai_compatible", "/v1"))
    return Provider(adapter=adapter, base_url=f"http://127.0.0.1:{port}{path}")


def _is_fit(name: str) -> bool:
    """Whatever listens there is not the operator's word: names that mean more stay out."""
    return (
        name not in ("", "*")
        and name == name.strip()
        and name.isprintable()
        and ".." not in name
        and len(name) < LONGEST_NAME // 2
    )


def _model(told: Listed) -> FoundModel:
    can = told.capabilities
    return FoundModel(
        name=told.name,
        capabilities=None
        if can is None
        else msgspec.convert(can & _CAPABILITIES, frozenset[Capability]),
        tags=frozenset() if can is None else can & _TAGS,
        context_length=told.context_length,
        architecture=readable(told.architecture),
        parameters=told.parameters,
        quantisation=readable(told.quantisation),
        size_bytes=told.size_bytes,
        changed_at=told.changed_at,
    )
