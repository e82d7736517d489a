"""Options of log drivers (``--log-opt``), checked with Docker's words before a container is made.

Source: Docker documentation, "JSON File logging driver", "Local file logging driver", "Configure logging drivers".
"""

from __future__ import annotations

import re
from typing import NamedTuple

from corten.errors import InvalidParameter, NotFound

DRIVERS = ("json-file", "local", "none")

ATTRIBUTE_OPTIONS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_MODE_OPTIONS = frozenset({"mode", "max-buffer-size"})
_FILE_OPTIONS = frozenset({"max-size", "max-file", "compress"}) | ATTRIBUTE_OPTIONS

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp])?i?b?\Z", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LOCAL_SIZE = 20 * 1024 * 1024
_LOCAL_FILES = 5
_BUFFER_SIZE = 1_000_000


class LogOptions(NamedTuple):
    """How to write.

    max_size:     bytes after which a file is rotated, -1 for never
    max_files:    files that are kept, the one being written among them
    compress:     rotated files are compressed
    non_blocking: drop what the disk does not take in time; up to ``buffer_size`` bytes are held
    """

    max_size: int = -1
    max_files: int = 1
    compress: bool = False
    non_blocking: bool = False
    buffer_size: int = _BUFFER_SIZE


def parse_size(text: str, base: int) -> int:
    """Bytes of "10m", "1.5k", "100"; a unit is a power of ``base`` (1000 or 1024).

    Errors: InvalidParameter "invalid size".
    """
    match = _SIZE.match(text)
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    factor: int = base ** _POWERS[(match[2] or "").lower()]
    return int(float(match[1]) * factor)


def _boolean(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _number(text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII) is None:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def parse(driver: str, config: dict[str, str]) -> LogOptions:
    """Errors: NotFound for an unknown driver, InvalidParameter for an unknown or bad option."""
    if driver == "none":
        return LogOptions()  # as with dockerd its options are not looked at: there is nothing to write
    mode = config.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    buffer_size = _BUFFER_SIZE
    if "max-buffer-size" in config:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            buffer_size = parse_size(config["max-buffer-size"], 1024)
        except InvalidParameter as error:
            raise InvalidParameter(f"error parsing option max-buffer-size: {error}") from None
    if driver not in DRIVERS:
        raise NotFound(f"logger: no log driver named '{driver}' is registered")
    for name in sorted(config):
        if name not in _FILE_OPTIONS | _MODE_OPTIONS:
            owner = "json-file log driver" if driver == "json-file" else f"log driver {driver}"
            raise InvalidParameter(f"unknown log opt '{name}' for {owner}")
    _check_patterns(config)
    size, files, compress = _local_files(config) if driver == "local" else _json_files(config)
    return LogOptions(size, files, compress, mode == "non-blocking", buffer_size)


def _check_patterns(config: dict[str, str]) -> None:
    for name in {"labels-regex", "env-regex"} & set(config):
        try:
            re.compile(config[name])
        except re.error as error:
            raise InvalidParameter(f"error parsing regexp: {error}: `{config[name]}`") from None


def _json_files(config: dict[str, str]) -> tuple[int, int, bool]:
    size = -1
    if "max-size" in config:
        size = parse_size(config["max-size"], 1000)
        if size <= 0:
            raise InvalidParameter("max-size must be a positive number")
    files = _number(config.get("max-file", "1"))
    if files < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    compress = _boolean(config.get("compress", "false"))
    if compress and (files == 1 or size < 0):
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return size, files, compress


def _local_files(config: dict[str, str]) -> tuple[int, int, bool]:
    size, files, compress = _LOCAL_SIZE, _LOCAL_FILES, True
    for name in ("max-size", "max-file", "compress"):
        if name not in config:
            continue
        text = config[name]
        try:
            if name == "max-size":
                size = parse_size(text, 1000)
            elif name == "max-file":
                files = _number(text)
            else:
                compress = _boolean(text)
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid value for {name}: {text}: {error}") from None
    if size <= 0:
        raise InvalidParameter("max-size must be a positive number")
    if files < 0:
        raise InvalidParameter("max-file must not be negative")
    if compress and files <= 1:
        raise InvalidParameter("compression cannot be enabled when max file count is 1")
    return size, max(files, 1), compress
