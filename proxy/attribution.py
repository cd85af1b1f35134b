"""Whom a request is for, besides its key: the end user and the tags that budgets know it by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from proxy import budgets
from proxy.auth import Caller
from proxy.errors import InvalidRequest
from proxy.http import Exchange

USER_HEADER = b"x-tollway-user"
TAGS_HEADER = b"x-tollway-tags"


def scopes_of(
    caller: Caller, exchange: Exchange, user: str | None, tags: Iterable[str]
) -> tuple[str, ...]:
    """The scopes that a request adds to its caller's; the headers go before the body.

    Raises `InvalidRequest` for tags that cannot be. A user is whatever the client says it is: what
    cannot stand in a scope is known there by its digest.
    """
    headers = exchange.headers
    if USER_HEADER in headers:
        user = _text(headers[USER_HEADER])
    sent = headers.get(TAGS_HEADER)
    if sent is not None:
        tags = (*tags, *filter(None, (tag.strip() for tag in _text(sent).split(","))))
    if not user and not tags and not caller.tags:
        return caller.scopes
    scopes = list(caller.scopes)
    if user:
        scopes.append(f"user:{user if budgets.is_name(user) else _digest(user)}")
    distinct = dict.fromkeys((*caller.tags, *tags))
    if len(distinct) > budgets.MOST_TAGS:
        raise InvalidRequest(
            f"a request has at most {budgets.MOST_TAGS} tags", param="metadata.tags"
        )
    for tag in distinct:
        if not budgets.is_name(tag):
            raise InvalidRequest(
                f"{tag[:100]!r} cannot be a tag: 1 to {budgets.LONGEST_NAME} printable characters, "
                f"no white space around them, no {budgets.AND!r}, not {budgets.EACH!r}",
                param="metadata.tags",
            )
        scopes.append(f"tag:{tag}")
    return tuple(scopes)


def _text(header: bytes) -> str:
    """As most clients write what is not ASCII; else as the standard reads it.

    The same user must not have one budget by header and another by body.
    """
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _digest(name: str) -> str:
    return "sha256-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
