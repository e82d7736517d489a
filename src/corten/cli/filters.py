"""``--filter key=value``, gathered as the API wants it."""

from __future__ import annotations

from corten.cli.flags import BadValue, Flag, many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def read_filter(text: str) -> tuple[str, str]:
    """Key and value.  Errors: BadValue."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BadValue("bad format of filter (expected name=value)")
    return key.strip().lower(), value.strip()


def filter_flag(short: str = "f", summary: str = "Show only what fits (KEY=VALUE)") -> Flag:
    """``--filter``."""
    return many("filter", short, summary, read_filter, metavar="filter")


def gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]] | None:
    """The ``filters`` parameter; None for no filter."""
    filters: dict[str, list[str]] = {}
    for key, value in pairs:
        filters.setdefault(key, []).append(value)
    return filters or None
