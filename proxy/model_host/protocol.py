"""What workers and the model host say to each other, in the frames that the ledger uses too."""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.inventory import NOTHING, Inventory
from proxy.ledger.frames import FrameReader
from proxy.model_host.core import Phase, Reason

SOCKET = "model-host"
"""The name of the host's socket in the data folder."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Ask(_Message, frozen=True):
    """A worker wants to use a model; answered by `Granted` or `Refused`, however long it takes.

    Where it does not wait for a load, it is refused, and the model is loaded all the same.
    """

    seq: int
    model: str
    waits: bool = True


class Done(_Message, frozen=True):
    """What was asked for under this number is no longer needed, granted or not.

    It tells of answers of the model that were not told of yet: their output tokens, and how long
    they took.
    """

    seq: int
    tokens: int = 0
    seconds: float = 0.0


class Retire(_Message, frozen=True):
    """Unload a model as soon as nobody uses it; not answered. A later `Ask` loads it again."""

    model: str


class Watch(_Message, frozen=True):
    """Tell what is found on this machine: once there is anything to tell, and whenever it changes.

    Answered by any number of `Found`.
    """

    seq: int


class Pull(_Message, frozen=True):
    """Have a server fetch a model; answered by `Pulled`, at once.

    Asked again it does not begin again, but tells how far it is. One that failed begins again.
    """

    seq: int
    provider: str
    model: str


class Look(_Message, frozen=True):
    """How do things stand? Answered by `Shown`."""

    seq: int


class Granted(_Message, frozen=True):
    """The model is loaded and may be used, at this address with this key, until `Done`."""

    seq: int
    url: str
    key: str
    backend: str


class Refused(_Message, frozen=True):
    """The model cannot be had."""

    seq: int
    reason: Reason
    message: str
    retry_s: float


class ModelState(_Message, frozen=True):
    """One model: what it takes (its process, as measured), and who is there for it."""

    name: str
    backend: str
    state: Phase
    bytes: int
    gpu_bytes: int
    pinned: bool
    concurrency: int
    users: int
    waiting: int
    loads: int
    load_s: float
    """How long the last load took that went well; 0 before."""
    pid: int
    """Of its process; 0 where there is none."""
    problem: str
    """Why the last load failed; empty where it did not."""
    tokens_per_s: float
    """Output tokens of its latest answers; 0 before the first."""

    @property
    def is_there(self) -> bool:
        """Whether it takes up room."""
        return self.state != "absent"


PullState = Literal["running", "done", "failed"]


class PullShown(_Message, frozen=True):
    """A model that a server was told to fetch, and how far it is. Bytes are 0 if not told."""

    provider: str
    model: str
    state: PullState
    status: str
    """In the server's own words; where it failed, why."""
    done_bytes: int
    total_bytes: int


class Shown(_Message, frozen=True):
    """All local models, and the memory they have together."""

    seq: int
    memory_bytes: int
    taken_bytes: int
    gpu_memory_bytes: int
    taken_gpu_bytes: int
    max_loaded: int
    models: tuple[ModelState, ...]
    inventory: Inventory = NOTHING
    """What was found, here and at servers nearby."""
    pulls: tuple[PullShown, ...] = ()


class Found(_Message, frozen=True):
    """What is on this machine as of now, by the number of the `Watch` that wants to know."""

    seq: int
    revision: int
    inventory: Inventory


class Pulled(_Message, frozen=True):
    """How a pull stands; `problem` says why there is none, and is empty where there is one."""

    seq: int
    problem: str
    pull: PullShown | None = None


Op = Ask | Done | Retire | Watch | Pull | Look
Reply = Granted | Refused | Shown | Found | Pulled


def op_reader() -> FrameReader[Op]:
    """Reads what workers send."""
    return FrameReader(msgspec.msgpack.Decoder(list[Op]))


def reply_reader() -> FrameReader[Reply]:
    """Reads what the host sends."""
    return FrameReader(msgspec.msgpack.Decoder(list[Reply]))
