"""A container's network as its own namespace shows it: interfaces, routes, open ports, and what leads to them."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from typing import Any

from corten.engine.container import Container
from corten.engine.endpoint import Endpoint, shown_addresses
from corten.linux import nftables, nftlist

Document = dict[str, Any]

_LISTENING = "0A"


def network(container: Container, table: str) -> Document:
    """Endpoints as they were made; the rest from /proc/<pid>/net and the host's firewall."""
    pid = container.state.pid
    document: Document = {
        "Mode": container.host_config.network_mode,
        "Endpoints": [_endpoint(name, endpoint) for name, endpoint in container.networks.items()],
        "Interfaces": [],
        "Routes": [],
        "Listening": [],
        "Firewall": _firewall(table),
    }
    if pid:
        document["Interfaces"] = _interfaces(_lines(pid, "dev"))
        document["Routes"] = _routes(_lines(pid, "route"))
        document["Listening"] = [row for kind in ("tcp", "tcp6", "udp", "udp6") for row in _sockets(pid, kind)]
    return document


def _endpoint(name: str, endpoint: Endpoint) -> Document:
    shown = endpoint.document()
    return {
        "Network": name,
        **{key: shown.get(key) for key in ("IPAddress", "IPPrefixLen", "GlobalIPv6Address", "Gateway", "MacAddress")},
        "Published": [
            {
                "Port": f"{item.port}/{item.protocol}",
                "Host": [f"{_in_brackets(address)}:{item.host_port}" for address in shown_addresses(item)],
            }
            for item in endpoint.published
        ],
    }


def _in_brackets(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _lines(pid: int, name: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/net/{name}") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _interfaces(lines: list[str]) -> list[Document]:
    """Source: proc_pid_net(5), dev."""
    rows = []
    for line in lines[2:]:
        name, _, numbers = line.partition(":")
        fields = [int(word) for word in numbers.split()]
        rows.append(
            {"Name": name.strip(), "ReceivedBytes": fields[0], "ReceivedPackets": fields[1],
             "SentBytes": fields[8], "SentPackets": fields[9], "Dropped": fields[3] + fields[11]}
        )  # fmt: skip
    return rows


def _routes(lines: list[str]) -> list[Document]:
    """IPv4 routes.  Source: proc_pid_net(5), route: addresses are hexadecimal in the machine's byte order."""
    rows = []
    for line in lines[1:]:
        fields = line.split()
        destination, gateway, mask = (_plain(fields[index]) for index in (1, 2, 7))
        subnet = ipaddress.ip_network(f"{destination}/{mask}")
        rows.append(
            {
                "Destination": "default" if subnet.prefixlen == 0 else str(subnet),
                "Gateway": "" if gateway == "0.0.0.0" else gateway,
                "Interface": fields[0],
            }
        )
    return rows


def _plain(text: str) -> str:
    """An address of one or four words, as /proc writes them."""
    words = [struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _sockets(pid: int, kind: str) -> list[Document]:
    rows = []
    for line in _lines(pid, kind)[1:]:
        fields = line.split()
        if kind.startswith("tcp") and fields[3] != _LISTENING:
            continue
        address, _, port = fields[1].partition(":")
        shown = f"{_in_brackets(_plain(address))}:{int(port, 16)}"
        rows.append({"Protocol": kind.removesuffix("6"), "Address": shown})
    return rows


def _firewall(table: str) -> Document | None:
    """The chains of our table with how many rules each has; None when there is no table, or nobody may look."""
    with contextlib.suppress(OSError):
        connection = nftables.connect()
        try:
            if table in nftlist.tables(connection):
                counts: dict[str, int] = {}
                for rule in nftlist.rules(connection, table):
                    counts[rule.chain] = counts.get(rule.chain, 0) + 1
                return {"Table": f"inet {table}", "Chains": counts, "Sets": nftlist.sets(connection, table)}
        finally:
            connection.close()
    return None
