"""The results of tests that run in a guest."""

from __future__ import annotations

import threading
import time
from typing import Any

from guest import Guest, GuestFailure

_SILENCE_S = 420  # a test inside has 300 seconds


class Results:
    """What the tests inside come to, as it comes."""

    def __init__(self, guest: Guest, nodes: list[str]) -> None:
        self._guest = guest
        self._arrived = threading.Condition()
        self._found: dict[str, dict[str, Any]] = {}
        self._last = time.monotonic()
        self._ended = ""
        self._thread = threading.Thread(target=self._run, args=(nodes,), daemon=True)
        self._thread.start()

    def _run(self, nodes: list[str]) -> None:
        try:
            done = self._guest.pytest(nodes, timeout=60 + 300 * len(nodes), report=self._take)
            end = f"the tests inside have ended with {done.code}:\n{done.output[-3000:]}"
        except (GuestFailure, OSError) as error:
            end = str(error)
        with self._arrived:
            self._ended = end
            self._arrived.notify_all()

    def _take(self, report: dict[str, Any]) -> None:
        with self._arrived:
            self._last = time.monotonic()
            self._found[report.get("node") or report["collecting"]] = report
            self._arrived.notify_all()

    def of(self, node: str) -> dict[str, Any]:
        """Errors: GuestFailure when it never comes."""
        with self._arrived:
            while node not in self._found:
                if self._ended:
                    raise GuestFailure(f"no result: {self._ended}")
                if not self._arrived.wait(max(self._last + _SILENCE_S - time.monotonic(), 0)):
                    raise GuestFailure(f"nothing has been heard for {_SILENCE_S} s\n{self._guest.console[-3000:]}")
            return self._found[node]
