"""Times in log files: RFC 3339 with nanoseconds and without trailing zeros, as Go prints them."""

from __future__ import annotations

import calendar
import time

SECOND_NS = 1_000_000_000


# the last second that was formatted and the last that was parsed, since neighbours in a log share it; each is replaced
# as a whole, so that threads may read at the same time
_formatted: tuple[int, str] = (-1, "")
_parsed: tuple[str, int] = ("", 0)


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


def parse_time(text: str) -> int:
    """The inverse of ``format_time``, also with an offset instead of "Z".

    Errors: ValueError.
    """
    global _parsed
    whole, rest = text[:19], text[19:]
    known, moment = _parsed
    if whole != known:
        moment = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * SECOND_NS
        _parsed = (whole, moment)
    if rest[:1] == ".":
        digits = 1
        while rest[digits : digits + 1].isdigit():
            digits += 1
        if digits == 1:
            raise ValueError(f"no digits after the point: {text!r}")
        moment += int(rest[1:digits].ljust(9, "0")[:9])
        rest = rest[digits:]
    if rest == "Z":
        return moment
    if len(rest) != 6 or rest[0] not in "+-" or rest[3] != ":":
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    offset = (int(rest[1:3]) * 60 + int(rest[4:6])) * 60 * SECOND_NS
    return moment + (offset if rest[0] == "-" else -offset)
