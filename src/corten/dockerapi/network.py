"""Network documents of the Docker Engine API: what a client asks for, and filters of lists.

Field names follow the published description (``NetworkCreateRequest``, ``EndpointSettings``, ``IPAM``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import field

from corten.dockerapi.container import Document, EndpointSettings
from corten.errors import InvalidParameter

_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_TYPES = ("builtin", "custom")
PREDEFINED = ("bridge", "host", "none")


class IPAMConfig(Document):
    """One subnet of a network."""

    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = field(default_factory=dict)


class IPAM(Document):
    driver: str = "default"
    options: dict[str, str] = field(default_factory=dict)
    config: list[IPAMConfig] = field(default_factory=list)


class ConfigReference(Document):
    network: str = ""


class NetworkCreate(Document):
    """Body of ``POST /networks/create``."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool = field(default=True, name="EnableIPv4")
    enable_ipv6: bool = field(default=False, name="EnableIPv6")
    ipam: IPAM = field(default_factory=IPAM, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


class NetworkConnect(Document):
    """Body of ``POST /networks/{id}/connect``."""

    container: str = ""
    endpoint_config: EndpointSettings = field(default_factory=EndpointSettings)


class NetworkDisconnect(Document):
    """Body of ``POST /networks/{id}/disconnect``."""

    container: str = ""
    force: bool = False


def filter_networks(
    networks: Sequence[dict[str, Any]], filters: Mapping[str, Sequence[str]], used: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Those that match one value of every filter (of ``label`` every value).

    used: ids of networks that containers are connected to
    Errors: InvalidParameter.
    """
    for key in filters:
        if key not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{key}'")
    for value in filters.get("type", ()):
        if value not in _TYPES:
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    for value in filters.get("dangling", ()):
        if value.lower() not in ("true", "false", "1", "0"):
            raise InvalidParameter(f"invalid filter 'dangling=[{value}]'")
    return [item for item in networks if all(_matches(item, key, filters[key], used) for key in filters)]


def _matches(document: dict[str, Any], key: str, values: Sequence[str], used: frozenset[str]) -> bool:
    if not values:
        return True
    predefined = document["Name"] in PREDEFINED
    match key:
        case "name":
            return any(value in document["Name"] for value in values)
        case "id":
            return any(document["Id"].startswith(value) for value in values)
        case "driver":
            return document["Driver"] in values
        case "scope":
            return document["Scope"] in values
        case "type":
            return ("builtin" if predefined else "custom") in values
        case "label":
            return all(_has_label(document["Labels"], value) for value in values)
    dangling = not predefined and document["Id"] not in used
    return any(dangling == (value.lower() in ("true", "1")) for value in values)


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
