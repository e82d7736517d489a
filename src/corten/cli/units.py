"""Sizes as people write and read them.  Source of the grammar: documentation of Docker's ``go-units``."""

from __future__ import annotations

from corten.cli.flags import BadValue

_FACTORS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return f"{size:.{digits}g}{units[index]}"


def decimal_size(size_bytes: float, digits: int = 4) -> str:
    """ "1.984MB"; three digits in lists, four in sums, as Docker's tools have it."""
    return _scaled(size_bytes, 1000.0, _DECIMAL_UNITS, digits)


def binary_size(size_bytes: float) -> str:
    """ "15.5MiB"."""
    return _scaled(size_bytes, 1024.0, _BINARY_UNITS, 4)


def _number(text: str) -> float:
    try:
        if not text or text != text.strip() or "_" in text or not text.isascii():
            raise ValueError
        return float(text)
    except ValueError:
        raise BadValue(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None


def read_size(text: str) -> int:
    """Bytes of "512m", "1.5GiB", "64 kb", "100".

    Errors: BadValue.
    """
    end = max((position for position, character in enumerate(text) if character in "0123456789. "), default=-1)
    if end < 0:
        raise BadValue(f"invalid size: '{text}'")
    number = text[:end] if text[end] == " " else text[: end + 1]
    suffix = text[end + 1 :].lower()
    size = _number(number)
    if size < 0:
        raise BadValue(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        return int(size)
    if suffix[0] not in _FACTORS or suffix[1:] not in ("", "b", "ib"):
        raise BadValue(f"invalid suffix: '{suffix}'")
    return int(size * _FACTORS[suffix[0]])


def read_swap_size(text: str) -> int:
    """As ``read_size``; "-1" stands for no limit."""
    return -1 if text == "-1" else read_size(text)


def read_cpus(text: str) -> int:
    """1e-9 CPUs of "1.5".

    Errors: BadValue.
    """
    from fractions import Fraction

    try:
        nano = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise BadValue(f"failed to parse {text} as a rational number") from None
    if nano.denominator != 1:
        raise BadValue("value is too precise")
    return int(nano)


def read_duration(text: str) -> int:
    """Nanoseconds of "1m30s".

    Errors: BadValue.
    """
    from corten.dockerapi.timestamps import parse_duration
    from corten.errors import InvalidParameter

    try:
        return parse_duration(text)
    except InvalidParameter as error:
        raise BadValue(str(error)) from None
