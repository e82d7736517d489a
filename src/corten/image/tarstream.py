"""A tar archive as a stream: members one after the other, read once, never sought, in constant memory.

``TarReader`` copies nothing that it does not have to: file data come out as views of the blocks that came in.  With a
recorder it passes on every byte that is not file data, so that the archive can be put together again (``tarsplit``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from corten.image import tarheader as header
from corten.image.pipes import CHUNK
from corten.image.tarheader import BLOCK, ZERO_BLOCK, TarEntry, invalid, shown

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder(Protocol):
    def raw(self, data: bytes) -> None: ...


class TarReader:
    """Members of the archive that ``next_chunk`` delivers.

    next_chunk: returns the next bytes, any number of them, b"" at the end; its errors pass through
    Errors: InvalidParameter for malformed or truncated archives.
    """

    def __init__(self, next_chunk: Callable[[], bytes], recorder: Recorder | None = None) -> None:
        self._next_chunk = next_chunk
        self._recorder = recorder
        self._buffer = b""
        self._view = memoryview(b"")
        self._position = 0
        self._left = 0  # data of the present member that has not been read
        self._padding = 0
        self._current: TarEntry | None = None
        self._began = self._ended = False

    # -- members ------------------------------------------------------------------------------------------------------

    def next(self) -> TarEntry | None:
        """The next member, None after the last one.  What is left of the present member's data is skipped."""
        if self._ended:
            return None
        if self._left:
            self.skip()
        records: dict[bytes, bytes] = {}
        longname = longlink = b""
        while True:
            block = self._header_block()
            if block is None:
                if records or longname or longlink:
                    raise invalid("unexpected EOF after an extended header")
                self._ended = True
                return None
            if not self._began and not header.is_header(block):
                raise invalid("it does not begin with a tar header")
            self._began = True
            entry = header.parse_block(block)
            kind = entry.kind
            if kind == header.PAX:
                records = header.parse_pax(self._metadata(entry))
            elif kind == header.PAX_GLOBAL:
                self._metadata(entry)  # Docker ignores global records
            elif kind == header.GNU_LONGNAME:
                longname = self._metadata(entry).partition(b"\0")[0]
            elif kind == header.GNU_LONGLINK:
                longlink = self._metadata(entry).partition(b"\0")[0]
            else:
                break
        if records:
            header.apply_pax(entry, records)
        if longname:
            entry.name = longname
        if longlink:
            entry.linkname = longlink
        header.finish(entry)
        self._current = entry
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        if kind == header.GNU_SPARSE:
            self._old_gnu_sparse(entry, block)
        elif records and (b"GNU.sparse.map" in records or b"GNU.sparse.major" in records):
            self._pax_sparse(entry, records)
        return entry

    def _header_block(self) -> bytes | None:
        """The padding of the last member and one header; None at the end of the archive, whose rest is then read."""
        padding, self._padding = self._padding, 0
        position = self._position
        stop = position + padding + BLOCK
        if stop <= len(self._buffer):
            raw = self._buffer[position:stop]
            self._position = stop
        else:
            raw = self._take(padding + BLOCK, partial=True)
            if len(raw) <= padding:  # the end without a mark of it: many writers leave it out
                if raw and self._recorder:
                    self._recorder.raw(raw)
                return None
            if len(raw) < padding + BLOCK:
                raise invalid("unexpected EOF in a header")
        if self._recorder:
            self._recorder.raw(raw)
        block = raw[padding:] if padding else raw
        if block[0] or block != ZERO_BLOCK:
            return block
        second = self._take(BLOCK, partial=True)
        if second and self._recorder:
            self._recorder.raw(second)
        if second and second.strip(b"\0"):
            raise invalid("a lone zero block")
        self._drain()
        return None

    def _drain(self) -> None:
        """Whatever follows the end of the archive belongs to its bytes, and to nothing else."""
        while True:
            if self._position < len(self._buffer):
                if self._recorder:
                    self._recorder.raw(self._buffer[self._position :])
                self._position = len(self._buffer)
            if not self._fill():
                return

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        """Bytes of the present member's data that have not been read."""
        return self._left

    def read_some(self, limit: int = CHUNK) -> memoryview:
        """The next data of the present member, at least one byte; an empty view at its end.

        The view is valid until the next call.
        """
        if not self._left:
            return memoryview(b"")
        if self._position == len(self._buffer) and not self._fill():
            raise self._truncated()
        size = min(self._left, len(self._buffer) - self._position, limit)
        view = self._view[self._position : self._position + size]
        self._position += size
        self._left -= size
        return view

    def read_all(self) -> bytes | memoryview:
        """All data of the present member at once: only for members known to be small."""
        size = self._left
        stop = self._position + size
        self._left = 0
        if stop <= len(self._buffer):
            view = self._view[self._position : stop]
            self._position = stop
            return view
        data = self._take(size, partial=True)
        if len(data) < size:
            raise self._truncated()
        return data

    def skip(self) -> None:
        while self._left:
            self.read_some(1 << 62)

    def record_data(self) -> None:
        """Read the rest of the member's data into the recorder: it will be in no file."""
        while self._left:
            view = self.read_some()
            if self._recorder:
                self._recorder.raw(bytes(view))

    # -- extended headers ---------------------------------------------------------------------------------------------

    def _metadata(self, entry: TarEntry) -> bytes:
        if entry.size > header.MAX_METADATA_BYTES:
            raise invalid(f"an extended header of {entry.size} bytes, the limit is {header.MAX_METADATA_BYTES}")
        return self._recorded(entry.size + -entry.size % BLOCK)[: entry.size]

    def _recorded(self, size: int) -> bytes:
        """``size`` bytes that are not file data."""
        data = self._take(size, partial=True)
        if len(data) < size:
            raise invalid("unexpected EOF in an extended header")
        if self._recorder:
            self._recorder.raw(data)
        return data

    def _old_gnu_sparse(self, entry: TarEntry, block: bytes) -> None:
        entry.kind = header.REGULAR
        entry.real_size = header.number(block[483:495])
        pairs, more = header.old_gnu_map(block, 4, 386)
        while more:
            if len(pairs) > header.MAX_METADATA_BYTES // 24:
                raise invalid(f"the sparse map of {shown(entry.name)} is too large")
            following, more = header.old_gnu_map(self._recorded(BLOCK), 21, 0)
            pairs += following
        entry.sparse = header.check_map(entry, pairs)

    def _pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes]) -> None:
        version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
        if entry.kind != header.REGULAR or version not in ((b"0", b"0"), (b"0", b"1"), (b"1", b"0"), (b"", b"")):
            return
        if b"GNU.sparse.name" in records:
            entry.name = records[b"GNU.sparse.name"]
            if b"\0" in entry.name:
                raise invalid("malformed PAX record")
        stated = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
        if stated is not None:
            entry.real_size = header.pax_number(stated)
        if version == (b"1", b"0"):
            pairs = self._map_in_data(entry)
        else:
            pairs = header.pax_map(records.get(b"GNU.sparse.map", b""))
        entry.sparse = header.check_map(entry, pairs)

    def _map_in_data(self, entry: TarEntry) -> list[tuple[int, int]]:
        """Sparse format 1.0: decimal lines in front of the data, filled up to a block."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        consumed = 0
        while len(lines) < wanted:
            if consumed + BLOCK > min(entry.size + -entry.size % BLOCK, header.MAX_METADATA_BYTES):
                raise invalid(f"malformed sparse map of {shown(entry.name)}")
            consumed += BLOCK
            *complete, rest = (rest + self._recorded(BLOCK)).split(b"\n")
            lines += complete
            if lines and wanted == 1:
                wanted = 1 + 2 * header.pax_number(lines[0])
            if len(rest) > 32 and len(lines) < wanted:
                raise invalid(f"malformed sparse map of {shown(entry.name)}")
        values = [header.pax_number(line) for line in lines[1:wanted]]
        entry.size -= min(consumed, entry.size)
        self._left = entry.size
        return list(zip(values[::2], values[1::2], strict=True))

    # -- the buffer ---------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        chunk = self._next_chunk()
        self._buffer = chunk
        self._view = memoryview(chunk)
        self._position = 0
        return bool(chunk)

    def _take(self, size: int, *, partial: bool = False) -> bytes:
        """``size`` bytes, fewer only at the end of the input."""
        parts = []
        while size:
            if self._position == len(self._buffer) and not self._fill():
                break
            part = self._buffer[self._position : self._position + size]
            self._position += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _truncated(self) -> Exception:
        name = self._current.name if self._current else b""
        return invalid(f"unexpected EOF in the data of {shown(name)}")
