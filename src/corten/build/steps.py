"""What happens in a build as documents with times: for our own client, and for the history of builds.

Each step of each stage has an id; documents tell that it began, what it wrote, and how it ended.  Times are
nanoseconds since the epoch.
"""

from __future__ import annotations

import itertools
import threading
import time

from corten.build.workshop import BuildFailed, Document, Report

_KEPT_BYTES = 2 << 20  # of output in the history of one build
_DOCUMENT_BYTES = 160


class Step:
    """One instruction of one stage.  Used by the thread of its stage."""

    def __init__(self, number: int, sink: Report) -> None:
        self._number = number
        self._sink = sink
        self._is_over = False
        self.is_cached = False

    def begin(self, name: str, stage: str, shown: str, lines: tuple[int, int]) -> None:
        """shown: what BuildKit's clients call it, "" for what they do not show; lines: first and last of it"""
        self._sink(
            {
                "step": self._number,
                "name": name,
                "stage": stage,
                "started": time.time_ns(),
                "shown": shown,
                "lines": list(lines),
            }
        )

    def output(self, text: str, *, is_error: bool) -> None:
        stream = 2 if is_error else 1
        self._sink({"step": self._number, "output": text, "stream": stream, "time": time.time_ns()})

    def status(self, document: Document) -> None:
        """Progress of a pull or a download."""
        self._sink({"step": self._number, **document, "time": time.time_ns()})

    def not_cached(self, reason: str) -> None:
        self._sink({"step": self._number, "miss": reason})

    def end(self, error: str = "", failed: BuildFailed | None = None) -> None:
        """Once; later ends mean nothing.  failed: a program's exit, when that is why"""
        if self._is_over:
            return
        self._is_over = True
        document: Document = {"step": self._number, "completed": time.time_ns()}
        if self.is_cached:
            document["cached"] = True
        if error:
            document["error"] = error
        if failed is not None and failed.command:
            document.update(command=failed.command, code=failed.code)
        self._sink(document)


class Steps:
    """All steps of a build.  Thread-safe.

    tell: where documents go as they happen
    """

    def __init__(self, tell: Report) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._kept: list[Document] = []
        self._held = 0
        self._left_out = 0
        self.total = self.cached = 0

    def begin(self, name: str, stage: str, shown: str = "", lines: tuple[int, int] = (0, 0)) -> Step:
        with self._lock:
            self.total += 1
            step = Step(next(self._numbers), self._record)
        step.begin(name, stage, shown, lines)
        return step

    def warn(self, line: int, text: str) -> None:
        self._record({"warning": text, "line": line})

    def _record(self, document: Document) -> None:
        with self._lock:
            if document.get("cached"):
                self.cached += 1
            if "progressDetail" not in document:
                self._keep(document)
        self._tell(document)

    def _keep(self, document: Document) -> None:
        size = _DOCUMENT_BYTES + len(document.get("output", ""))
        if "output" in document and self._held + size > _KEPT_BYTES:
            self._left_out += 1
            return
        self._held += size
        self._kept.append(document)

    def log(self) -> list[Document]:
        """What happened so far, without what only moved a bar; long output is cut."""
        with self._lock:
            found = list(self._kept)
            if self._left_out:
                found.append({"warning": f"{self._left_out} pieces of output are left out", "line": 0})
            return found
