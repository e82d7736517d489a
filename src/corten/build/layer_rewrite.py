"""Layers of a result made again: with times that do not tell when they were built, or several as one.

What was below stays as it is, so that the base image's layers are shared with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from corten.image import tarheader as header
from corten.image import tarwrite
from corten.image.directories import clean
from corten.image.pipes import iterated
from corten.image.tarheader import TarEntry
from corten.image.tarstream import TarReader

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"

Layer = Callable[[], Iterator[bytes]]  # its tar, from the beginning each time


def clamped(layer: Layer, latest_ns: int) -> Iterator[bytes]:
    """The layer with no time after ``latest_ns``.  Source: reproducible-builds.org, SOURCE_DATE_EPOCH."""
    reader = TarReader(iterated(layer()))
    while (entry := reader.next()) is not None:
        entry.mtime_ns = min(entry.mtime_ns, latest_ns)
        yield from _member(entry, reader)
    yield tarwrite.END


def _member(entry: TarEntry, reader: TarReader) -> Iterator[bytes]:
    yield tarwrite.encode(entry)
    size = reader.remaining
    while reader.remaining:
        yield bytes(reader.read_some())
    if fill := tarwrite.padding(size):
        yield fill


@dataclass(slots=True)
class _Plan:
    """winners: path -> the number of the layer whose entry counts; removed: whiteouts that what is below still needs

    first: (layer, path of its data) -> the first name under which these data stay
    """

    winners: dict[bytes, int] = field(default_factory=dict)
    directories: set[bytes] = field(default_factory=set)  # paths that have had something below them
    first: dict[tuple[int, bytes], bytes] = field(default_factory=dict)


def squashed(layers: Sequence[Layer]) -> Iterator[bytes]:
    """One layer that does to a root what these do, one after the other."""
    plan = _plan(layers)
    for number, layer in enumerate(layers):
        reader = TarReader(iterated(layer()))
        while (entry := reader.next()) is not None:
            yield from _kept(plan, number, entry, reader)
    yield tarwrite.END


def _plan(layers: Sequence[Layer]) -> _Plan:
    plan = _Plan()
    links: list[tuple[int, bytes, bytes]] = []  # layer, name, name of the data
    for number, layer in enumerate(layers):
        reader = TarReader(iterated(layer()))
        opaque: list[bytes] = []
        while (entry := reader.next()) is not None:
            path = clean(entry.name)
            parent, _, base = path.rpartition(b"/")
            if base == _OPAQUE:
                opaque.append(parent)
            elif base.startswith(_WHITEOUT):
                _remove(plan, b"/".join(filter(None, (parent, base[len(_WHITEOUT) :]))), number)
            else:
                _replace(plan, path, entry, number)
            plan.winners[path] = number
            while parent and parent not in plan.directories:
                plan.directories.add(parent)
                parent = parent.rpartition(b"/")[0]
            if entry.kind == header.HARDLINK:
                links.append((number, path, clean(entry.linkname, "link")))
        for parent in opaque:
            prefix = parent + b"/" if parent else b""
            for path in [item for item, of in plan.winners.items() if item.startswith(prefix) and of < number]:
                del plan.winners[path]
    for number, name, target in links:
        if plan.winners.get(name) == number and plan.winners.get(target) != number:
            plan.first.setdefault((number, target), name)
    return plan


def _remove(plan: _Plan, path: bytes, number: int) -> None:
    """Forget what earlier layers have at a path and below it."""
    if plan.winners.get(path, number) < number:
        del plan.winners[path]
    if path in plan.directories:
        prefix = path + b"/"
        for known in [item for item, of in plan.winners.items() if of < number and item.startswith(prefix)]:
            del plan.winners[known]


def _replace(plan: _Plan, path: bytes, entry: TarEntry, number: int) -> None:
    """An entry that is no directory hides what was below one; a whiteout of its name is not needed any more."""
    parent, _, base = path.rpartition(b"/")
    plan.winners.pop(b"/".join(filter(None, (parent, _WHITEOUT + base))), None)
    if entry.kind != header.DIRECTORY:
        _remove(plan, path, number)


def _kept(plan: _Plan, number: int, entry: TarEntry, reader: TarReader) -> Iterator[bytes]:
    path = clean(entry.name)
    wins = plan.winners.get(path) == number
    if entry.kind == header.HARDLINK:
        if not wins:
            return
        first = plan.first.get((number, clean(entry.linkname, "link")))
        if first == path:
            return  # the data came under this name
        if first is not None:
            entry.linkname = first
        yield tarwrite.encode(entry)
        return
    if not wins:
        first = plan.first.get((number, path))
        if first is None:
            return  # the reader passes over its data
        entry.name = first  # what it was called is gone, a link to it is not
    yield from _member(entry, reader)
