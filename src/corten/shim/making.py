"""The maker: a short-lived child of a new shim that makes its container.

::

    daemon                maker                                  shim
      │ start ─────────────▶│                                      │  asleep
      │                     │ directory, socket, log, pipes        │
      │                     │ mount, cgroup, init                  │
      │                     │ handover ───────────────────────────▶│  carries the streams from here on
      │                     │ init executes the program            │
      │◀──────── answer ────│ running | failed ───────────────────▶│  serves its socket and the daemon | ends
"""

from __future__ import annotations

import _signal
import _socket
import array
import contextlib
import json
import os
from typing import Any

from corten.errors import SystemFailure
from corten.linux import pages
from corten.linux import process as kernel
from corten.logdriver.options import LogOptions
from corten.logdriver.writers import check_writable
from corten.runtime.newborn import Newborn
from corten.shim import control, handover, launch, protocol, self_care
from corten.shim.pipes import Pipes
from corten.shim.protocol import Packet
from corten.shim.working_set import INIT, MAKER, WorkingSet


def become_maker(
    connection: int, channel: _socket.socket, parent: int, ahead: list[str], working_set: WorkingSet
) -> None:
    """The child's whole life.

    connection:  to the daemon, which says what to make
    channel:     to the shim
    ahead:       the namespaces that the container will probably need new; none when what to make is known already
    working_set: what to copy while there is time
    """
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        # a maker must not finish a container that nobody watches
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != parent:
            return
        self_care.allow_oom_kill()
        newborn = Newborn.bear(ahead, working_set.of(INIT), observed=not working_set.knows(INIT))
        if ahead:
            pages.make_own(working_set.of(MAKER))
        daemon = _socket.socket(fileno=connection)
        packet = protocol.receive(daemon)
        if packet is not None:
            _answer(daemon, channel, packet, newborn)
            if newborn is not None and newborn.touched:
                working_set.tell(INIT, newborn.touched)
            if not working_set.knows(MAKER):
                working_set.tell_own(MAKER)
    finally:
        os._exit(0)


def _answer(daemon: _socket.socket, channel: _socket.socket, packet: Packet, newborn: Newborn | None) -> None:
    maker = Maker(packet, channel, newborn)
    verdict = handover.FAILED
    try:
        answer = maker.make()
        verdict = handover.RUNNING
    except BaseException as error:
        answer = {"error": protocol.describe_error(error)}
        maker.undo()
    with contextlib.suppress(OSError):
        protocol.send(daemon, {**answer, "seq": packet.header.get("seq", 0)})
    with contextlib.suppress(OSError):
        channel.send(verdict)


class Maker:
    """One attempt."""

    def __init__(self, packet: Packet, channel: _socket.socket, newborn: Newborn | None) -> None:
        self._newborn = newborn
        self._packet = packet
        self._header = packet.header
        self._channel = channel
        self._directory = ""

    def make(self) -> dict[str, Any]:
        """Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure."""
        header = self._header
        if header["op"] != "start":
            raise SystemFailure(f"a new shim was asked to {header['op']}", step="start")
        place = launch.Place(header, self._packet.take_payload())
        if self._newborn is not None:
            if place.runtime:
                self._newborn.dismiss()
            else:
                self._newborn.tell(place.spec_fd, place.seccomp_cache)
        os.mkdir(place.directory, 0o710)
        self._directory = place.directory
        launch.write_file(place.directory, "shim.pid", str(os.getppid()))
        listener = control.listen(place.directory)
        self._check_log(header["log"])
        pipes = Pipes(tty=header["tty"], with_input=header["open_stdin"])

        def hand_over(pid: int, started_ns: int, console: int) -> None:
            streams = [console] if console >= 0 else pipes.ours
            self._hand_over(pid, started_ns, [listener, place.spec_fd, *streams, *self._packet.descriptors])

        return launch.start(place, pipes.theirs, hand_over, self._newborn)

    @staticmethod
    def _check_log(log: dict[str, Any]) -> None:
        try:
            check_writable(log["type"], log["path"])
        except OSError as error:
            text = f"failed to initialize logging driver: {(error.strerror or '').lower()}: {error.filename}"
            raise SystemFailure(text, step="log", errno=error.errno or 0) from error

    def _hand_over(self, pid: int, started_ns: int, descriptors: list[int]) -> None:
        header, options = self._header, LogOptions(*self._header["log"]["options"])
        flags = 0
        for flag, chosen in (
            (handover.TTY, header["tty"]),
            (handover.STDIN, header["open_stdin"]),
            (handover.STDIN_ONCE, header["stdin_once"]),
            (handover.DROP_SLOW, options.non_blocking),
            (handover.LOGGED, header["log"]["type"] != "none"),
            (handover.ORPHANS, header["orphans"]),
            (handover.FOREIGN, bool(header["runtime"])),
        ):
            flags |= flag if chosen else 0
        clients = [(handover.wants(item), bytes.fromhex(item["detach_keys"])) for item in header["attach"]]
        log = header["log"]
        plan = (log["type"], log["path"], tuple(log["options"]), log["attributes"])
        message = handover.pack((pid, started_ns, flags, clients, plan, json.dumps(header).encode()))
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", descriptors))
        self._channel.sendmsg([message], [rights])
        if header["orphans"] and self._channel.recv(len(handover.READY)) != handover.READY:
            raise SystemFailure("the container's shim has been killed", step="handover")

    def undo(self) -> None:
        """Leave nothing: what ``launch.start`` made it has taken away itself."""
        if self._directory:
            for name in os.listdir(self._directory):
                os.unlink(f"{self._directory}/{name}")
            os.rmdir(self._directory)
