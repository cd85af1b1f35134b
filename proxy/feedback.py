"""`POST /v1/feedback`: what a caller says of an answer it got."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.admin.books import Books
from proxy.auth import Auth
from proxy.errors import InvalidRequest
from proxy.http import Exchange
from proxy.ledger.protocol import MILLION, Done, GiveFeedback, Metric

_MAX_BODY = 4096
# What replies are called in the dialects that name them after the request.
_NAMED_AFTER = ("chatcmpl-", "cmpl-", "msg_", "resp_")


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said: `thumbs` up (true, 1) or down (false, -1), `task_completed` or not, a `score`.

    `request_id` is the reply's `x-tollway-request-id`, or the `id` in it where that is Tollway's.
    """

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    metric: Metric
    value: bool | int | float

    @property
    def worth_ppm(self) -> int:
        """What the answer is worth, in millionths; raises `InvalidRequest`."""
        match self.metric, self.value:
            case "thumbs" | "task_completed", bool(value):
                return MILLION if value else 0
            case "thumbs", 1 | -1 as value:
                return MILLION if value > 0 else 0
            case "score", int(value) | float(value) if type(value) is not bool and 0 <= value <= 1:
                return round(value * MILLION)
        raise InvalidRequest(
            f"invalid value for {self.metric!r}: expected {_EXPECTED[self.metric]}", param="value"
        )


_EXPECTED: dict[Metric, str] = {
    "thumbs": "true or 1, false or -1",
    "task_completed": "true or false",
    "score": "a number from 0 to 1",
}


def request_id_of(name: str) -> str:
    """The request that an id means: its own, or that of the reply to it."""
    for prefix in _NAMED_AFTER:
        if name.startswith(prefix):
            return f"req_{name.removeprefix(prefix).removeprefix('req_')}"
    return name


class FeedbackApi:
    """Takes feedback of whoever made the request, and of nobody else."""

    def __init__(self, *, auth: Auth, books: Books) -> None:
        self._auth = auth
        self._books = books

    async def post(self, exchange: Exchange) -> None:
        """Keep it; raises `ApiError`. What is another key's does not exist, as for any id."""
        caller = self._auth.identify(exchange)
        body = await exchange.read_body(_MAX_BODY)
        try:
            feedback = msgspec.json.decode(body, type=Feedback)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise InvalidRequest(f"the body is no feedback: {error}") from None
        request_id = request_id_of(feedback.request_id)
        op = GiveFeedback(0, caller.key_id, request_id, feedback.metric, feedback.worth_ppm)
        await self._books.call(op, Done)
        shown = {
            "object": "feedback",
            "request_id": request_id,
            "metric": feedback.metric,
            "value": feedback.value,
        }
        await exchange.reply(200, msgspec.json.encode(shown))
