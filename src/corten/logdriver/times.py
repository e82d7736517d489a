"""Times in log files: RFC 3339 with nanoseconds and without trailing zeros, as Go prints them."""

from __future__ import annotations

import time

SECOND_NS = 1_000_000_000


# the last second that was formatted, since neighbours in a log share it; replaced as a whole: threads may format too
_formatted: tuple[int, str] = (-1, "")


def _seconds(second: int) -> str:
    global _formatted
    known, text = _formatted
    if second != known:
        year, month, day, hour, minute, part, *_ = time.gmtime(second)
        text = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{part:02d}"
        _formatted = (second, text)
    return text


def format_time(moment_ns: int) -> str:
    """Nanoseconds since the epoch -> "2026-01-02T03:04:05.678Z"."""
    second, rest = divmod(moment_ns, SECOND_NS)
    if not rest:
        return f"{_seconds(second)}Z"
    return f"{_seconds(second)}.{rest:09d}".rstrip("0") + "Z"


def format_time_fixed(moment_ns: int) -> str:
    """With nine digits always, so that times in front of lines stay aligned."""
    second, rest = divmod(moment_ns, SECOND_NS)
    return f"{_seconds(second)}.{rest:09d}Z"
