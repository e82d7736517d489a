"""The progress of a build: lines that say which step they belong to, or on a terminal what runs now.

The daemon tells of steps as ``corten.build.steps`` has them; the history of builds shows the same lines later.
"""

from __future__ import annotations

import re
import shutil

from corten.cli.progress import amount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TextIO

    Document = dict[str, Any]

    class Progress(Protocol):
        def show(self, document: Document) -> None: ...
        def close(self) -> None: ...


_SECOND = 10**9
_SHOWN_LINES = 4  # of a running step's output, on a terminal
_REDRAW_NS = _SECOND // 10
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f]")


class _Step:
    __slots__ = ("lines", "name", "number", "rest", "started", "state")

    def __init__(self, document: Document) -> None:
        self.number: int = document["step"]
        stage = f"{document['stage']} " if not str(document.get("stage", "")).isdigit() else ""
        self.name = f"[{stage}{document['name'].partition(' ')[0]}] {document['name'].partition(' ')[2]}"
        self.started: int = document["started"]
        self.rest: dict[int, str] = {}  # stream -> the beginning of a line
        self.lines: list[str] = []
        self.state = ""

    def complete(self, text: str, stream: int) -> list[str]:
        """The lines that are complete with this text."""
        *lines, rest = (self.rest.get(stream, "") + text).split("\n")
        self.rest[stream] = rest
        return [line.rstrip("\r") for line in lines]

    def remainder(self) -> list[str]:
        return [line for line in self.rest.values() if line]

    def seconds(self, now: int) -> str:
        return f"{max(0, now - self.started) / _SECOND:.1f}s"


class Plain:
    """Every line with the number of its step, and for output the seconds since the step began."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._steps: dict[int, _Step] = {}
        self._last = 0

    def _line(self, step: _Step, text: str) -> None:
        if self._last and self._last != step.number:
            self._out.write(f"\n#{step.number} {step.name}\n" if step.state else "\n")
        self._last = step.number
        step.state = "told"
        self._out.write(f"#{step.number} {text}\n")

    def show(self, document: Document) -> None:
        if "step" in document:
            self._show_step(document)
        elif "warning" in document:
            self._out.write(_warning(document) + "\n")
        elif "tagged" in document:
            self._out.write(f"\nnaming to {document['tagged']}\n")
        self._out.flush()

    def _show_step(self, document: Document) -> None:
        if "started" in document:
            step = self._steps[document["step"]] = _Step(document)
            self._line(step, step.name)
            return
        step = self._steps[document["step"]]
        if "miss" in document:
            self._line(step, f"not cached: {document['miss']}")
        elif "output" in document:
            seconds = (document["time"] - step.started) / _SECOND
            for line in step.complete(document["output"], document["stream"]):
                self._line(step, f"{seconds:.3f} {line}")
        elif "status" in document:
            if not document.get("progressDetail"):
                self._line(step, " ".join(filter(None, (document.get("id"), document["status"]))))
        elif "completed" in document:
            for line in step.remainder():
                self._line(step, line)
            self._line(step, _ending(step, document))

    def close(self) -> None:
        self._out.flush()


def _ending(step: _Step, document: Document) -> str:
    if document.get("error"):
        return f"ERROR: {document['error']}"
    return "CACHED" if document.get("cached") else f"DONE {step.seconds(document['completed'])}"


def _warning(document: Document) -> str:
    place = f" line {document['line']}:" if document.get("line") else ""
    return f"WARNING:{place} {document['warning']}"


def _visible(line: str) -> str:
    """What a terminal would show of a line in the end, without what moves its cursor or colours it."""
    return _CONTROL.sub("", line.rpartition("\r")[2])


class Live:
    """On a terminal: one line for each step that has ended, and below them what runs now with its last output."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._running: dict[int, _Step] = {}
        self._drawn = 0
        self._drawn_at = 0
        self._now = 0
        self._ended = 0
        self._begun = 0

    def show(self, document: Document) -> None:
        self._now = max(self._now, *(document.get(name, 0) for name in ("started", "time", "completed")))
        if "warning" in document:
            self._above([_warning(document)])
        elif "tagged" in document:
            self._above([f" => naming to {document['tagged']}"])
        elif "step" in document:
            self._show_step(document)
        if self._now - self._drawn_at >= _REDRAW_NS or not self._running:
            self._draw()

    def _show_step(self, document: Document) -> None:
        number = document["step"]
        if "started" in document:
            self._running[number] = _Step(document)
            self._begun += 1
            return
        step = self._running[number]
        if "output" in document:
            step.lines = (step.lines + step.complete(document["output"], document["stream"]))[-50:]
        elif "miss" in document:
            step.lines.append(f"not cached: {document['miss']}")
        elif "status" in document:
            detail = amount(document.get("progressDetail") or {}, 0)
            step.state = " ".join(filter(None, (document.get("id"), document["status"], detail)))
        elif "completed" in document:
            del self._running[number]
            self._ended += 1
            self._finish(step, document)

    def _finish(self, step: _Step, document: Document) -> None:
        if document.get("error"):
            output = step.lines + step.remainder()
            self._above([f" => ERROR {step.name}", *(f"    {line}" for line in output[-20:])])
        elif document.get("cached"):
            self._above([f" => CACHED {step.name}"])
        else:
            self._above([self._filled(f" => {step.name}", step.seconds(document["completed"]))])

    def _filled(self, left: str, right: str) -> str:
        width = shutil.get_terminal_size((80, 24)).columns - 1
        room = max(10, width - len(right) - 1)
        return f"{left[:room]:<{room}} {right}"

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _above(self, lines: list[str]) -> None:
        self._erase()
        self._out.write("".join(f"{line}\n" for line in lines))
        self._drawn_at = 0

    def _draw(self) -> None:
        self._erase()
        self._drawn_at = self._now
        columns, rows = shutil.get_terminal_size((80, 24))
        lines = []
        for step in self._running.values():
            lines.append(self._filled(f" => {step.name}", step.seconds(self._now)))
            if step.state:
                lines.append(f" => => {step.state}")
            lines += [f" => => # {_visible(line)}" for line in step.lines[-_SHOWN_LINES:]]
        lines = [line[: columns - 1] for line in lines[-(rows - 2) :]]
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        self._erase()
        self._out.flush()


class Nothing:
    """Quiet."""

    def show(self, document: Document) -> None:
        pass

    def close(self) -> None:
        pass
