"""Reading the times in log files.  Used by the engine only: what it imports is too much for a shim."""

from __future__ import annotations

import calendar
import time

from corten.logdriver.times import SECOND_NS

# the last second that was parsed; replaced as a whole, since threads read at the same time
_parsed: tuple[str, int] = ("", 0)


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
