"""Devices, their limits, and resource limits of processes."""

from __future__ import annotations

import posixpath
import re

from corten.cli.flags import BadValue
from corten.cli.options.mounts import csv_fields
from corten.cli.units import read_size
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CGROUP_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}\Z", re.ASCII)
# names of getrlimit(2)
_ULIMITS = frozenset(
    (
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    )
)


def _is_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def device(text: str) -> dict[str, str]:
    """``--device HOST[:CONTAINER][:rwm]`` as an entry of ``HostConfig.Devices``.

    Errors: InvalidParameter.
    """
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise InvalidParameter(f"bad format for path: {text}")
    host, inside, mode = parts[0], parts[0], "rwm"
    if len(parts) == 2 and _is_mode(parts[1]):
        mode = parts[1]
    elif len(parts) >= 2:
        inside = parts[1]
    if len(parts) == 3:
        mode = parts[2]
        if not _is_mode(mode):
            raise InvalidParameter(f"bad mode specified: {mode}")
    if not inside.startswith("/"):
        raise InvalidParameter(f"{inside} is not an absolute path")
    if inside == host:
        host = posixpath.normpath(host)
    return {"PathOnHost": host, "PathInContainer": posixpath.normpath(inside), "CgroupPermissions": mode}


def read_cgroup_rule(text: str) -> str:
    """``--device-cgroup-rule 'c 1:3 rwm'``.  Errors: BadValue."""
    if not _CGROUP_RULE.match(text):
        raise BadValue(f"invalid device cgroup format '{text}'")
    return text


def _device_and_value(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise BadValue(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise BadValue(f"bad format for device path: {text}")
    return path, value


def read_rate_bytes(text: str) -> dict[str, Any]:
    """``--device-read-bps /dev/sda:1mb``.  Errors: BadValue."""
    path, value = _device_and_value(text)
    try:
        return {"Path": path, "Rate": read_size(value)}
    except BadValue:
        raise BadValue(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def read_rate_operations(text: str) -> dict[str, Any]:
    """``--device-read-iops /dev/sda:100``.  Errors: BadValue."""
    path, value = _device_and_value(text)
    if not (value.isascii() and value.isdigit() and int(value) < 1 << 64):
        raise BadValue(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def read_weight(text: str) -> int:
    """``--blkio-weight``.  Errors: BadValue."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise BadValue(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def read_device_weight(text: str) -> dict[str, Any]:
    """``--blkio-weight-device /dev/sda:500``.  Errors: BadValue."""
    path, value = _device_and_value(text)
    if not (value.isascii() and value.isdigit()) or (int(value) and not 10 <= int(value) <= 1000):
        raise BadValue(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def read_ulimit(text: str) -> dict[str, Any]:
    """``--ulimit nofile=1024[:2048]``; -1 is no limit.

    Errors: BadValue.
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise BadValue(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise BadValue(f"invalid ulimit type: {name}")
    parts = values.split(":")
    if len(parts) > 2:
        raise BadValue(f"too many limit value arguments - {values}, can only have up to two, `soft[:hard]`")
    limits = []
    for part in parts:
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", part, re.ASCII):
            raise BadValue(f'strconv.ParseInt: parsing "{part}": invalid syntax')
        limits.append(int(part))
    soft, hard = limits[0], limits[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        raise BadValue(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Soft": soft, "Hard": hard}


def read_gpus(text: str) -> dict[str, Any]:
    """``--gpus all``, ``--gpus 2``, ``--gpus device=0,driver=nvidia`` as an entry of ``HostConfig.DeviceRequests``.

    Errors: BadValue.
    """
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [], "Options": {}}
    seen: set[str] = set()
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", key
        if key in seen:
            raise BadValue(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if key == "count":
            if value != "all" and not re.fullmatch(r"-?[0-9]{1,9}", value, re.ASCII):
                raise BadValue(f'invalid count ({value}): value must be either "all" or an integer: invalid syntax')
            request["Count"] = -1 if value == "all" else int(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(pair.partition("=")[::2] for pair in csv_fields(value))
        else:
            raise BadValue(f"unexpected key '{key}' in '{field}'")
    if "count" not in seen and not request["DeviceIDs"]:
        request["Count"] = 1
    if not request["Capabilities"]:
        request["Capabilities"] = [["gpu"]]
    return request
