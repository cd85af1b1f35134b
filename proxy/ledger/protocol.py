"""What workers, the command line and the ledger say to each other.

A frame is a 4-byte big-endian length and that many bytes of MessagePack: from a client a list of
`Op`s, from the ledger a list of `Reply`s. The ops of one frame are applied in order and in one
transaction; nothing is answered before that transaction is on the disk.

A worker opens with `Hello`, gets a session number, and numbers its attempts
`session << 32 | counter`, ascending. It may say `Hello` again with that session after the ledger
was restarted, and then repeats every op that was not yet acknowledged: each is idempotent.

Money is integer nano-USD, times are Unix seconds. The bounds of the numbers are part of the
format: a frame that breaks one is malformed, and the ledger closes the connection it came from.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

ATTEMPT_BITS = 32

MAX_FRAME_BYTES = 1 << 26
"""Far above any frame that is meant: what announces more is not speaking this protocol."""

MAX_LIMIT_NANOUSD = 10**16
"""The largest limit a budget can have: ten million dollars a window."""

MAX_AMOUNT_NANOUSD = 2 * MAX_LIMIT_NANOUSD
"""The most an attempt can hold or cost. No hard budget can admit it, and sums stay in 64 bits."""

MAX_COUNT = 2**62

Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_NANOUSD)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=MAX_LIMIT_NANOUSD)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""Every other integer that is stored: tokens, durations, times, numbers."""

Outcome = Literal[
    "ok",  # answered in full, usage from the provider
    "client_gone",  # the client left; usage from the provider if it came, else estimated
    "upstream_error",  # the provider answered with an error before any payload
    "broken",  # the answer broke after its first payload had left
    "timeout",
    "not_dispatched",  # held, but no byte left for the provider
    "orphan",  # its worker died; settled by the ledger at its last known progress
]
Window = Literal["day", "week", "month", "lifetime"]
Mode = Literal["hard", "soft"]


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens as OpenAI counts them: `input` includes `cached`, `output` includes `reasoning`."""

    input: Count = 0
    cached: Count = 0
    output: Count = 0
    reasoning: Count = 0


class Settlement(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What an attempt cost. `estimated` where the provider reported no usage."""

    attempt: Count
    outcome: Outcome
    cost_nanousd: Amount
    usage: Usage
    estimated: bool
    status: Count
    """HTTP status the provider answered with; 0 where it did not answer."""
    first_token_us: Count | None
    """Microseconds from dispatch to the first payload; None where none came."""
    total_us: Count
    """Microseconds from dispatch to the end."""
    error: str = ""


class Attempt(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A hold that is asked for, with all that its row will say."""

    attempt: Count
    request_id: str
    number: Count
    """1 for a request's first attempt, 2 for its first fallback …"""
    endpoint: str
    key_id: str
    """Empty for the anonymous caller."""
    virtual_model: str
    """Empty where the client named a target."""
    target: str
    provider: str
    policy: str
    route_reason: str
    scopes: tuple[str, ...]
    """Every scope whose budgets apply, e.g. `("global", "key:k_1a2b")`."""
    hold_nanousd: Amount
    floor_nanousd: Amount
    """What it has cost at least if the worker dies now: the orphan's settlement."""
    deadline: Count
    """When an orphan's uncertain remainder is released, Unix seconds."""
    revision: Count = 0
    priced: bool = True
    """False where the target has no known price: refused by every hard budget."""


# --- from a client -----------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Opens a connection. A worker names itself; `session` is 0 or the one to resume."""

    role: Literal["worker", "client"]
    name: str
    session: Count = 0


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Hold money for `attempt`; `settles` is the attempt it falls back from, settled with it.

    The settlement comes first and stands even where the hold is then refused.
    """

    seq: Count
    attempt: Attempt
    settles: Settlement | None = None
    may_wait: bool = True
    """Whether it may wait for money that is only held; otherwise it is refused at once."""


class Settle(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Replace a hold by its cost. Never forces a commit of its own.

    Settling twice changes nothing, except for an attempt that the ledger itself had settled as an
    `orphan`: the first settlement from its worker becomes a correction. One of an attempt that is
    not on record is acknowledged as well, and logged: without an answer it would be repeated for
    ever.
    """

    seq: Count
    settlement: Settlement


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Heartbeat: (attempt, floor) of each open attempt that has moved. Not acknowledged."""

    floors: tuple[tuple[Count, Amount], ...]


class KeyBudget(msgspec.Struct, frozen=True, array_like=True):
    """The hard budget a key is made with, by the days of UTC."""

    window: Window
    limit_nanousd: Limit


class CreateKey(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Make a key. `digest` is its HMAC; the key itself never reaches the ledger."""

    seq: Count
    digest: bytes
    name: str
    hint: str
    """The key's first and last characters, to tell keys apart in lists."""
    models: tuple[str, ...] = ()
    """Names the key may ask for; empty is all."""
    budget: KeyBudget | None = None
    """Made with the key, or neither is."""


class UpdateKey(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Change a key; None leaves a field as it is. A revoked key stays revoked."""

    seq: Count
    key_id: str
    name: str | None = None
    models: tuple[str, ...] | None = None
    revoked: bool = False


class CreateBudget(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Set a limit on a scope over a window; `timezone` (IANA) says when a calendar day turns.

    A new budget counts from its creation: what its scope spent earlier in the window is not in it.
    """

    seq: Count
    scope: str
    window: Window
    limit_nanousd: Limit
    mode: Mode = "hard"
    timezone: str = "UTC"


class UpdateBudget(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Change a budget; None leaves a field as it is. `deleted` ends it, its rows stay."""

    seq: Count
    budget_id: Count
    limit_nanousd: Limit | None = None
    mode: Mode | None = None
    deleted: bool = False


class ConfigBudget(msgspec.Struct, frozen=True, array_like=True):
    """A budget as `router.yaml` or the built-in default states it."""

    scope: str
    window: Window
    limit_nanousd: Limit
    mode: Mode = "hard"
    timezone: str = "UTC"


class ApplyConfig(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Make the `managed: config` budgets exactly these; balances of those that stay are kept."""

    seq: Count
    budgets: tuple[ConfigBudget, ...]
    revision: Count = 0


class ListBudgets(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Ask for every budget with the balance of its window that is open now."""

    seq: Count


AdminOp = CreateKey | UpdateKey | CreateBudget | UpdateBudget | ApplyConfig | ListBudgets
"""What operators ask for; answered by an `AdminReply` or `Failed`."""

Op = Hello | Reserve | Settle | Progress | AdminOp


# --- from the ledger ---------------------------------------------------------------------------


class KeyRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A key as workers know it."""

    key_id: str
    digest: bytes
    name: str
    hint: str
    models: tuple[str, ...]
    created_at: int
    revoked_at: int | None


class BudgetState(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A budget and the balance of its open window. `opens_at` is when the next one begins."""

    budget_id: int
    scope: str
    window: Window
    timezone: str
    limit_nanousd: int
    mode: Mode
    managed: Literal["api", "config"]
    spent_nanousd: int
    held_nanousd: int
    overrun_nanousd: int
    starts_at: int | None
    opens_at: int | None
    created_at: int


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Answers `Hello`: the session, and every key there is."""

    session: int
    keys: tuple[KeyRecord, ...]


class Reserved(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The hold is on the disk.

    `remaining_nanousd` is what the tightest hard budget has left; None where no hard one applies.
    """

    seq: int
    remaining_nanousd: int | None


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """No hold was made. `budget` is the one that refused, None for `key_revoked`.

    `held` is True where only open holds are in the way: spent money alone would let it in.
    """

    seq: int
    reason: Literal["budget", "unpriced", "key_revoked"]
    budget: BudgetState | None
    needed_nanousd: int
    held: bool = False


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The settlement is on the disk (also where an earlier copy of it already was)."""

    seq: int


class KeyChanged(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Pushed to every connection when a key was made or changed; `seq` answers whoever asked."""

    key: KeyRecord
    seq: int = 0


class Budgets(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Answers `ListBudgets`, and with the one budget concerned `CreateBudget`, `UpdateBudget`."""

    seq: int
    budgets: tuple[BudgetState, ...]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The op was not carried out, the rest of its frame was; `unavailable`: nothing of it was."""

    seq: int
    code: Literal["not_found", "conflict", "invalid", "unavailable"]
    message: str


AdminReply = KeyChanged | Budgets

Reply = Welcome | Reserved | Refused | Settled | AdminReply | Failed
