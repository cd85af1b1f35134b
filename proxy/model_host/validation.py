"""What can be said of a model before it is loaded: its files, its program, the memory that is left.

What is wrong here is refused in one line at once, and not only after half a load.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import msgspec

from adapters.children import gguf
from proxy.model_host import gpu, memory
from proxy.model_host.core import Need
from proxy.model_host.hosted import HostedModel

_HEADER = struct.Struct("<Q")
_LONGEST_HEADER = 100 << 20
_json_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Unfit(Exception):
    """The model cannot be loaded now; in one line why."""


Stamp = tuple[tuple[int, int, int] | None, ...]
"""What tells files from others in their place."""


def check(model: HostedModel) -> Stamp:
    """Its files as they are now; raises `Unfit`, and may block for as long as its disk does."""
    stamp = _stamp(model)
    for path in model.files:
        _check_file(path)
    if model.program is not None and not os.access(model.program, os.X_OK):
        raise Unfit(f"{model.program}: is no program that may be run; correct 'llama_server'")
    _check_room(model.need)
    _check_port()
    return stamp


def is_replaced(model: HostedModel, loaded: Stamp) -> bool:
    """Whether others lie in the place of the files that were loaded, whole; may block likewise."""
    if _stamp(model) == loaded:
        return False
    try:
        for path in model.files:
            _check_file(path)
    except Unfit:  # they are gone, or still being written: what is loaded serves on
        return False
    return True


def _stamp(model: HostedModel) -> Stamp:
    return tuple(map(_mark, model.files))


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _check_file(path: Path) -> None:
    try:
        if path.suffix == ".gguf":
            gguf.metadata(path)
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.name == "config.json":
            _json_object.decode(path.read_bytes())
        else:
            path.open("rb").close()
    except OSError as error:
        raise Unfit(f"{path}: cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise Unfit(f"{path}: is no JSON object ({error})") from None
    except ValueError as error:
        raise Unfit(f"{path}: {str(error).removeprefix(f'{path}: ')}; get it again") from None


def _check_safetensors(path: Path) -> None:
    """Source: the format's README: the length of a JSON header, the header, the numbers."""
    with path.open("rb") as file:
        beginning = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
        if len(beginning) < _HEADER.size:
            raise ValueError("is cut or damaged")
        (length,) = _HEADER.unpack(beginning)
        if length > min(size - _HEADER.size, _LONGEST_HEADER) or file.read(1) != b"{":
            raise ValueError("is cut or damaged")


def _check_room(need: Need) -> None:
    available = memory.available_bytes()
    if available is not None and need.bytes > available:
        raise Unfit(
            f"it needs {need.bytes >> 20} MB, and the machine has "
            f"{available >> 20} MB of memory left"
        )
    free = gpu.available_bytes() if need.gpu_bytes else None
    if free is not None and need.gpu_bytes > free:
        raise Unfit(
            f"it needs {need.gpu_bytes >> 20} MB of GPU memory, and {free >> 20} MB are left"
        )


def _check_port() -> None:
    """Its process listens on a loopback port, and takes file descriptors as this one does."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        raise Unfit(f"there is no loopback port to listen on ({error.strerror})") from None
