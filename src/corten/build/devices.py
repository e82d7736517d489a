"""``RUN --device``: which devices of CDI files a step gets, and whether the client has granted them.

Source: moby/buildkit, docs/cdi.md, its Dockerfile reference ("RUN --device"), and its entitlement ``device``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from corten.cdi.catalogue import Found
from corten.cdi.selection import is_auto_allowed, select
from corten.dockerfile import instructions as ins
from corten.errors import Forbidden, InvalidParameter, NotFound

ENTITLEMENT = "device"


@dataclass(slots=True)
class Grants:
    """names: of devices, as a Dockerfile may call them; aliases: what a Dockerfile calls it -> what it gets"""

    everything: bool = False
    names: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)


def read_grants(allowed: Iterable[str]) -> Grants:
    """``device`` is all of them; ``device=NAME[,alias=OTHER]``.  Errors: InvalidParameter."""
    grants = Grants()
    for text in allowed:
        kind, equals, rest = text.partition("=")
        if kind != ENTITLEMENT:
            continue
        if not rest:
            grants.everything = True
            continue
        name, *options = rest.split(",")
        alias = ""
        for option in options:
            key, equals, alias = option.partition("=")
            if not equals or key != "alias":
                raise InvalidParameter(f"invalid device config {option!r}: alias=NAME is known")
        if alias:
            grants.aliases[alias] = name
        else:
            grants.names.add(name)
    return grants


def chosen(found: Found, wanted: Iterable[ins.Device], grants: Grants, missing: Callable[[str], None]) -> list[str]:
    """Names of the devices that a step gets, each once.

    missing: told of a device that is not there and not required
    Errors: NotFound for a required one, Forbidden for what nobody has granted.
    """
    names: dict[str, None] = {}
    forbidden: list[str] = []
    granted = {name for text in grants.names for name in select(found, text)}
    for device in wanted:
        selected = select(found, grants.aliases.get(device.name, device.name))
        if not selected and device.required:
            raise NotFound(f'required device "{device.name}" is not registered')
        if not selected:
            missing(device.name)
        is_granted = grants.everything or device.name in grants.aliases
        for name in selected:
            if not (is_granted or name in granted or is_auto_allowed(found.devices[name])):
                forbidden.append(name)
            names[name] = None
    if forbidden:
        what = f"device {forbidden[0]} is" if len(forbidden) == 1 else f"devices {', '.join(forbidden)} are"
        raise Forbidden(f"{what} requested by the build but not allowed: build with --allow device to grant it")
    return list(names)
