"""Waiting for what other processes bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

PATIENCE_S = 120.0

T = TypeVar("T")


def until(found: Callable[[], T], *, told: str | Callable[[], str] = "not in time") -> T:
    """The first true value of `found`; after two minutes it fails, and says what is told."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < deadline, told if isinstance(told, str) else told()
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
