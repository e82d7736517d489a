"""The helpers that a shim waits for: what each has to say becomes the answer to whoever asked."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from corten.errors import CortenError
from corten.shim import protocol
from corten.shim.control import Reply
from corten.shim.helper import Helper, Program, Result
from corten.shim.loop import EpollLoop

Then = Callable[[Result], dict[str, Any]]


class Helpers:
    """
    settled: called whenever one has been answered
    """

    def __init__(self, loop: EpollLoop, settled: Callable[[], None]) -> None:
        self._loop = loop
        self._settled = settled
        self.count = 0

    def ask(
        self,
        helper: Helper | Program,
        reply: Reply,
        then: Then = lambda result: result[0],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for its result, of which ``then`` makes the answer; ``failed`` is called where there is none."""
        self.count += 1
        self._watch(helper, reply, then, failed)

    def _watch(self, helper: Helper | Program, reply: Reply, then: Then, failed: Callable[[], None]) -> None:
        # nothing here may refer to itself: a shim collects no cycles
        self._loop.watch(helper.fileno(), select.EPOLLIN, lambda events: self._told(helper, reply, then, failed))

    def _told(self, helper: Helper | Program, reply: Reply, then: Then, failed: Callable[[], None]) -> None:
        self._loop.forget(helper.fileno())
        try:
            result = helper.result()
            if result is None:
                self._watch(helper, reply, then, failed)
                return
            answer = then(result)
        except (CortenError, OSError, ValueError) as error:
            failed()
            answer = {"error": protocol.describe_error(error)}
        self.count -= 1
        reply(answer)
        self._settled()
