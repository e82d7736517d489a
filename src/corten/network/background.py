"""What the kernel is slow at, done beside the starts: namespaces are made ahead and taken away in batches.

Deleting one veth waits for every processor to have passed a quiet moment, 10 ms and more; deleting a hundred together
waits hardly longer.  So a sandbox is given back by closing its descriptors: the kernel takes the namespaces that have
ended away together, with their links.  Only links of namespaces that somebody still uses are deleted by us.
"""

from __future__ import annotations

import enum
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable

from corten.linux import rtnetlink as rt
from corten.linux.netlink import Connection
from corten.network import conntrack, limits, sandbox
from corten.network.sandbox import Sandbox

logger = logging.getLogger(__name__)

_PREPARED = 8
# how long the kernel may need for a namespace that nobody uses
_GRACE_S = 0.5
# groups of interfaces are numbers; this one is told apart from those of people by its size
_GROUP = 0x43000000


class _Order(enum.Enum):
    PREPARE = enum.auto()
    END = enum.auto()


class Background:
    """Sandboxes before and after their use.  Methods may be called from any thread.

    host:        an rtnetlink connection of the host that several threads may use
    connections: one of NETLINK_NETFILTER
    """

    def __init__(self, host: Connection, connections: Connection) -> None:
        self._host = host
        self._connections = connections
        self._group = _GROUP | os.getpid() & 0xFFFFFF
        self._prepared: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Sandbox | _Order | frozenset[str]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        # links whose namespaces have been given back, and when the kernel should have taken them away
        self._leaving: list[tuple[float, list[str]]] = []

    def take(self) -> Sandbox:
        """A namespace that nobody uses.  Errors: OSError."""
        try:
            box = self._prepared.get_nowait()
        except queue.Empty:
            box = sandbox.new()
        self._wake()
        return box

    def give_back(self, box: Sandbox) -> None:
        """Have a sandbox taken away."""
        self._start()
        self._work.put(box)

    def forget(self, addresses: Iterable[str]) -> None:
        """Have the kernel forget connections of addresses that are given back."""
        self._start()
        self._work.put(frozenset(addresses))

    def close(self) -> None:
        """Finish what has been given back, let go of what is prepared."""
        if self._thread is not None:
            self._work.put(_Order.END)
            self._thread.join()
        while not self._prepared.empty():
            self._prepared.get().close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._start()
        if self._prepared.qsize() <= _PREPARED // 2:
            self._work.put(_Order.PREPARE)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="corten-networks", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        is_open = True
        while is_open:
            self._prepare()
            is_open = self._finish(self._next_batch())
        self._delete(time.monotonic() + _GRACE_S)

    def _next_batch(self) -> list[Sandbox | _Order | frozenset[str]]:
        """Everything that waits; nothing when it is time to look after links."""
        timeout = max(0.0, self._leaving[0][0] - time.monotonic()) if self._leaving else None
        batch: list[Sandbox | _Order | frozenset[str]] = []
        try:
            batch.append(self._work.get(timeout=timeout))
            while True:
                batch.append(self._work.get_nowait())
        except queue.Empty:
            return batch

    def _prepare(self) -> None:
        while self._prepared.qsize() < _PREPARED and self._work.empty():
            try:
                self._prepared.put(sandbox.new())
            except OSError as error:
                logger.warning("cannot prepare a network namespace: %s", error)
                return

    def _finish(self, batch: list[Sandbox | _Order | frozenset[str]]) -> bool:
        """Do what a batch asks for; whether there is more to come."""
        self._dispose([item for item in batch if isinstance(item, Sandbox)])
        given_back = [address for item in batch if isinstance(item, frozenset) for address in item]
        if given_back:
            try:
                conntrack.forget(self._connections, addresses=given_back)
            except OSError as error:
                logger.warning("connections of endpoints that have gone: %s", error)
        now = time.monotonic()
        if self._leaving and self._leaving[0][0] <= now:
            self._delete(now)
        return _Order.END not in batch

    def _dispose(self, boxes: list[Sandbox]) -> None:
        attached = [item for box in boxes for item in box.endpoints.values()]
        names = [item.host_link for item in attached if item.host_link]
        try:
            # whoever still uses a namespace is cut off at once: its address may be somebody else's in a moment
            self._host.transact([rt.disable_bridge_port(name) for name in names])
        except OSError as error:
            logger.warning("links of sandboxes: %s", error)
        names += [name for item in attached for name in limits.devices(item)]
        for box in boxes:
            box.endpoints.clear()
            box.close()
        if names:
            self._leaving.append((time.monotonic() + _GRACE_S, names))

    def _delete(self, now: float) -> None:
        """Delete the links that are still there although the kernel has had its time."""
        due = [name for deadline, names in self._leaving if deadline <= now for name in names]
        self._leaving = [item for item in self._leaving if item[0] > now]
        if not due:
            return
        try:
            self._host.transact([rt.set_group(name, self._group) for name in due])
            self._host.transact([rt.delete_group(self._group)])
        except OSError as error:
            logger.warning("a sandbox is not quite gone: %s", error)
