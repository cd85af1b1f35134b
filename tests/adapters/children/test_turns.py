from __future__ import annotations

import threading

import pytest

from adapters.children.turns import ModelThread


def test_what_is_called_is_done_in_the_models_thread() -> None:
    thread = ModelThread()
    name, again = (thread.call(lambda: threading.current_thread().name) for _ in range(2))
    assert name == again == "model"


def test_what_is_called_may_fail() -> None:
    thread = ModelThread()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
    assert thread.call(lambda: 1) == 1
