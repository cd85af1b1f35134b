"""The models in folders: found by their files, whatever else is there.

What was read of a file is remembered until the file changes, so that a second look reads nothing.
It may hang where a file system does: call it in a thread of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proxy.config import LONGEST_NAME
from proxy.inventory import MOST_MODELS, FoundModel, readable
from proxy.model_host import model_files
from proxy.model_host.model_files import Runtimes

# How deep models may lie, how many entries are looked at, and for how long.
_DEEPEST = 5
_MOST_ENTRIES = 20_000
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folder:
    path: Path
    files: Mapping[str, os.stat_result]


class Folders:
    """What there is in folders, and what is known of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[_Stamp, FoundModel]] = {}
        self.was_late = False
        """Whether the last look came to its end by time, and more may be there."""

    def models(self, root: Path, runtimes: Runtimes, *, within_s: float) -> tuple[FoundModel, ...]:
        """The models below a folder, with the reason where one cannot be used; never raises.

        What cannot be read within the time is left for the next look.
        """
        ends_at = self._clock() + within_s
        self.was_late = False
        found: dict[str, FoundModel] = {}
        for folder in self._walk(root, ends_at):
            for path, stamp in _models_in(folder):
                if len(found) >= MOST_MODELS or self._is_late(ends_at):
                    return tuple(found.values())
                name = _name(path, root)
                if name is not None:
                    model = self._described(path, name, stamp, runtimes)
                    found[name] = self._with_projector(model, folder)
        if not self.was_late:
            self._forget_but(root, {model.path for model in found.values()})
        return tuple(sorted(found.values(), key=lambda model: model.name))

    def _is_late(self, ends_at: float) -> bool:
        self.was_late = self._clock() > ends_at
        return self.was_late

    def _forget_but(self, root: Path, there: set[str]) -> None:
        gone = [path for path in self._known if Path(path).is_relative_to(root)]
        for path in set(gone) - there:
            del self._known[path]

    def model(self, path: Path, name: str, runtimes: Runtimes) -> FoundModel | None:
        """One file or folder; None where nothing can be said of it."""
        try:
            stamp = _stamp([path] if path.is_file() else sorted(path.iterdir()))
            model = self._described(path, name, stamp, runtimes)
        except OSError:
            return None
        return msgspec.structs.replace(model, name=name)

    def _described(self, path: Path, name: str, stamp: _Stamp, runtimes: Runtimes) -> FoundModel:
        known = self._known.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            if path.suffix == ".gguf":
                model = model_files.describe_gguf(path, name, runtimes)
            else:
                model = model_files.describe_folder(path, name, runtimes)
        except OSError as error:
            model = FoundModel(name=name, path=str(path), problem=error.strerror or "unreadable")
        except ValueError as error:
            model = FoundModel(name=name, path=str(path), problem=_in_one_line(error, path))
        model = msgspec.structs.replace(
            model,
            architecture=readable(model.architecture),
            quantisation=readable(model.quantisation),
        )
        self._known[str(path)] = stamp, model
        return model

    def _with_projector(self, model: FoundModel, folder: _Folder) -> FoundModel:
        """A model that alone in its folder lies beside a projector sees with it."""
        others = [name for name in folder.files if name.endswith(".gguf")]
        if model.problem or len(others) != 2 or model.backend != "llama_server":
            return model
        (other,) = (name for name in others if folder.path / name != Path(model.path))
        if not model_files.is_projector(folder.path / other) or model.capabilities is None:
            return model
        return msgspec.structs.replace(
            model,
            capabilities=model.capabilities | {"vision"},
            projector=str(folder.path / other),
        )

    def _walk(self, root: Path, ends_at: float) -> Iterator[_Folder]:
        """The folder and those below, each once, however links lead there."""
        seen: set[tuple[int, int]] = set()
        waiting = [(root, 0)]
        entries = 0
        while waiting:
            path, depth = waiting.pop()
            try:
                stat = path.stat()
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
                files: dict[str, os.stat_result] = {}
                below: list[Path] = []
                with os.scandir(path) as listed:
                    for entry in listed:
                        entries += 1
                        if entries > _MOST_ENTRIES or self._is_late(ends_at):
                            return
                        _sort_in(entry, files, below)
            except OSError:
                continue
            yield _Folder(path=path, files=files)
            if depth < _DEEPEST and not model_files.is_model_folder(tuple(files)):
                waiting += ((each, depth + 1) for each in sorted(below, reverse=True))


def _sort_in(entry: os.DirEntry[str], files: dict[str, os.stat_result], below: list[Path]) -> None:
    if entry.name.startswith("."):
        return
    try:
        if entry.is_dir():
            below.append(Path(entry.path))
        elif entry.is_file():  # neither a pipe nor a device: reading those may never end
            files[entry.name] = entry.stat()
    except OSError:
        return


def _models_in(folder: _Folder) -> Iterator[tuple[Path, _Stamp]]:
    """The models of one folder, and what changes when they do."""
    names = sorted(folder.files)
    if model_files.is_model_folder(names):
        yield folder.path, tuple(_mark(name, folder.files[name]) for name in names)
        return
    for name in names:
        if not name.endswith(".gguf"):
            continue
        split = model_files.split_of(name)
        if split is None:
            yield folder.path / name, (_mark(name, folder.files[name]),)
        elif split[1] == 1:
            parts = [each for each in names if each.startswith(f"{split[0]}-")]
            yield folder.path / name, tuple(_mark(each, folder.files[each]) for each in parts)


def _stamp(paths: list[Path]) -> _Stamp:
    return tuple(_mark(path.name, path.stat()) for path in paths)


def _mark(name: str, stat: os.stat_result) -> tuple[str, int, int]:
    return name, stat.st_size, stat.st_mtime_ns


def _name(path: Path, root: Path) -> str | None:
    """What a model is called: where it lies, without its ending; None for what no name can be."""
    below = path.relative_to(root)
    split = model_files.split_of(path.name)
    stem = split[0] if split else path.name.removesuffix(".gguf")
    name = (below.parent / stem).as_posix() if below.parts else path.name
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    is_fit = name.isprintable() and name == name.strip() and ".." not in name and "*" not in name
    return name if is_fit and 0 < len(name) < LONGEST_NAME // 2 else None


def _in_one_line(error: ValueError, path: Path) -> str:
    said = " ".join(str(error).removeprefix(f"{path}: ").split())
    return readable(said, 200) or "is damaged"
