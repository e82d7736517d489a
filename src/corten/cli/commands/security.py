"""The table of ``corten info --security``."""

from __future__ import annotations

from corten.cli.paint import Paint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

_MARKS = {"pass": "✓", "warn": "!", "info": "·"}
_TITLES = {"daemon": "Daemon", "host": "Host", "containers": "Containers"}


def lines(document: Document, paint: Paint) -> list[str]:
    """Rows in groups: what was looked at, why it matters where it is not as it should be, and what to do."""
    shown: list[str] = []
    for group, title in _TITLES.items():
        shown += ["", paint.title(title)] if shown else [paint.title(title)]
        for row in document["Checks"]:
            if row["Group"] == group:
                shown += _row(row, paint)
    counts = document["Counts"]
    return [*shown, "", f"{counts['pass']} passed, {counts['warn']} warnings, {counts['info']} notes"]


def _row(row: Document, paint: Paint) -> list[str]:
    result = row["Result"]
    line = f"  {_MARKS[result]} {row['Check']}"
    if result == "pass":
        return [paint.good(line)]
    found = [paint.warn(line) if result == "warn" else line, f"      {row['Why']}"]
    return [*found, f"      → {row['Do']}"] if row["Do"] else found
