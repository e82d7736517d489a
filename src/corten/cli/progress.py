"""Progress that a daemon reports while it loads, imports or pulls: a stream of JSON documents."""

from __future__ import annotations

import json
import shutil

from corten.cli.units import decimal_size
from corten.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from corten.client.response import Response


_BAR = 50
_SHORTEST_BAR = 8
_BESIDE_BAR = 56  # columns for id, state and sizes


class Display:
    """Lines on a terminal: those with an id are redrawn in their place."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._rows: dict[str, int] = {}
        self._columns = shutil.get_terminal_size((80, 24)).columns if self._is_terminal else 0

    def show(self, document: dict[str, Any]) -> None:
        if "stream" in document:
            self._out.write(document["stream"])
            self._rows.clear()
            return
        status = document.get("status")
        if status is None:
            return
        identifier = document.get("id") or ""
        progress = amount(document.get("progressDetail") or {}, self._columns)
        text = (f"{identifier}: " if identifier else "") + status + (f" {progress}" if progress else "")
        if not self._is_terminal:
            if not progress:
                self._out.write(f"{text}\n")
            return
        if not identifier:
            self._rows.clear()
            # one that has progress will be followed by the next in its place
            self._out.write(f"\x1b[2K{text}\r" if "progressDetail" in document else f"\x1b[2K{text}\n")
            return
        if identifier not in self._rows:
            self._rows[identifier] = len(self._rows)
            self._out.write("\n")
        up = len(self._rows) - self._rows[identifier]
        self._out.write(f"\x1b[{up}A\x1b[2K\r{text}\x1b[{up}B\r")


def amount(detail: dict[str, Any], columns: int) -> str:
    """ "[=====>     ]  12.5MB/61.2MB"; without the bar where the line has no room for it."""
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return decimal_size(current)
    amount = f"{decimal_size(current)}/{decimal_size(total)}"
    width = min(_BAR, columns - _BESIDE_BAR)
    if width < _SHORTEST_BAR:
        return amount
    filled = min(width, width * current // total)
    drawn = "=" * filled + (">" if filled < width else "")
    return f"[{drawn:<{width}}]  {amount}"


def show_progress(response: Response, out: TextIO | None) -> dict[str, Any]:
    """Show what comes until the stream ends; the last document's ``aux``, if there is one.

    out: None shows nothing

    Errors: SystemFailure with the daemon's words when it reports an error in the stream.
    """
    display = Display(out) if out is not None else None
    aux: dict[str, Any] = {}
    for line in response.lines():
        if not line.strip():
            continue
        document = json.loads(line)
        if "error" in document or "errorDetail" in document:
            detail = document.get("errorDetail") or {}
            raise SystemFailure(detail.get("message") or document.get("error") or "unknown error", in_stream=True)
        if isinstance(document.get("aux"), dict):
            aux = document["aux"]
        if display is not None:
            display.show(document)
    if out is not None:
        out.flush()
    return aux
