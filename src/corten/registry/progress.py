"""What a transfer tells of itself: Docker's stream of JSON documents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Report = Callable[[dict[str, Any]], None]
_INTERVAL_S = 0.1
_BAR = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def short(digest: str) -> str:
    """The twelve digits by which a layer is known in a progress display."""
    return digest.partition(":")[2][:12]


class LayerProgress:
    """The line of one layer; used by one thread at a time."""

    def __init__(self, report: Report, identifier: str, total: int) -> None:
        self._report = report
        self._id = identifier
        self._total = total
        self._told = 0.0

    def state(self, status: str) -> None:
        self._report({"status": status, "progressDetail": {}, "id": self._id})

    def moved(self, status: str, current: int, *, always: bool = False) -> None:
        """Bytes so far; told a few times a second."""
        now = time.monotonic()
        if not always and now - self._told < _INTERVAL_S:
            return
        self._told = now
        detail = {"current": current, "total": self._total} if self._total else {"current": current}
        self._report(
            {"status": status, "progressDetail": detail, "progress": bar(current, self._total), "id": self._id}
        )


def bar(current: int, total: int) -> str:
    """ "[=====>      ]  1.05MB/3.2MB", as clients show it."""
    if total <= 0:
        return _size(current)
    filled = min(_BAR, _BAR * current // total)
    head = ">" if filled < _BAR else ""
    drawn = "=" * filled + head if filled < _BAR else "=" * _BAR + ">"
    return f"[{drawn:<{_BAR + (0 if filled < _BAR else 1)}}] {_size(current):>8}/{_size(total)}"


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.4g}{unit}"
        count /= 1000
    raise AssertionError("unreachable")
