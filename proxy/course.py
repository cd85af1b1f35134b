"""What a request tries, one attempt after the other, and when it gives up.

    a key was not taken        another key of the same provider, at once
    it failed of a cause       the targets that `fallbacks` have for that cause, then the rest of
                               its route, unless the request itself is at fault
    nothing is left            the same target once more, if it may answer in a moment

Whatever burdens a provider again that fails is taken out of its retry budget; going elsewhere is
free. All of that is decided here, and nothing done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from adapters.base import AdapterError, UpstreamError
from policies.base import Choice
from proxy.accounts import Account
from proxy.causes import Cause, burdens, cause_of, is_stale, is_transient
from proxy.clock import Clock
from proxy.provider_keys import Key
from proxy.retries import delay_s
from proxy.retry_after import asked_s
from proxy.targets import Target

RETRY_COUNT = b"x-stainless-retry-count"


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt to make, after a while."""

    target: Target
    reason: str
    key: Key
    fresh: bool = False
    """Over a connection that was not used before."""
    is_retry: bool = False
    """Of a target that failed, after `delay_s`."""
    delay_s: float = 0.0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the courses of all requests go by.

    `draw` is a random share; `is_failing` tells of a target whose last attempt failed, and `is_out`
    of one that is left out while there is another, or of a key by its number.
    """

    accounts: Mapping[str, Account]
    clock: Clock
    draw: Callable[[], float]
    is_failing: Callable[[Target], bool]
    is_out: Callable[[str, int | None], bool]


class Course:
    """The attempts of one request."""

    __slots__ = (
        "_again",
        "_asked",
        "_client_retries",
        "_conditions",
        "_failing",
        "_fallbacks",
        "_left",
        "_may_retry",
        "_target_of",
        "_time_left_s",
        "_tried",
        "_tries",
    )

    def __init__(
        self,
        choices: Sequence[Choice],
        fallbacks: Mapping[Cause, Sequence[Choice]],
        conditions: Conditions,
        *,
        target_of: Callable[[str], Target],
        time_left_s: Callable[[], float],
        client_retries: bool,
        may_retry: bool = True,
        tried: set[str] | None = None,
    ) -> None:
        """`client_retries` that this request is a retry of the client's already.

        Unless it `may_retry`, a target is not asked twice. `tried` are the targets of all attempts
        of the request that are made at the same time.
        """
        self._left = list(choices)
        self._fallbacks = fallbacks
        self._conditions = conditions
        self._target_of = target_of
        self._time_left_s = time_left_s
        self._client_retries = client_retries
        self._may_retry = may_retry
        self._again: Step | None = None
        self._tried = set() if tried is None else tried
        self._asked: set[str] = set()
        """The providers that were."""
        self._failing: set[str] = set()
        """Those of them that had enough of this request."""
        self._tries = 0

    @property
    def has_more(self) -> bool:
        """Whether another target would follow."""
        return bool(self._left)

    def next_step(self) -> Step | None:
        """What to try now; None where there is nothing left to try."""
        again, self._again = self._again, None
        if again is not None:
            return again
        is_out = self._conditions.is_out
        while self._left:
            choice, target, account = self._take_first()
            name, provider = choice.target, target.provider
            if self._left and is_out(name, None):
                continue  # since it was decided
            if self._asked and name in self._tried:
                continue  # another attempt beside this one has gone there
            if self._failing and self._would_burden(target) and not self._may_burden(account):
                continue
            self._tried.add(name)
            if provider not in self._asked:
                self._asked.add(provider)
                account.budget.deposit()
            key = account.keys.only or account.keys.take(partial(is_out, name))
            return Step(target=target, reason=choice.reason, key=key)
        return None

    def failed(self, step: Step, error: AdapterError) -> None:
        """Take in how an attempt failed."""
        if is_stale(error) and not step.fresh:
            self._again = msgspec.structs.replace(step, fresh=True, is_retry=False)
            return
        self._tries += 1
        provider = step.target.provider
        keys = self._conditions.accounts[provider].keys
        if keys.failed(step.key, error):
            another = keys.after(step.key, partial(self._conditions.is_out, step.target.name))
            if another is not None:
                self._again = msgspec.structs.replace(
                    step, key=another, fresh=False, is_retry=False
                )
                return
        elif burdens(error):
            self._failing.add(provider)
        if not error.retry_elsewhere:
            self._left.clear()
        self._turn_to(cause_of(error))
        if not self._left:
            self._again = self._retry(step, error)

    def was_limited(self) -> None:
        """Take in that limits of our own left no room for an attempt."""
        self._turn_to("rate_limited")

    def _turn_to(self, cause: Cause | None) -> None:
        """Go on with the chain of a cause, if it has one, before what is left."""
        chain = self._fallbacks.get(cause, ()) if cause is not None else ()
        if chain:
            named = {choice.target for choice in chain}
            rest = [choice for choice in self._left if choice.target not in named]
            self._left = [choice for choice in chain if choice.target not in self._tried] + rest

    def _take_first(self) -> tuple[Choice, Target, Account]:
        """The first choice whose provider has a key that does not rest; the first if none has."""
        for place, choice in enumerate(self._left):
            target = self._target_of(choice.target)
            account = self._conditions.accounts[target.provider]
            if account.keys.only is not None or not account.keys.are_all_resting:
                del self._left[place]
                return choice, target, account
        choice = self._left.pop(0)
        target = self._target_of(choice.target)
        return choice, target, self._conditions.accounts[target.provider]

    def _retry(self, step: Step, error: AdapterError) -> Step | None:
        """The same once more, if that is of use, allowed, and not too late."""
        conditions = self._conditions
        account = conditions.accounts[step.target.provider]
        settings = account.settings
        if not self._may_retry or not is_transient(error) or self._tries >= settings.tries:
            return None
        headers = error.headers if isinstance(error, UpstreamError) else {}
        wanted_s = asked_s(headers, conditions.clock.time())
        wait_s = delay_s(self._tries, wanted_s, conditions.draw())
        if wait_s > settings.wait_s or wait_s >= self._time_left_s():
            return None
        if not self._may_burden(account):
            return None
        key = account.keys.take(partial(conditions.is_out, step.target.name))
        return msgspec.structs.replace(step, key=key, fresh=False, is_retry=True, delay_s=wait_s)

    def _would_burden(self, target: Target) -> bool:
        """Whether a provider that has had enough of this request is likely to fail there too."""
        return target.provider in self._failing and self._conditions.is_failing(target)

    def _may_burden(self, account: Account) -> bool:
        now = self._conditions.clock.monotonic()
        if self._client_retries and account.budget.is_low(now):
            return False
        return account.budget.withdraw(now)
