"""Hears what others change in the machine's firewall, and tells what concerns us."""

from __future__ import annotations

import socket

from corten.linux import nftlist
from corten.linux.netlink import NETLINK_NETFILTER, listener, unpack
from corten.linux.nftables import INET
from corten.network import neighbours
from corten.network.firewall import Firewall
from corten.network.ruleset import CHAINS, SETS, USER

_BYTES = 1 << 16


class Watcher:
    """Notifications of the network namespace in which ``socket`` is called first."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._socket: socket.socket | None = None

    @property
    def socket(self) -> socket.socket:
        """Readable when somebody has changed something.  Errors: OSError."""
        if self._socket is None:
            self._socket = listener(NETLINK_NETFILTER, nftlist.GROUP)
        return self._socket

    def look(self) -> bool:
        """Read what has changed, without waiting; whether the firewall has to be looked after."""
        needed = False
        own = self._firewall.port
        while self._socket is not None:
            try:
                data = self._socket.recv(_BYTES)
            except BlockingIOError:
                break
            except OSError:
                # more has happened than could be told (ENOBUFS): anything may be changed
                self._firewall.damaged()
                needed = True
                continue
            for message in unpack(data):
                if message.port == own:
                    continue
                change = nftlist.change(message.kind, message.port, message.body)
                if change is not None and self._concerns(change):
                    needed = True
        return needed

    def _concerns(self, change: nftlist.Change) -> bool:
        if change.table != self._firewall.table or change.family != INET:
            return neighbours.concerns(change)
        if change.kind in ("chain", "rule") and change.name == USER:
            return True
        is_ours = change.kind == "table" or change.name in (CHAINS if change.kind in ("chain", "rule") else SETS)
        if is_ours:
            self._firewall.damaged()
        return is_ours

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
