"""Networks of a daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corten.client.api import Api, path_of

if TYPE_CHECKING:
    from corten.client.containers import Container

Names = list[str]  # the class below has a method that is called list


@dataclass(frozen=True, slots=True)
class Network:
    """One network.

    subnets:    "172.18.0.0/16"
    containers: ids of those that run in it -> their addresses; empty when it comes from a list
    """

    id: str
    name: str
    driver: str
    subnets: tuple[str, ...]
    containers: dict[str, tuple[str, ...]]
    labels: dict[str, str]
    attrs: dict[str, Any] = field(repr=False, compare=False)


def _network(document: dict[str, Any]) -> Network:
    containers = {
        identifier: tuple(each[key].partition("/")[0] for key in ("IPv4Address", "IPv6Address") if each.get(key))
        for identifier, each in (document.get("Containers") or {}).items()
    }
    subnets = (document.get("IPAM") or {}).get("Config") or ()
    return Network(
        document["Id"],
        document["Name"],
        document["Driver"],
        tuple(each["Subnet"] for each in subnets),
        containers,
        dict(document.get("Labels") or {}),
        document,
    )


def _reference(container: Container | str) -> str:
    return container if isinstance(container, str) else container.id


class Networks:
    """All networks of a daemon.  A network is named by name, id or an unambiguous beginning of its id."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(
        self,
        name: str,
        *,
        subnets: Sequence[str] = (),
        driver: str = "bridge",
        internal: bool = False,
        ipv6: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Network:
        """A network; without subnets it gets a free one.

        Errors: Conflict for a name that is in use; Forbidden for a subnet that overlaps; InvalidParameter.

        >>> client.networks.create("back", internal=True).subnets         # doctest: +SKIP
        ('172.18.0.0/16',)
        """
        document = {
            "Name": name,
            "Driver": driver,
            "Internal": internal,
            "EnableIPv6": ipv6 or any(":" in subnet for subnet in subnets),
            "IPAM": {"Config": [{"Subnet": subnet} for subnet in subnets]},
            "Options": dict(options or {}),
            "Labels": dict(labels or {}),
        }
        return self.get(self._api.post("/networks/create", None, document)["Id"])

    def get(self, reference: str) -> Network:
        """Errors: NotFound."""
        return _network(self._api.get(path_of("/networks/", reference)))

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Network]:
        """All networks that fit."""
        query = {"filters": {key: [*values] for key, values in (filters or {}).items()}}
        return [_network(each) for each in self._api.get("/networks", query)]

    def connect(
        self,
        reference: str,
        container: Container | str,
        *,
        aliases: Sequence[str] = (),
        ipv4: str = "",
        ipv6: str = "",
    ) -> None:
        """Connect a container, running or not.

        Errors: NotFound; Forbidden when it is connected already, or an address is in use; InvalidParameter.
        """
        settings: dict[str, Any] = {"Aliases": [*aliases]}
        if ipv4 or ipv6:
            settings["IPAMConfig"] = {"IPv4Address": ipv4, "IPv6Address": ipv6}
        document = {"Container": _reference(container), "EndpointConfig": settings}
        self._api.post(path_of("/networks/", reference, "/connect"), None, document)

    def disconnect(self, reference: str, container: Container | str, *, force: bool = False) -> None:
        """Errors: NotFound, Forbidden when it is not connected."""
        document = {"Container": _reference(container), "Force": force}
        self._api.post(path_of("/networks/", reference, "/disconnect"), None, document)

    def remove(self, reference: str) -> None:
        """Errors: NotFound; Forbidden while containers run in it."""
        self._api.delete(path_of("/networks/", reference))

    def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> Names:
        """Remove networks that no container uses: their names."""
        query = {"filters": {key: [*values] for key, values in (filters or {}).items()}}
        return [*(self._api.post("/networks/prune", query).get("NetworksDeleted") or ())]
