"""Further programs of the container: how they begin, what carries their streams, how their ends are told."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from corten.errors import NotFound, NotModified
from corten.runtime import execution
from corten.shim import handover, launch
from corten.shim.children import SIGKILL, Children
from corten.shim.control import Reply
from corten.shim.helper import Helper, Program, Result
from corten.shim.helpers import Helpers
from corten.shim.loop import EpollLoop
from corten.shim.pipes import Pipes
from corten.shim.protocol import Packet
from corten.shim.streams import Streams

# someone outside the container may hold the program's pipes open: its output is waited for this long after its end
_DRAIN_S = 2.0


class Exec:
    __slots__ = ("code", "pid", "streams")

    def __init__(self, pid: int, streams: Streams) -> None:
        self.pid = pid
        self.streams = streams
        self.code = -1


class Execs:
    """
    tell: an event, for every daemon that listens
    """

    def __init__(self, loop: EpollLoop, helpers: Helpers, tell: Callable[[dict[str, Any]], None]) -> None:
        self._loop = loop
        self._helpers = helpers
        self._tell = tell
        self._entries: dict[str, Exec] = {}

    def begin(self, place: launch.Place, init_pid: int, packet: Packet, reply: Reply) -> None:
        """The operation ``exec``.  init_pid: the container's first process"""
        header, process = packet.header, packet.payload()
        exec_id, tty = header["id"], bool(header["tty"])
        streams = Streams(self._loop, tty=tty, sink=None, drop_slow=False, stdin_once=True)
        streams.on_detached = lambda: self._tell({"event": "detach", "id": exec_id})
        if packet.descriptors:
            handover.attach(streams, packet)
        pipes = Pipes(tty=tty, with_input=header["stdin"])
        theirs = pipes.theirs
        if not tty:
            streams.connect(pipes.ours)

        def made(result: Result) -> dict[str, Any]:
            document, descriptors = result
            if tty:
                streams.connect(descriptors)
            self._entries[exec_id] = Exec(document["pid"], streams)
            return document

        try:
            helper: Helper | Program
            if not place.runtime and execution.can_be_born_inside(init_pid):
                helper = Program(
                    init_pid, lambda target, channel: launch.become(place, init_pid, target, process, theirs, channel)
                )
            else:
                helper = Helper(lambda: launch.execute(place, init_pid, process, theirs))
            self._helpers.ask(helper, reply, made, streams.close)
        except BaseException:
            streams.close()
            raise
        finally:
            pipes.close_theirs()

    def pids(self) -> dict[str, int]:
        return {exec_id: entry.pid for exec_id, entry in self._entries.items()}

    def streams(self, exec_id: str) -> Streams:
        """Errors: NotFound."""
        if exec_id not in self._entries:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self._entries[exec_id].streams

    def kill(self, exec_id: str, number: int) -> None:
        """Errors: NotModified."""
        entry = self._entries.get(exec_id)
        if entry is None or entry.code >= 0:
            raise NotModified("the program has ended")
        os.kill(entry.pid, number)  # ours and not yet waited for: the number is still its own

    # -- ends ---------------------------------------------------------------------------------------------------------

    def claim(self, children: Children) -> None:
        """Act on the ends of those that have ended."""
        for exec_id, entry in list(self._entries.items()):
            if entry.code < 0 and children.has_ended(entry.pid):
                self._ended(exec_id, entry, children.take(entry.pid))

    def end_all(self, children: Children) -> None:
        """The container has ended, and they with it."""
        for exec_id, entry in list(self._entries.items()):
            if entry.code < 0:
                entry.code = children.take(entry.pid, 128 + SIGKILL)
            entry.streams.take_present()
            self._finish(exec_id, entry)

    def _ended(self, exec_id: str, entry: Exec, code: int) -> None:
        """Its last output may still be on its way through the pty, or another process may hold the pipe."""
        entry.code = code
        entry.streams.take_present()
        if not entry.streams.has_outputs:
            self._finish(exec_id, entry)
            return
        entry.streams.on_outputs_ended = lambda: self._finish(exec_id, entry)
        self._loop.call_later(_DRAIN_S, lambda: self._finish(exec_id, entry))

    def _finish(self, exec_id: str, entry: Exec) -> None:
        if self._entries.get(exec_id) is not entry:
            return
        del self._entries[exec_id]
        # first the code, then the end of the stream: whoever sees the end may ask for the code
        self._tell({"event": "exec-exit", "id": exec_id, "code": entry.code})
        entry.streams.end()
