"""Times on the wire, as Go writes and reads them: pure functions over integer nanoseconds since the epoch.

Go's zero time (year 1) stands for "never" in Docker's documents, and nanoseconds matter to followers of logs: both are
more than ``datetime`` gives.  Source: RFC 3339; Go's ``time.RFC3339Nano`` and ``time.ParseDuration``.
"""

from __future__ import annotations

import re
import time

from corten.errors import InvalidParameter

SECOND_NS = 1_000_000_000
ZERO_TIME_NS = -62_135_596_800 * SECOND_NS
_LAST_S = 253_402_300_799

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
}
_DURATION = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_UNIX = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9})[0-9]*)?\Z", re.ASCII)
_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?)?)?)?"
    r"(Z|z|[+-][0-9]{2}:[0-9]{2})?\Z",
    re.ASCII,
)
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_INT64_MAX = (1 << 63) - 1


def _civil(second: int) -> str:
    year, month, day, hour, minute, part, *_ = time.gmtime(second)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{part:02d}"


def format_ns(moment_ns: int) -> str:
    """RFC 3339 in UTC with as many of nine decimals as are needed: "2024-05-01T10:00:00.25Z"."""
    second, nanosecond = divmod(moment_ns, SECOND_NS)
    if not nanosecond:
        return _civil(second) + "Z"
    return f"{_civil(second)}.{nanosecond:09d}".rstrip("0") + "Z"


def _days_before_year(year: int) -> int:
    past = year - 1
    return past * 365 + past // 4 - past // 100 + past // 400


def _epoch_seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (year and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        raise ValueError
    if not 1 <= day <= _MONTH_DAYS[month - 1] + (leap and month == 2):
        raise ValueError
    days = _days_before_year(year) + sum(_MONTH_DAYS[: month - 1]) + (leap and month > 2) + day - 1
    return (days - 719_162) * 86_400 + hour * 3600 + minute * 60 + second


def _zone_seconds(zone: str) -> int:
    if zone in ("Z", "z"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 24 or minutes > 59:
        raise ValueError
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _local_seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    try:
        return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    except OverflowError:
        raise ValueError from None


def _parse_date(text: str, *, zone_needed: bool) -> int:
    match = _DATE.match(text)
    if match is None:
        raise ValueError
    year, month, day, hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3, 4, 5, 6))
    fraction, zone = match[7], match[8]
    epoch = _epoch_seconds(year, month, day, hour, minute, second)
    if zone is not None:
        epoch -= _zone_seconds(zone)
    elif zone_needed:
        raise ValueError
    else:
        epoch = _local_seconds(year, month, day, hour, minute, second)
    return epoch * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def parse_rfc3339(text: str) -> int:
    """The inverse of ``format_ns``: any offset, up to nine decimals (more are cut off).

    Errors: InvalidParameter.
    """
    try:
        if "T" not in text or text.count(":") < 2:
            raise ValueError
        return _parse_date(text, zone_needed=True)
    except ValueError:
        raise InvalidParameter(f'cannot parse "{text}" as an RFC 3339 time') from None


def parse_duration(text: str) -> int:
    """Nanoseconds of Go's notation: "1h30m", "1.5s", "-300ms", "0".

    Errors: InvalidParameter in Go's words, also for what does not fit 64 bits.
    """
    invalid = InvalidParameter(f'time: invalid duration "{text}"')
    rest = text
    sign = 1
    if rest[:1] in ("-", "+"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest or not rest.isprintable() or len(rest) > 200:
        raise invalid
    total = position = 0
    while position < len(rest):
        match = _DURATION.match(rest, position)
        if match is None or not (match[1] or match[2]):
            raise invalid
        unit = _UNITS_NS[match[3]]
        total += int(match[1] or 0) * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        position = match.end()
    if total > _INT64_MAX:
        raise invalid
    return sign * total


def format_duration(duration_ns: int) -> str:
    """Go's notation: "0s", "1.5s", "1h30m0s", "250ms"."""
    sign = "-" if duration_ns < 0 else ""
    value = abs(duration_ns)
    if value == 0:
        return "0s"
    for limit, unit, factor in ((1_000, "ns", 1), (1_000_000, "µs", 1_000), (SECOND_NS, "ms", 1_000_000)):
        if value < limit:
            return f"{sign}{_decimal(value, factor)}{unit}"
    minutes, rest = divmod(value, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, SECOND_NS)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def _decimal(value: int, factor: int) -> str:
    whole, part = divmod(value, factor)
    if not part:
        return str(whole)
    digits = len(str(factor)) - 1
    return f"{whole}.{part:0{digits}d}".rstrip("0")


def parse_unix(text: str) -> int:
    """Nanoseconds of "seconds[.fraction]", the form that clients send for ``since`` and ``until``.

    Errors: InvalidParameter.
    """
    match = _UNIX.match(text)
    if match is None:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')
    # Go reads "-1.5" as second -1 and half a second after it
    seconds = int(match[1])
    if not -62_135_596_800 <= seconds <= _LAST_S:
        raise InvalidParameter(f'time out of range: "{text}"')
    return seconds * SECOND_NS + int((match[2] or "0").ljust(9, "0"))


def parse_moment(text: str, now_ns: int | None = None) -> int:
    """A moment in any form that Docker takes for ``since`` and ``until``, as nanoseconds since the epoch.

    Unix seconds with or without a fraction, a duration before ``now_ns`` ("10m", "1h30m"), or a date from "2024-05-01"
    to RFC 3339 with nanoseconds; without a zone it is in this process' local time.

    Errors: InvalidParameter.
    """
    if _UNIX.match(text):
        return parse_unix(text)
    if text[-1:] in ("s", "m", "h") or text.startswith("+"):
        try:
            return (time.time_ns() if now_ns is None else now_ns) - parse_duration(text)
        except InvalidParameter:
            pass
    try:
        return _parse_date(text, zone_needed=False)
    except ValueError:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from None
