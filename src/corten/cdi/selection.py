"""Which devices a Dockerfile means: it may name one, a kind, all of a kind, or a class.

Source: moby/buildkit, docs/cdi.md and the Dockerfile reference, "RUN --device".
"""

from __future__ import annotations

from corten.cdi.catalogue import Device, Found
from corten.dockerapi.device_names import is_kind

_CLASS = "org.mobyproject.buildkit.device.class"
_AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"


def select(found: Found, name: str) -> list[str]:
    """Names of devices: ``vendor/class`` is its first one, ``vendor/class=*`` all, another word those of that class."""
    kind, _, rest = name.partition("=")
    chosen: list[str] = []
    if is_kind(kind):
        of_kind = [device.name for device in found.devices.values() if device.kind == kind]
        if rest not in ("", "*"):
            of_kind = [one for one in of_kind if one == name]
        chosen = of_kind if rest else of_kind[:1]
    return chosen or [device.name for device in found.devices.values() if device.annotations.get(_CLASS) == name]


def is_auto_allowed(device: Device) -> bool:
    """Whether builds may have it without their client's word."""
    return device.annotations.get(_AUTO_ALLOW, "").lower() in ("1", "t", "true")
