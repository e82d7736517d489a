"""The shim: one process per container, between daemon and program.

It carries the program's streams to the log and to attached clients, has further programs run, waits for the end and
writes it down.  It lives on without the daemon; any daemon finds it again by ``<exec-root>/<id>/shim.sock``.

What it must not do is grow: everything that needs memory is a ``helper``'s work.  An idle shim sleeps in epoll_wait
and has about a megabyte of its own.

Operations on a control connection (see ``protocol``), each answered with the same ``seq``::

    start                          for the maker (``making``); payload {"spec", "rootfs"}; stream sockets of ``attach``
    attach                         a stream socket
    exec, exec-kill, resize        payload of exec: the process; a stream socket
    kill, pause, resume, update    payload of update: the resources
    log-flush, log-rotate, state

Events: ``exit`` (code, at_ns, oom_killed, problems), ``exec-exit`` (id, code), ``log-error`` (dropped),
``detach`` (id of an exec, or ""): a client has typed its detach keys.

The exit is never lost: it is written to ``exit.json`` before anyone is told, and that file stays until a daemon has
recorded it.  Should the shim itself be killed, the kernel kills the program with it (PR_SET_PDEATHSIG); what that
cannot reach, a daemon finds by ``state.json``.
"""

from __future__ import annotations

import _socket
import contextlib
import json
import os
import select
import time
import traceback
from collections.abc import Callable
from typing import Any

from corten.errors import Conflict, NotFound, NotModified
from corten.runtime import terminal
from corten.shim import ending, handover, launch, protocol, self_care
from corten.shim.children import Children
from corten.shim.control import Control, Reply
from corten.shim.execs import Execs
from corten.shim.handover import FAILED, RUNNING
from corten.shim.helper import Helper, Result
from corten.shim.helpers import Helpers
from corten.shim.log import Log
from corten.shim.loop import EpollLoop
from corten.shim.making import become_maker
from corten.shim.protocol import Packet
from corten.shim.streams import Streams
from corten.shim.working_set import WorkingSet

# someone outside the container may hold the program's pipes open: its output is waited for this long after its end
_DRAIN_S = 1.0
_HELPERS_S = 2.0


class Shim:
    """Owns one container while it runs.

    connection: to the daemon that asked for it; the maker speaks there until it has told its verdict
    maker:      where the maker's handover and verdict come from
    """

    def __init__(self, connection: int, maker: _socket.socket) -> None:
        self._loop = EpollLoop()
        self._control = Control(self._loop, self._handle)
        self._connection = connection
        self._maker = maker
        self._request = b""
        self._listener = self._spec_fd = -1
        self._known_place: launch.Place | None = None
        self._helpers = Helpers(self._loop, self._claim)
        self._execs = Execs(self._loop, self._helpers, self._control.broadcast)
        self._streams: Streams | None = None
        self._log: Log | None = None
        self._pid = 0
        self._started_ns = 0
        self._running = self._is_waiting = self._is_foreign = False
        self._children = Children(self._loop, self._claim)
        self._loop.watch(maker.fileno(), select.EPOLLIN, self._maker_ready)
        self._loop.on_quiet(self_care.trim)

    def run(self) -> None:
        self._loop.run()

    def turn(self) -> None:
        """One wait and what it brings."""
        self._loop.turn()

    def dispose(self) -> None:
        """Let go of everything, as if this had never been."""
        if self._streams is not None:
            self._streams.close()
        if self._log is not None:
            self._log.close()
        self._control.close()
        self._maker.close()
        self._loop.close()
        self._children.close()
        for descriptor in (self._connection, self._listener, self._spec_fd):
            if descriptor >= 0:
                os.close(descriptor)

    # -- start --------------------------------------------------------------------------------------------------------

    def _maker_ready(self, events: int) -> None:
        packet, descriptors = protocol.receive_bytes(self._maker)
        if packet == RUNNING:
            self._begin()
        elif packet and packet != FAILED:
            self._take_over(packet, descriptors)
        else:
            self._give_up(abandoned=not packet)

    def _take_over(self, packet: bytes, descriptors: list[int]) -> None:
        """The program is about to run: be ready for its first byte."""
        self._pid, self._started_ns, flags, clients, plan, self._request = handover.unpack(packet)
        self._listener, self._spec_fd, *rest = descriptors
        self._is_foreign = bool(flags & handover.FOREIGN)
        count = 1 if flags & handover.TTY else 3 if flags & handover.STDIN else 2
        if flags & handover.LOGGED:
            self._log = Log(plan, self._loop, self._tell_log_error, self.leave_trace)
        streams = self._streams = Streams(
            self._loop,
            tty=bool(flags & handover.TTY),
            sink=self._log.write if self._log is not None else None,
            drop_slow=bool(flags & handover.DROP_SLOW),
            stdin_once=bool(flags & handover.STDIN_ONCE),
        )
        streams.on_detached = lambda: self._control.broadcast({"event": "detach", "id": ""})
        streams.connect(rest[:count])
        if flags & handover.ORPHANS:
            self_care.adopt_orphans()
            self._maker.send(handover.READY)
        for (wants, keys), descriptor in zip(clients, rest[count:], strict=True):
            streams.attach(descriptor, wants, keys)

    def _begin(self) -> None:
        """The program runs, and the maker has told the daemon."""
        self._running = True
        self._loop.forget(self._maker.fileno())
        self._maker.close()
        self._control.add(self._connection)
        self._control.serve(self._listener)
        self._connection = self._listener = -1
        self._loop.busy()
        self._claim()

    def _give_up(self, *, abandoned: bool) -> None:
        """There will be no container.  A maker that was killed has not cleaned up."""
        if self._streams is not None:
            self._streams.close()
        if abandoned and self._pid:
            place = self._place()
            cgroup = ending.open_cgroup(place)
            ending.stop_stragglers(cgroup)
            ending.clear(place, cgroup)
            for name in os.listdir(place.directory):
                os.unlink(f"{place.directory}/{name}")
            os.rmdir(place.directory)
        self._loop.running = False

    def _place(self) -> launch.Place:
        """Where the container's things are; read only when something of it is needed."""
        if self._known_place is None:
            self._known_place = launch.Place(json.loads(self._request), self._spec_fd)
        return self._known_place

    def leave_trace(self, error: BaseException) -> None:
        """A defect of our own: say where, for the daemon that finds us gone."""
        with contextlib.suppress(OSError, ValueError), open(f"{self._place().directory}/shim.log", "w") as file:
            traceback.print_exception(error, file=file)

    def _handle(self, packet: Packet, reply: Reply) -> None:
        # by name instead of a table: the table would hold a page of every operation from the start
        operation = getattr(self, f"_op_{packet.header['op']}".replace("-", "_"), None)
        if operation is None:
            raise NotFound(f"the shim knows no operation {packet.header['op']!r}")
        operation(packet, reply)

    # -- helpers and children -----------------------------------------------------------------------------------------

    def _work(self, work: Callable[[launch.Place], Result], reply: Reply) -> None:
        self._check_running()
        place = self._place()
        self._helpers.ask(Helper(lambda: work(place)), reply)

    def _claim(self) -> None:
        """Act on the ends of those we know.  A helper may still have to tell us who its child was."""
        self._execs.claim(self._children)
        if self._running and self._children.has_ended(self._pid):
            if not self._helpers.count:
                self._ended()
            elif not self._is_waiting:
                # who asked for what a helper does now, say to resume what had been killed, shall have the answer first
                self._is_waiting = True
                self._loop.call_later(_HELPERS_S, self._ended)
        elif not self._helpers.count and self._running:
            self._children.forget()

    def _tell_log_error(self) -> None:
        self._control.broadcast({"event": "log-error", "dropped": self._dropped()})

    def _dropped(self) -> int:
        return self._log.dropped if self._log is not None else 0

    # -- operations ---------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if not self._running:
            raise Conflict("the container is not running")

    def _op_attach(self, packet: Packet, reply: Reply) -> None:
        self._check_running()
        assert self._streams is not None
        handover.attach(self._streams, packet)
        reply({})

    def _op_exec(self, packet: Packet, reply: Reply) -> None:
        self._check_running()
        self_care.adopt_orphans()  # the helper leaves its program to us
        self._execs.begin(self._place(), self._pid, packet, reply)

    def _op_pause(self, packet: Packet, reply: Reply) -> None:
        self._work(launch.freeze, reply)

    def _op_resume(self, packet: Packet, reply: Reply) -> None:
        self._work(launch.thaw, reply)

    def _op_exec_kill(self, packet: Packet, reply: Reply) -> None:
        self._execs.kill(packet.header["id"], packet.header["signal"])
        reply({})

    def _op_resize(self, packet: Packet, reply: Reply) -> None:
        header = packet.header
        self._check_running()
        streams = self._execs.streams(header["id"]) if header["id"] else self._streams
        if streams is not None and streams.console >= 0:
            terminal.set_size(streams.console, header["height"], header["width"])
        reply({})

    def _op_kill(self, packet: Packet, reply: Reply) -> None:
        number = packet.header["signal"]
        if not self._running or self._children.has_ended(self._pid):
            raise NotModified("the container has ended")
        if packet.header.get("all"):
            self._work(lambda place: launch.kill_all(place, number), reply)
            return
        if self._is_foreign:
            pid = self._pid
            self._work(lambda place: launch.kill(place, pid, number), reply)
            return
        os.kill(self._pid, number)
        reply({})

    def _op_update(self, packet: Packet, reply: Reply) -> None:
        resources = packet.payload()
        self._work(lambda place: launch.update(place, resources), reply)

    def _op_log_flush(self, packet: Packet, reply: Reply) -> None:
        self._check_running()
        assert self._streams is not None
        self._streams.take_present()
        reply({})

    def _op_log_rotate(self, packet: Packet, reply: Reply) -> None:
        self._check_running()
        if self._log is not None:
            self._log.rotate()
        reply({})

    def _op_state(self, packet: Packet, reply: Reply) -> None:
        reply(
            {"pid": self._pid, "started_ns": self._started_ns, "execs": self._execs.pids(), "dropped": self._dropped()}
        )

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _ended(self) -> None:
        """The program has ended: finish the log, take everything away, write it down, tell everyone."""
        if not self._running:
            return
        code = self._children.take(self._pid)
        place, streams = self._place(), self._streams
        assert streams is not None
        at_ns = time.time_ns()
        self._running = False
        cgroup = ending.open_cgroup(place)
        oom_killed = ending.stop_stragglers(cgroup)
        streams.take_all(_DRAIN_S)
        if self._log is not None:
            self._log.finish()
        self._children.collect()
        self._execs.end_all(self._children)
        problems = ending.clear(place, cgroup)
        if place.last_hooks:
            problems += ending.run_last_hooks(place, self._pid)
        if self._dropped():
            problems.append(f"{self._dropped()} bytes of output were not logged")
        self._write_exit(place, {"code": code, "at_ns": at_ns, "oom_killed": oom_killed}, problems)
        streams.on_clients_gone = self._stop
        streams.end()
        if not streams.has_clients:
            self._stop()

    def _write_exit(self, place: launch.Place, status: dict[str, Any], problems: list[str]) -> None:
        try:
            launch.write_file(place.directory, "exit.json", json.dumps(status))
        except OSError as error:
            problems.append(f"exit.json: {error.strerror}")
        self._control.stop_listening()
        # before anyone hears of the end: a new run of the container makes files of these names
        for name in ("shim.sock", "shim.pid", "state.json"):
            with contextlib.suppress(OSError):
                os.unlink(f"{place.directory}/{name}")
        self._control.broadcast({"event": "exit", **status, "problems": problems})
        self._control.close()

    def _stop(self) -> None:
        """Clients have read everything: nothing is left to do."""
        self._loop.running = False


def run_shim(connection: int, ahead: list[str], working_set: WorkingSet) -> None:
    """The forked child's whole life.

    ahead, working_set: see ``making.become_maker``

    ``_signal`` and ``_socket`` stand for ``signal`` and ``socket`` wherever a shim passes by: the wrappers of those,
    with their enumerations, would cost a shim a quarter of a megabyte.
    """
    os.setsid()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    parent = os.getpid()
    if os.fork() == 0:
        ours.close()
        become_maker(connection, theirs, parent, ahead, working_set)
    theirs.close()
    working_set.close()
    shim = Shim(connection, ours)
    try:
        shim.run()
    except BaseException as error:
        shim.leave_trace(error)
