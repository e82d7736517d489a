"""The networks that need no network: ``none`` and ``host``, as Docker describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from corten.dockerapi.timestamps import ZERO_TIME_NS, format_ns
from corten.errors import InvalidParameter

_DRIVERS = {"none": "null", "host": "host"}
_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_TYPES = ("builtin", "custom")


def builtin_network(name: str) -> dict[str, Any]:
    """The document of ``none`` or ``host``; its id is the same on every machine."""
    return {
        "Name": name,
        "Id": hashlib.sha256(f"corten network {name}".encode()).hexdigest(),
        "Created": format_ns(ZERO_TIME_NS),
        "Scope": "local",
        "Driver": _DRIVERS[name],
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def builtin_networks() -> list[dict[str, Any]]:
    """Both documents."""
    return [builtin_network(name) for name in _DRIVERS]


def find_builtin(reference: str) -> dict[str, Any] | None:
    """By name, id, or a prefix of the id that fits one network only."""
    networks = builtin_networks()
    for document in networks:
        if reference in (document["Name"], document["Id"]):
            return document
    found = [document for document in networks if reference and document["Id"].startswith(reference)]
    return found[0] if len(found) == 1 else None


def filter_networks(networks: list[dict[str, Any]], filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Those that match one value of every filter.  Errors: InvalidParameter."""
    for key in filters:
        if key not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{key}'")
    for value in filters.get("type", ()):
        if value not in _TYPES:
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    return [document for document in networks if all(_matches(document, key, filters[key]) for key in filters)]


def _matches(document: dict[str, Any], key: str, values: Sequence[str]) -> bool:
    if not values:
        return True
    if key == "name":
        return any(value in document["Name"] for value in values)
    if key == "id":
        return any(document["Id"].startswith(value) for value in values)
    if key == "driver":
        return document["Driver"] in values
    if key == "scope":
        return document["Scope"] in values
    if key == "type":
        return "builtin" in values
    return False  # predefined networks have no labels and are never dangling
