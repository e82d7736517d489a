"""Beside firewalld: bridges are put into its zone ``trusted``, and our own table decides about their packets.

firewalld rejects what comes from an interface that it does not know.  A bridge that somebody has put into a zone stays
there.  Zones are forgotten when firewalld is loaded anew: its table is made again then, which the firewall is told of.
Source: firewalld.dbus(5), org.fedoraproject.FirewallD1.zone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

from corten.linux import dbus, nftlist

logger = logging.getLogger(__name__)

# that it is loaded anew is seen by this chain
TABLE, CHAIN = "firewalld", "filter_FORWARD"
_ZONE = "trusted"
_BUS = "/run/dbus/system_bus_socket"
_NAME, _PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
_INTERFACE = "org.fedoraproject.FirewallD1.zone"
_TIMEOUT_S = 10.0


class Firewalld:
    """What this daemon has asked firewalld for; used by one thread at a time."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def trust(self, chains: Iterable[nftlist.Chain], devices: Sequence[str]) -> None:
        """Have exactly these bridges trusted by a firewalld whose table is among the chains.  Never raises."""
        gone = self._asked - set(devices)
        if not any(chain.table == TABLE for chain in chains) or not (devices or gone):
            self._asked.clear()
            return
        try:
            with dbus.Connection(_bus(), timeout_s=_TIMEOUT_S) as bus:
                bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
                for device in gone:
                    self._asked.discard(device)
                    _forget(bus, device)
                for device in devices:
                    if not _call(bus, "getZoneOfInterface", device):
                        _call(bus, "addInterface", _ZONE, device)
                        self._asked.add(device)
        except (OSError, dbus.CallFailed) as error:
            logger.warning(
                "firewalld does not answer: put the bridges into a zone that lets packets through: %s", error
            )


def _forget(bus: dbus.Connection, device: str) -> None:
    if _call(bus, "getZoneOfInterface", device) == _ZONE:
        _call(bus, "removeInterface", _ZONE, device)


def _call(bus: dbus.Connection, method: str, *words: str) -> str:
    answer = bus.call(_NAME, _PATH, _INTERFACE, method, "s" * len(words), *words)
    return str(answer[0]) if answer else ""


def _bus() -> str:
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")
    return address.removeprefix("unix:path=").partition(",")[0] if address.startswith("unix:path=") else _BUS
