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

from typing import Annotated, Any, Literal

import msgspec

from proxy.swaps.core import Plan, Swap

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
    "capped",  # cut by us while it streamed: a budget had no more for it
    "upstream_error",  # the provider answered with an error before any payload
    "broken",  # the answer broke after its first payload had left
    "timeout",
    "not_dispatched",  # held, but no byte left for the provider
    "cancelled",  # by us: another attempt of the same request has answered
    "orphan",  # its worker died; settled by the ledger at its last known progress
]
Window = str
"""`day`, `week`, `month`, `quarter`, `year`, `lifetime`, or a rolling duration such as `5h`, `30d`.

Which texts are windows is told by `proxy.budgets.window_problem`.
"""
Mode = Literal["hard", "soft"]
Holds = Literal["sliced", "full"]
"""`sliced`: streams that can be metered hold a little, and more as they flow; `full`: all of it."""

AtCap = Literal["downgrade", "stop", "finish"]
"""What a key wants where a budget ends.

`downgrade` goes on to cheaper targets of the virtual model, `stop` refuses at once; both cut a
metered stream when no more can be held. `finish` holds every request's maximum before it begins.
"""


Metric = Literal["thumbs", "task_completed", "score"]
"""What a caller may say of an answer; each in millionths of what the best one is worth."""

MILLION = 1_000_000

JUDGE = "judge"
"""Why the attempt is made that is asked what other answers are worth, and answers no client."""

AlertKind = Literal["budget", "overrun", "unpriced", "drift", "swap", "errors", "latency"]


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens as OpenAI counts them: `input` includes `cached`, `output` includes `reasoning`.

    `cache_write` is part of `input` as well, and includes `cache_write_1h`.
    """

    input: Count = 0
    cached: Count = 0
    output: Count = 0
    reasoning: Count = 0
    cache_write: Count = 0
    cache_write_1h: Count = 0


class Settlement(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
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
    uncertain_nanousd: Amount = 0
    """What it may yet turn out to have cost beyond `cost_nanousd`, for an estimate.

    That much of its hold stays until the attempt's deadline, or until a correction.
    """


class Attempt(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
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
    """The most it can cost."""
    floor_nanousd: Amount
    """What it has cost at least if the worker dies now: the orphan's settlement."""
    deadline: Count
    """When an orphan's uncertain remainder is released, Unix seconds."""
    revision: Count = 0
    priced: bool = True
    """False where the target has no known price: refused by every hard budget."""
    least_nanousd: Amount | None = None
    """What it can begin with, where it can be metered: input and a slice of the output.

    None where the whole has to be held.
    """
    tokens: Count = 0
    """Input and maximum output as far as they are known: counts for token rates until settled."""
    decision: str = ""
    """What the decision is called that it was routed by; empty where a target was named."""
    task: str = ""
    """What kind of work the request was taken to be; empty where nobody looked."""


# --- from a client -----------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Opens a connection. A worker names itself; `session` is 0 or the one to resume."""

    role: Literal["worker", "client"]
    name: str
    session: Count = 0


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Hold money for `attempt`; `settles` is the attempt it falls back from, settled with it.

    The settlement comes first and stands even where the hold is then refused.
    """

    seq: Count
    attempt: Attempt
    settles: Settlement | None = None
    may_wait: bool = True
    """Whether it may wait for money that is only held; otherwise it is refused at once."""


class Settle(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
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


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates of a scope; None is no limit. Minutes are the last sixty seconds, whenever asked."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None
    """Requests at the same time."""


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator says of a key."""

    name: str
    team_id: str = ""
    """The team whose budgets and limits also apply; empty for none."""
    models: tuple[str, ...] = ()
    """Names the key may ask for; empty is all. So for endpoints and networks."""
    endpoints: tuple[str, ...] = ()
    """Endpoints the key may use, as `Attempt.endpoint` names them."""
    networks: tuple[str, ...] = ()
    """Addresses it may be used from: IPv4 or IPv6, in CIDR notation."""
    expires_at: Count | None = None
    """Unix seconds from which on it is refused."""
    blocked: bool = False
    """Refused until this is taken back."""
    limits: Limits = Limits()
    at_cap: AtCap = "downgrade"
    clamp: bool = False
    """Lower a request's maximum output to what the budgets can pay for, instead of refusing it."""
    tags: tuple[str, ...] = ()
    """Tags of every request made with the key."""
    metadata: dict[str, Any] = {}
    """The operator's own; never interpreted."""


class GroupSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator says of a team or an organisation."""

    name: str
    organisation_id: str = ""
    """Of a team: the organisation it belongs to; empty for none."""
    models: tuple[str, ...] = ()
    """Names that its keys may ask for, besides what they allow themselves; empty is all."""
    blocked: bool = False
    limits: Limits = Limits()
    metadata: dict[str, Any] = {}


class BudgetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit over a window.

    `timezone` (IANA) says when a calendar day turns. `name` is the operator's own, e.g. to find
    what belongs together.
    """

    limit_nanousd: Limit
    window: Window = "month"
    mode: Mode = "hard"
    timezone: str = "UTC"
    holds: Holds = "sliced"
    name: str = ""


class CreateKey(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Make a key. `digest` is its HMAC; the key itself never reaches the ledger."""

    seq: Count
    digest: bytes
    hint: str
    """The key's first and last characters, to tell keys apart in lists."""
    settings: KeySettings
    budgets: tuple[BudgetSettings, ...] = ()
    """Its own, made with the key, or neither is."""


class UpdateKey(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Change fields of a key's settings, by name; what is not named stays as it is.

    `revoked` ends a key for good: a revoked key stays revoked.
    """

    seq: Count
    key_id: str
    changes: dict[str, Any] = {}
    revoked: bool = False


class RotateKey(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Give a key a new secret. The old one is accepted for `overlap_s` more seconds."""

    seq: Count
    key_id: str
    digest: bytes
    hint: str
    overlap_s: Count = 0


class CreateGroup(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Make a team or an organisation, with budgets of its own if given."""

    seq: Count
    kind: Literal["team", "organisation"]
    settings: GroupSettings
    budgets: tuple[BudgetSettings, ...] = ()
    group_id: str = ""
    """The id it gets; a new one if empty. A `conflict` where it is taken."""


class UpdateGroup(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Change fields of a group's settings, by name. `deleted` ends it for good, its rows stay.

    A `conflict` where a key or a team still belongs to it.
    """

    seq: Count
    group_id: str
    changes: dict[str, Any] = {}
    deleted: bool = False


class CreateBudget(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Set a limit on a scope over a window.

    A scope is one of an attempt's (`key:k_1`), several that must all apply (`key:k_1 & tag:x`),
    or one kind with `*` for a budget of each (`user:*`). A new budget counts from its creation:
    what its scope spent earlier in the window is not in it.
    """

    seq: Count
    scope: str
    settings: BudgetSettings


class UpdateBudget(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Change fields of a budget's settings, by name: not its window and time zone.

    `deleted` ends it, its rows stay.
    """

    seq: Count
    budget_id: Count
    changes: dict[str, Any] = {}
    deleted: bool = False


class ConfigBudget(msgspec.Struct, frozen=True, array_like=True):
    """A budget as `router.yaml` or the built-in default states it."""

    scope: str
    settings: BudgetSettings


class ApplyConfig(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Make the `managed: config` budgets exactly these; balances of those that stay are kept.

    So for the limits of scopes that are not in the ledger, such as targets. `alert_percents` are
    the shares of a budget at which an alert is raised.
    """

    seq: Count
    budgets: tuple[ConfigBudget, ...]
    revision: Count = 0
    limits: dict[str, Limits] = {}
    alert_percents: tuple[Annotated[int, msgspec.Meta(ge=1, le=1000)], ...] = (50, 80, 100)


class ListBudgets(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Ask for every budget with the balance of its window that is open now.

    `scope` restricts it to budgets of exactly that scope; empty is all.
    """

    seq: Count
    scope: str = ""


class Extend(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Raise the hold of an open attempt to `hold_nanousd`; the ledger may give up to `most`.

    Answered by `Reserved`, or by `Refused` where not even that fits: the old hold stays.
    """

    seq: Count
    attempt: Count
    hold_nanousd: Amount
    most_nanousd: Amount


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """How much of the hard budgets of these scopes is spent; answered by `Standing`."""

    seq: Count
    scopes: tuple[str, ...]


class Correct(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Say what a settled attempt really cost: a `corrections` row, and every balance moved."""

    seq: Count
    attempt: Count
    cost_nanousd: Amount
    reason: str


class InvoiceLine(msgspec.Struct, frozen=True, array_like=True):
    """What a provider says it charged for a model on a day (ISO date, UTC)."""

    day: str
    model: str
    cost_nanousd: Amount
    input_tokens: Count = 0
    output_tokens: Count = 0
    requests: Count = 0


class ImportInvoice(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Keep a provider's own account beside ours; a later import replaces the days it names."""

    seq: Count
    provider: str
    source: str
    lines: tuple[InvoiceLine, ...]


class Prune(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Forget settled attempts that began before a moment, at most `batch` of them.

    What they cost stays in the balances, and is kept in `archived` for the audit.
    """

    seq: Count
    before: Count
    batch: Count = 500


class RaiseAlert(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Raise an alert that the ledger cannot see itself, once for each `subject`.

    `drift` (of an invoice) once a day; what workers see of targets, `errors` and `latency`, once in
    ten minutes, however many of them see it.
    """

    seq: Count
    kind: Literal["drift", "errors", "latency"]
    subject: str
    text: str
    amount_nanousd: int = 0


class AlertsDelivered(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """These alerts have reached whom they are for, or were given up."""

    seq: Count
    alert_ids: tuple[Count, ...]


class OpenSwap(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """Begin to move a virtual model or an alias; a `conflict` where its name is being moved."""

    seq: Count
    plan: Plan


class MoveSwap(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """Say what becomes of a swap; a `conflict` where its state does not allow it.

    `prepared` and `failed` are for the worker that prepares it.
    """

    seq: Count
    swap_id: Count
    to: Literal["prepared", "failed", "cancelled", "rolled_back"]
    reason: Annotated[str, msgspec.Meta(max_length=10_000)] = ""


class BeginConversations(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """These conversations began at the new target of a swap. Not acknowledged."""

    swap_id: Count
    conversations: tuple[Count, ...]


class Outvote(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """These attempts were answered, but another answer to their request was taken.

    Not acknowledged.
    """

    attempts: tuple[Count, ...]


class GiveFeedback(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """Say what an answer to a request of that key was worth; the last word of a metric counts.

    `not_found` where the key made no such request, `conflict` where nothing answered it.
    """

    seq: Count
    key_id: str
    request_id: str
    metric: Metric
    worth_ppm: Annotated[int, msgspec.Meta(ge=0, le=MILLION)]


AdminOp = (
    CreateKey
    | UpdateKey
    | RotateKey
    | CreateGroup
    | UpdateGroup
    | CreateBudget
    | UpdateBudget
    | ApplyConfig
    | ListBudgets
    | Ask
    | Correct
    | ImportInvoice
    | Prune
    | RaiseAlert
    | AlertsDelivered
    | OpenSwap
    | MoveSwap
    | GiveFeedback
)
"""What is asked and answered once, by an `AdminReply` or `Failed`."""

Op = Hello | Reserve | Extend | Settle | Progress | BeginConversations | Outvote | AdminOp


# --- from the ledger ---------------------------------------------------------------------------


class KeyRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A key as workers know it."""

    key_id: str
    digest: bytes
    hint: str
    settings: KeySettings
    created_at: int
    revoked_at: int | None = None
    previous_digest: bytes = b""
    """Of the secret it had before it was rotated; empty where there is none."""
    previous_until: int = 0
    """Unix seconds until which the previous secret is accepted."""


class GroupRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A team or an organisation as workers know it."""

    group_id: str
    kind: Literal["team", "organisation"]
    settings: GroupSettings
    created_at: int
    deleted_at: int | None = None


class BudgetState(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A budget and the balance of its open window. `opens_at` is when the next one begins.

    A rolling window ends at every moment: its `opens_at` is when the oldest part of what is spent
    leaves it; in a refusal, when enough has left for what was asked. There it is None for what is
    more than the whole limit.
    """

    budget_id: int
    scope: str
    settings: BudgetSettings
    managed: Literal["api", "config", "each"]
    """Who made it; `each` was made by the ledger, for one of the scopes of a budget with `*`."""
    spent_nanousd: int
    held_nanousd: int
    overrun_nanousd: int
    starts_at: int | None
    opens_at: int | None
    created_at: int

    @property
    def left_nanousd(self) -> int:
        """What is neither spent nor held."""
        return self.settings.limit_nanousd - self.spent_nanousd - self.held_nanousd


class Alert(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Something an operator should know. Raised once; delivered at least once."""

    alert_id: int
    kind: AlertKind
    raised_at: int
    subject: str
    """The budget's scope, or the target, or the provider, or the name that is swapped."""
    text: str
    """One sentence for people."""
    percent: int = 0
    """Of `budget`: the share that was reached."""
    amount_nanousd: int = 0
    """Spent of the budget; billed above the hold; or the drift."""
    budget: BudgetState | None = None


class ConversationsBegan(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Pushed to every connection: these conversations began at the new target of a swap."""

    swap_id: int
    conversations: tuple[int, ...]
    seq: int = 0
    """Answers nobody."""


class Quality(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """What feedback says of a target at a task, in all; pushed to every connection as it changes.

    Of each of the `answers` that were judged the mean of what was said of it counts.
    """

    target: str
    task: str
    """Empty for answers to requests that nobody looked at."""
    answers: int
    worth_ppm: int
    """The sum over the answers, in millionths."""
    seq: int = 0
    """Answers nobody."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Answers `Hello`: the session, and all that workers must know."""

    session: int
    keys: tuple[KeyRecord, ...]
    groups: tuple[GroupRecord, ...] = ()
    hard_scopes: tuple[str, ...] = ()
    """Every scope with a hard budget."""
    alerts: tuple[Alert, ...] = ()
    """Those that are not delivered."""
    swaps: tuple[Swap, ...] = ()
    """Those that are open or in force."""
    conversations: tuple[ConversationsBegan, ...] = ()
    quality: tuple[Quality, ...] = ()


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A rate limit as its caller sees it: `reset_ms` until all of it is there again."""

    limit: int
    left: int
    reset_ms: int


class Reserved(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The hold is on the disk.

    `remaining_nanousd` is what the tightest hard budget has left; None where no hard one applies.
    """

    seq: int
    remaining_nanousd: int | None
    hold_nanousd: int | None = None
    """What is held now, for an attempt that can be metered; None is all that was asked for."""
    requests: Rate | None = None
    """The tightest limit on requests that applies to the caller."""
    tokens: Rate | None = None


def is_of_target(scope: str) -> bool:
    """Whether a scope is of what is asked, and not of who asks."""
    return scope.startswith(("target:", "provider:"))


class RateRefusal(msgspec.Struct, frozen=True, array_like=True):
    """Which limit is in the way, and for how long if nobody else comes.

    `retry_ms` is 0 where waiting does not help: the request alone is larger than the limit.
    """

    scope: str
    kind: Literal["requests", "tokens", "concurrent"]
    limit: int
    retry_ms: int

    @property
    def is_of_target(self) -> bool:
        """Whether another target may do, since it is not the caller's own limit."""
        return is_of_target(self.scope)


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """No hold was made. `budget` is the one that refused, `rate` the limit.

    `held` is True where only open holds are in the way: spent money alone would let it in.
    """

    seq: int
    reason: Literal["budget", "unpriced", "key_revoked", "rate"]
    budget: BudgetState | None
    needed_nanousd: int
    held: bool = False
    rate: RateRefusal | None = None


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The settlement is on the disk (also where an earlier copy of it already was)."""

    seq: int


class KeyChanged(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Pushed to every connection when a key was made or changed; `seq` answers whoever asked.

    One whose secret was rotated is known by another digest from now on.
    """

    key: KeyRecord
    seq: int = 0


class Budgets(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Answers `ListBudgets` and `ApplyConfig`; with the one budget concerned the other ops."""

    seq: int
    budgets: tuple[BudgetState, ...]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The op was not carried out, the rest of its frame was; `unavailable`: nothing of it was."""

    seq: int
    code: Literal["not_found", "conflict", "invalid", "unavailable"]
    message: str


class GroupChanged(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """As `KeyChanged`, for a team or an organisation."""

    group: GroupRecord
    seq: int = 0


class HardScope(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Pushed to every connection when a scope got a hard budget, or lost its last."""

    scope: str
    is_hard: bool


class AlertRaised(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Pushed to every connection; `seq` answers whoever raised it."""

    alert: Alert
    seq: int = 0


class Standing(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The largest share that is spent of any hard budget of those scopes, in millionths."""

    seq: int
    spent_ppm: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """It was carried out. `count` is what the op counts: attempts forgotten, lines kept …"""

    seq: int
    count: int = 0


class SwapChanged(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Pushed to every connection when a swap began, moved or ended; `seq` answers whoever asked."""

    swap: Swap
    seq: int = 0


AdminReply = KeyChanged | GroupChanged | Budgets | AlertRaised | Standing | Done | SwapChanged

Reply = (
    Welcome
    | Reserved
    | Refused
    | Settled
    | AdminReply
    | HardScope
    | ConversationsBegan
    | Quality
    | Failed
)
