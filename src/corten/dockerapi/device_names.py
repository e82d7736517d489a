"""Names of CDI devices: VENDOR/CLASS=NAME.

Source: the Container Device Interface's specification, "Kind" and "CDI Devices"; what it calls valid is read as its own
library does, which is what Docker's client takes for a device and not for a path.
"""

from __future__ import annotations

import re

_KIND_PART = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)


def is_qualified(text: str) -> bool:
    """Whether it names one device of a vendor: ``vendor.com/class=name``."""
    kind, equals, name = text.partition("=")
    return bool(equals) and is_kind(kind) and is_name(name)


def is_kind(text: str) -> bool:
    """``vendor.com/class``."""
    vendor, slash, kind = text.partition("/")
    return bool(slash) and all(_KIND_PART.fullmatch(part) for part in (vendor, kind))


def is_name(text: str) -> bool:
    """Of a device within its kind."""
    return _NAME.fullmatch(text) is not None
