"""Times in log files: RFC 3339 with nanoseconds and without trailing zeros, as Go prints them."""

from __future__ import annotations

import calendar
import time

_cached_second = -1
_cached_text = ""


def format_time(moment_ns: int) -> str:
    """Nanoseconds since the epoch -> "2026-01-02T03:04:05.678Z"."""
    global _cached_second, _cached_text
    second, rest = divmod(moment_ns, 10**9)
    if second != _cached_second:
        parts = time.gmtime(second)
        _cached_text = f"{parts[0]:04d}-{parts[1]:02d}-{parts[2]:02d}T{parts[3]:02d}:{parts[4]:02d}:{parts[5]:02d}"
        _cached_second = second
    if not rest:
        return f"{_cached_text}Z"
    return f"{_cached_text}.{f'{rest:09d}'.rstrip('0')}Z"


def parse_time(text: str) -> int:
    """The inverse of ``format_time``.  Errors: ValueError."""
    if not text.endswith("Z"):
        raise ValueError(f"not a UTC time: {text!r}")
    whole, _, fraction = text[:-1].partition(".")
    second = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return second * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
