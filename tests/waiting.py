"""Waiting for what another process or thread does: no test sleeps for a time that may be too short."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float = 20.0, *, every_s: float = 0.02) -> T:
    """What the condition gives once it is true.  Fails when that takes longer than ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen in {timeout_s:g} s"
        time.sleep(every_s)
    return found
