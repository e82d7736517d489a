"""Output of stages that run side by side, told one after the other as clients of the classic builder expect it."""

from __future__ import annotations

import threading

from corten.build.workshop import Cancellation, Cancelled, Document, Report

_HELD_BYTES = 4 << 20


class Screen:
    """The first stage that is not finished is told as it happens; what others say waits for its turn.

    stages: in the order they are told.  Thread-safe; a stage that says too much out of turn waits, which harms
    nobody: those before it never wait for it.
    """

    def __init__(self, stages: list[int], sink: Report, cancellation: Cancellation) -> None:
        self._order = list(stages)
        self._sink = sink
        self._cancellation = cancellation
        self._condition = threading.Condition()
        self._held: dict[int, list[Document]] = {}
        self._sizes: dict[int, int] = {}
        self._finished: set[int] = set()

    def tell(self, stage: int, document: Document) -> None:
        """Errors: Cancelled."""
        with self._condition:
            while not self._is_turn(stage) and self._sizes.get(stage, 0) > _HELD_BYTES:
                if self._cancellation.is_cancelled:
                    raise Cancelled("the build was cancelled")
                self._condition.wait(0.2)
            if not self._is_turn(stage):
                self._held.setdefault(stage, []).append(document)
                self._sizes[stage] = self._sizes.get(stage, 0) + 64 + len(str(document.get("stream", "")))
                return
            self._sink(document)

    def _is_turn(self, stage: int) -> bool:
        return not self._order or self._order[0] == stage or stage not in self._order

    def finish(self, stage: int) -> None:
        """The stage has said everything."""
        with self._condition:
            self._finished.add(stage)
            while self._order and self._order[0] in self._finished:
                self._order.pop(0)
                if self._order:
                    self._flush(self._order[0])
            self._condition.notify_all()

    def fail(self, stage: int) -> None:
        """The build ends with this stage: what it said comes out, what others had to say does not matter any more."""
        with self._condition:
            self._order = [stage]
            self._flush(stage)
            self._held.clear()
            self._condition.notify_all()

    def _flush(self, stage: int) -> None:
        for document in self._held.pop(stage, ()):
            self._sink(document)
        self._sizes.pop(stage, None)
