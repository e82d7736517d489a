"""Which subnets networks get, and which addresses their endpoints: bookkeeping without any kernel."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from corten.errors import Forbidden, InvalidParameter

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Docker's: (where subnets are taken from, their prefix length)
DEFAULT_POOLS = (*((f"172.{number}.0.0/16", 16) for number in range(17, 32)), ("192.168.0.0/16", 20))


@functools.lru_cache(4096)  # the same ones are looked at for every new network
def parse_network(text: str) -> Network:
    """A subnet in its true form.  Errors: InvalidParameter."""
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(f"invalid subnet {text}: invalid CIDR block notation") from None


def parse_address(text: str, what: str = "IP address") -> Address:
    """Errors: InvalidParameter."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid {what}: {text}") from None


@dataclass(frozen=True, slots=True)
class Pool:
    """Subnets of one size: ``base`` cut into pieces of ``size`` prefix bits."""

    base: Network
    size: int


def parse_pools(pools: Iterable[tuple[str, int]]) -> tuple[Pool, ...]:
    """Errors: InvalidParameter."""
    parsed = []
    for base, size in pools:
        network = parse_network(base)
        if not network.prefixlen <= size <= network.max_prefixlen:
            raise InvalidParameter(f"invalid default address pool {base}: size {size} does not fit")
        parsed.append(Pool(network, size))
    return tuple(parsed)


def free_subnet(pools: Sequence[Pool], version: int, taken: Iterable[str]) -> Network:
    """The first subnet of the pools that touches nothing of ``taken``.

    Errors: InvalidParameter when all are used up, in Docker's words.
    """
    used = [item for item in map(parse_network, taken) if item.version == version]
    for pool in pools:
        if pool.base.version == version and (found := _first_gap(pool, used)) is not None:
            return found
    raise InvalidParameter("all predefined address pools have been fully subnetted")


def _first_gap(pool: Pool, used: Sequence[Network]) -> Network | None:
    """The first piece of a pool that touches nothing that is used: one pass over what is, in order."""
    base, bits = pool.base, pool.base.max_prefixlen - pool.size
    first, number = int(base.network_address), 0
    for low, high in sorted(_ends(item) for item in used if item.overlaps(base)):
        if first + ((number + 1) << bits) <= low:
            break
        number = max(number, ((high - first) >> bits) + 1)
    address = first + (number << bits)
    return type(base)((address, pool.size)) if address <= int(base[-1]) else None


def _ends(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def check_overlap(subnet: str, taken: Iterable[str]) -> None:
    """Errors: Forbidden in Docker's words."""
    wanted = parse_network(subnet)
    for other in map(parse_network, taken):
        if other.version == wanted.version and other.overlaps(wanted):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")


@dataclass(slots=True)
class Allocator:
    """The addresses of one subnet.

    range:  where endpoints without a wish get theirs from
    Addresses are given in turn, so that one that has just become free is not the next to be used.
    """

    subnet: Network
    range: Network
    gateway: Address | None
    reserved: set[Address] = field(default_factory=set)
    used: dict[Address, str] = field(default_factory=dict)
    _last: int = -1

    @classmethod
    def parse(cls, subnet: str, *, ip_range: str = "", gateway: str = "", aux: Iterable[str] = ()) -> Allocator:
        """An empty gateway is the first address.  Errors: InvalidParameter for what lies outside."""
        network = parse_network(subnet)
        chosen = parse_network(ip_range) if ip_range else network
        if chosen.version != network.version or chosen[0] not in network or chosen[-1] not in network:
            raise InvalidParameter(f"invalid ip-range {ip_range}: it is not in subnet {network}")
        if network.num_addresses < 4 and not gateway:
            way = network[0]
        else:
            way = parse_address(gateway, "gateway") if gateway else chosen[1] if ip_range else network[1]
        others = {parse_address(item, "auxiliary address") for item in aux}
        for address in (way, *others):
            if address not in network:
                raise InvalidParameter(f"no matching subnet for address {address}")
        return cls(network, chosen, way, others)

    def take(self, owner: str, wanted: str = "") -> str:
        """An address with its prefix, "172.18.0.2/16".

        Errors: Forbidden ("Address already in use", "no available IPv4 addresses …"), InvalidParameter.
        """
        if wanted:
            address = parse_address(wanted)
            if address not in self.subnet:
                raise InvalidParameter(f"invalid endpoint settings:\nno configured subnet contains IP address {wanted}")
            if not self._is_free(address):
                raise Forbidden("Address already in use")
        else:
            address = self._next()
        self.used[address] = owner
        return f"{address}/{self.subnet.prefixlen}"

    def hold(self, owner: str, address: str) -> None:
        """Note an address that somebody has already."""
        parsed = ipaddress.ip_interface(address).ip
        self.used[parsed] = owner
        if parsed in self.range:
            self._last = max(self._last, int(parsed) - int(self.range.network_address))

    def release(self, address: str) -> None:
        """Nobody's again; an address that is nobody's already is no error."""
        self.used.pop(ipaddress.ip_interface(address).ip, None)

    def status(self) -> tuple[int, int]:
        """(addresses that nobody can get any more, those that are left in the range)."""
        held = {self.gateway, *self.reserved, *self.used} - {None}
        if self.subnet.num_addresses >= 4:
            held.add(self.subnet.network_address)
            if self.subnet.version == 4:
                held.add(self.subnet.broadcast_address)
        return len(held), self.range.num_addresses - sum(address in self.range for address in held if address)

    def _is_free(self, address: Address) -> bool:
        if address in self.used or address == self.gateway or address in self.reserved:
            return False
        if self.subnet.num_addresses < 4:
            return True
        broadcast = self.subnet.version == 4 and address == self.subnet[-1]
        return address != self.subnet.network_address and not broadcast

    def _next(self) -> Address:
        count = min(self.range.num_addresses, 1 << 24)
        first = self.range.network_address
        for step in range(1, count + 1):
            offset = (self._last + step) % count
            address = first + offset
            if self._is_free(address):
                self._last = offset
                return address
        raise Forbidden(
            f"no available IPv{self.subnet.version} addresses on this network's address pools: {self.range}"
        )
