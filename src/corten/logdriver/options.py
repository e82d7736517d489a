"""Options of log drivers (``--log-opt``), checked with Docker's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from corten.errors import InvalidParameter, NotFound

DRIVERS = ("json-file", "local", "none")

_COMMON = frozenset({"mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"})
_KNOWN = {
    "json-file": _COMMON | {"max-size", "max-file", "compress"},
    "local": frozenset({"mode", "max-buffer-size", "max-size", "max-file", "compress"}),
    "none": frozenset({"mode", "max-buffer-size"}),
}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LOCAL_SIZE = 20 * 1000 * 1000
_LOCAL_FILES = 5
_BUFFER = 1_000_000


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How to write.

    max_size:     bytes of one file, -1 for no limit
    max_file:     files that are kept, the one being written among them
    non_blocking: drop rather than wait; ``buffer_size`` bytes are held
    """

    max_size: int = -1
    max_file: int = 1
    compress: bool = False
    non_blocking: bool = False
    buffer_size: int = _BUFFER


def parse_size(text: str) -> int:
    """"10m", "1.5k", "100" -> bytes.  Errors: InvalidParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)i?b?", text.strip().lower())
    if not match:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2]])


def _boolean(name: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f'invalid value for log opt {name}: "{text}"')


def parse(driver: str, config: dict[str, str]) -> LogOptions:
    """Errors: NotFound for an unknown driver, InvalidParameter for an unknown or bad option."""
    if driver not in DRIVERS:
        raise NotFound(f"logger: no log driver named '{driver}' is registered")
    for name in config:
        if name not in _KNOWN[driver]:
            raise InvalidParameter(f"unknown log opt '{name}' for {driver} log driver")
        if name in ("labels", "labels-regex", "env", "env-regex", "tag"):
            raise InvalidParameter(f"log opt '{name}' is not supported yet")
    mode = config.get("mode", "blocking")
    if mode not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in config and mode != "non-blocking":
        raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    local = driver == "local"
    size = parse_size(config["max-size"]) if "max-size" in config else (_LOCAL_SIZE if local else -1)
    files = _files(config.get("max-file"), _LOCAL_FILES if local else 1)
    compress = _boolean("compress", config["compress"]) if "compress" in config else local and files > 1
    if size == 0 or ("max-size" in config and size <= 0):
        raise InvalidParameter("max-size must be a positive number")
    if driver == "json-file" and files > 1 and size < 0:
        raise InvalidParameter("max-file cannot be set without max-size")
    if compress and (files == 1 or size < 0):
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return LogOptions(
        max_size=size,
        max_file=files,
        compress=compress,
        non_blocking=mode == "non-blocking",
        buffer_size=parse_size(config["max-buffer-size"]) if "max-buffer-size" in config else _BUFFER,
    )


def _files(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or int(text) < 1:
        raise InvalidParameter(f"max-file cannot be less than 1: '{text}'")
    return int(text)
