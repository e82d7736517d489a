"""``--mount``, ``--volume`` and ``--tmpfs``."""

from __future__ import annotations

import os

from corten.cli.flags import BadValue
from corten.cli.units import read_size
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Mount = dict[str, Any]

_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "idmap")
_RECURSION = ("enabled", "disabled", "writable", "readonly")


def csv_fields(text: str) -> list[str]:
    """One line of comma separated values; a field in double quotes may contain commas (RFC 4180).

    Errors: BadValue.
    """
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadValue(f"parse error on line 1: {error}") from None
    return rows[0] if rows else []


def _truth(key: str, value: str, *, given: bool) -> bool:
    if not given or value in ("1", "true"):
        return True
    if value in ("0", "false"):
        return False
    raise BadValue(
        f"invalid value for '{key}': invalid boolean value (\"{value}\"): "
        'must be one of "true", "1", "false", or "0" (default "true")'
    )


def absolute(path: str) -> str:
    """A path that begins with a dot, seen from here; every other as it is."""
    return os.path.abspath(path) if path.startswith(".") else path


def _options(mount: Mount, section: str) -> dict[str, Any]:
    options: dict[str, Any] = mount.setdefault(section, {})
    return options


def _set_pair(mapping: dict[str, str], text: str) -> None:
    key, _, value = text.partition("=")
    if key:
        mapping[key] = value


def _bind_recursive(mount: Mount, key: str, value: str) -> None:
    if value not in _RECURSION:
        raise BadValue(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")')
    if value != "enabled":
        field = {
            "disabled": "NonRecursive",
            "writable": "ReadOnlyNonRecursive",
            "readonly": "ReadOnlyForceRecursive",
        }[value]
        _options(mount, "BindOptions")[field] = True


def _tmpfs_size(mount: Mount, key: str, value: str) -> None:
    try:
        _options(mount, "TmpfsOptions")["SizeBytes"] = read_size(value)
    except BadValue:
        raise BadValue(f"invalid value for {key}: {value}") from None


def _tmpfs_mode(mount: Mount, key: str, value: str) -> None:
    try:
        mode = int(value, 8)
        if not 0 <= mode < 1 << 32 or not value.isdigit():
            raise ValueError
    except ValueError:
        raise BadValue(f"invalid value for {key}: {value}") from None
    _options(mount, "TmpfsOptions")["Mode"] = mode


def _driver(mount: Mount) -> dict[str, Any]:
    config: dict[str, Any] = _options(mount, "VolumeOptions").setdefault("DriverConfig", {})
    return config


def _refuse_nonrecursive(_mount: Mount, _key: str, _value: str) -> None:
    raise BadValue("bind-nonrecursive is deprecated, use bind-recursive=disabled instead")


_FIELDS: dict[str, Callable[[Mount, str, str], None]] = {
    "type": lambda mount, _, value: mount.__setitem__("Type", value.lower()),
    "source": lambda mount, _, value: mount.__setitem__("Source", absolute(value)),
    "target": lambda mount, _, value: mount.__setitem__("Target", value),
    "consistency": lambda mount, _, value: mount.__setitem__("Consistency", value.lower()),
    "bind-propagation": lambda mount, _, value: _options(mount, "BindOptions").__setitem__(
        "Propagation", value.lower()
    ),
    "bind-nonrecursive": _refuse_nonrecursive,
    "bind-recursive": _bind_recursive,
    "volume-subpath": lambda mount, _, value: _options(mount, "VolumeOptions").__setitem__("Subpath", value),
    "volume-label": lambda mount, _, value: _set_pair(_options(mount, "VolumeOptions").setdefault("Labels", {}), value),
    "volume-driver": lambda mount, _, value: _driver(mount).__setitem__("Name", value),
    "volume-opt": lambda mount, _, value: _set_pair(_driver(mount).setdefault("Options", {}), value),
    "image-subpath": lambda mount, _, value: _options(mount, "ImageOptions").__setitem__("Subpath", value),
    "tmpfs-size": _tmpfs_size,
    "tmpfs-mode": _tmpfs_mode,
}
_ALIASES = {"src": "source", "dst": "target", "destination": "target"}


def _set_field(mount: Mount, field: str) -> None:
    key, equals, value = field.partition("=")
    if key != key.strip():
        raise BadValue(f"invalid option '{key.strip()}' in '{field}': option should not have whitespace")
    if equals and not value.strip():
        raise BadValue(f"invalid value for '{key}': value is empty")
    if value != value.strip():
        raise BadValue(f"invalid value for '{key}' in '{field}': value should not have whitespace")
    key = key.lower()
    if not equals and key not in _SWITCHES:
        raise BadValue(f"invalid field '{field}' must be a key=value pair")
    if key in ("readonly", "ro"):
        mount["ReadOnly"] = _truth(key, value, given=bool(equals))
    elif key == "volume-nocopy":
        _options(mount, "VolumeOptions")["NoCopy"] = _truth(key, value, given=bool(equals))
    elif key == "bind-create-src":
        _options(mount, "BindOptions")["CreateMountpoint"] = _truth(key, value, given=bool(equals))
    elif key == "idmap":
        _options(mount, "BindOptions")["IDMap"] = _truth(key, value, given=bool(equals))
    else:
        setter = _FIELDS.get(_ALIASES.get(key, key))
        if setter is None:
            raise BadValue(f"unknown option '{key}' in '{field}'")
        setter(mount, key, value)


def _check(mount: Mount) -> None:
    kind = mount["Type"]
    if not kind:
        raise BadValue("type is required")
    if not mount.get("Target"):
        raise BadValue("target is required")
    sections = (
        ("BindOptions", "bind"),
        ("VolumeOptions", "volume"),
        ("ImageOptions", "image"),
        ("TmpfsOptions", "tmpfs"),
    )
    for section, owner in sections:
        if section in mount and kind != owner:
            raise BadValue(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    bind = mount.get("BindOptions", {})
    if bind.get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise BadValue("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise BadValue("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
        if bind.get("Propagation") != "rprivate":
            raise BadValue(
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
            )


def read_mount(text: str) -> Mount:
    """``--mount type=bind,source=/a,target=/b,readonly`` as an entry of ``HostConfig.Mounts``.

    Errors: BadValue.
    """
    text = text.strip()
    if not text:
        raise BadValue("value is empty")
    mount: Mount = {"Type": "volume"}
    for field in csv_fields(text):
        _set_field(mount, field)
    _check(mount)
    return mount


def split_volumes(texts: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """``-v``: (``HostConfig.Binds``, ``Config.Volumes``).

    A single path is an anonymous volume; ``source:target[:options]`` is a bind: of a directory when the source is a
    path, else of a named volume.

    Errors: InvalidParameter.
    """
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in texts:
        parts = text.split(":")
        if not text:
            raise InvalidParameter("invalid empty volume spec")
        if len(parts) > 3:
            raise InvalidParameter(f"invalid spec: {text}: too many colons")
        if not all(parts):
            raise InvalidParameter(f"invalid spec: {text}: empty section between colons")
        if len(parts) == 1:
            anonymous[text] = {}
        else:
            binds.append(":".join([absolute(parts[0]), *parts[1:]]))
    return binds, anonymous


def tmpfs_map(texts: list[str]) -> dict[str, str]:
    """``--tmpfs PATH[:OPTIONS]``: the kernel will say whether it takes the options."""
    return {path: options for path, _, options in (text.partition(":") for text in texts)}
