"""Who is found under which name: the table that resolvers of containers answer from, and the host's own resolvers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corten.engine.container import Container
from corten.network.resolver import ADDRESS, NewSocket, Server, Zone

DNS_PORT = 53
_HOST_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_FALLBACK = ("8.8.8.8", "8.8.4.4")


def host_resolv_conf() -> str:
    """The host's configuration; where it names only a resolver of its own, what that one asks (systemd-resolved(8))."""
    for path in _HOST_FILES:
        try:
            text = path.read_text()
        except OSError:
            continue
        servers = nameservers(text)
        if servers != ["127.0.0.53"]:
            return text
    return ""


def nameservers(text: str) -> list[str]:
    """The servers of a resolv.conf(5) that are addresses."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(words[1])
    return found


@dataclass(frozen=True, slots=True)
class Resolving:
    """What the daemon's configuration says of name servers, for containers that ask for none."""

    servers: Sequence[str] = ()
    options: Sequence[str] = ()
    search: Sequence[str] = ()

    def servers_of(self, container: Container) -> list[str]:
        return list(container.host_config.dns or self.servers)

    def options_of(self, container: Container) -> list[str]:
        return list(container.host_config.dns_options or self.options)

    def search_of(self, container: Container) -> list[str]:
        return list(container.host_config.dns_search or self.search)


def outside_servers(given: Sequence[str], host_text: str) -> list[str]:
    """Servers that a container without a resolver of its own asks: the given ones, or the host's that it can reach."""
    if given:
        return list(given)
    reachable = [
        item for item in nameservers(host_text) if not ipaddress.ip_address(item.partition("%")[0]).is_loopback
    ]
    return reachable or list(_FALLBACK)


class Names:
    """Addresses by name and names by address, of each network."""

    def __init__(self) -> None:
        # network -> owner -> (names, addresses); network -> name or address -> owner -> what it stands for
        self._entries: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {}
        self._forward: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}
        self._reverse: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}

    def add(self, network: str, owner: str, names: Sequence[str], addresses: Sequence[str]) -> None:
        """Have an endpoint found; what it was found under before is forgotten."""
        self.remove(network, owner)
        entry = tuple(name.lower() for name in names), tuple(addresses)
        self._entries.setdefault(network, {})[owner] = entry
        forward, reverse = self._forward.setdefault(network, {}), self._reverse.setdefault(network, {})
        for name in entry[0]:
            forward.setdefault(name, {})[owner] = entry[1]
        for address in entry[1]:
            reverse.setdefault(address, {})[owner] = entry[0][:1]

    def remove(self, network: str, owner: str) -> None:
        """Have an endpoint found no more; one that is unknown is no error."""
        entries = self._entries.get(network, {})
        if owner not in entries:
            return
        names, addresses = entries.pop(owner)
        for table, keys in ((self._forward, names), (self._reverse, addresses)):
            for key in keys:
                owners = table[network].get(key, {})
                owners.pop(owner, None)
                if not owners:
                    table[network].pop(key, None)
        if not entries:
            for tables in (self._entries, self._forward, self._reverse):
                del tables[network]

    def addresses(self, network: str, name: str) -> list[str] | None:
        """None for a name that the network does not have."""
        owners = self._forward.get(network, {}).get(name)
        return None if owners is None else [address for found in owners.values() for address in found]

    def names(self, network: str, address: str) -> list[str]:
        owners = self._reverse.get(network, {}).get(address, {})
        return [name for found in owners.values() for name in found]


class Zones:
    """What each container can ask for."""

    def __init__(self, names: Names, resolving: Resolving) -> None:
        self._names = names
        self._resolving = resolving

    def of(self, container: Container, networks: dict[str, str], *, outside: bool, inside: NewSocket) -> Zone:
        """The zone of one container.

        networks: name -> id of those in which names are resolved
        outside:  others may be asked as well
        inside:   makes sockets in the container's sandbox
        """

        def lookup(name: str) -> Sequence[str] | None:
            plain = name.rstrip(".")
            for network, network_id in networks.items():
                endpoint = container.networks.get(network)
                wanted = plain.removesuffix(f".{network}".lower())
                linked = _linked(endpoint.settings.links, wanted) if endpoint is not None else ""
                for candidate in filter(None, (linked, plain, wanted)):
                    found = self._names.addresses(network_id, candidate)
                    if found is not None:
                        return found
            return None

        def reverse(address: str) -> Sequence[str]:
            for network, network_id in networks.items():
                found = self._names.names(network_id, address)
                if found:
                    return [f"{name}.{network}" for name in found]
            return ()

        def servers() -> Sequence[Server]:
            if not outside:
                return ()
            given = self._resolving.servers_of(container)
            # what the container names is seen as the container sees it; the host's own may be on its loopback
            chosen = given or nameservers(_read(_HOST_FILES[0]))
            return [Server(server, DNS_PORT, bool(given)) for server in chosen if server != ADDRESS]

        return Zone(lookup, reverse, servers, inside)


def _linked(links: Sequence[str], name: str) -> str:
    """The container that a link's alias stands for."""
    for link in links:
        target, _, alias = link.partition(":")
        if (alias or target).lower() == name:
            return target.lower()
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
