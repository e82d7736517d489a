"""Heads of responses as bytes.  Everything that does not change from one response to the next is made once."""

from __future__ import annotations

import time

from corten.api.http.messages import REASONS

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS = frozenset((204, 304))


def http_date(second: int) -> str:
    """RFC 9110's IMF-fixdate: "Sun, 06 Nov 1994 08:49:37 GMT"."""
    year, month, day, hour, minute, part, weekday, *_ = time.gmtime(second)
    return f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year} {hour:02d}:{minute:02d}:{part:02d} GMT"


class Heads:
    """Writes the heads of one server's responses; ``common`` are the headers that all of them carry."""

    def __init__(self, common: tuple[tuple[str, str], ...]) -> None:
        self.common = "".join(f"{name}: {value}\r\n" for name, value in common).encode("latin-1")
        self._starts: dict[tuple[int, str], bytes] = {}
        self._second = 0
        self._date = b""

    def _start(self, status: int, content_type: str) -> bytes:
        start = self._starts.get((status, content_type))
        if start is None:
            lines = f"HTTP/1.1 {status} {REASONS[status]}\r\n"
            if content_type:
                lines += f"Content-Type: {content_type}\r\n"
            start = lines.encode("latin-1") + self.common
            self._starts[status, content_type] = start
        return start

    def _dated(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"Date: {http_date(second)}\r\n".encode()
        return self._date

    def head(
        self, status: int, content_type: str, headers: tuple[tuple[str, str], ...], framing: bytes, *, closes: bool
    ) -> bytes:
        """``framing`` is the line that tells where the body ends, or nothing."""
        start = self._start(status, content_type)
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1") if headers else b""
        close = b"Connection: close\r\n" if closes else b""
        return b"%b%b%b%b%b\r\n" % (start, extra, self._dated(), framing, close)

    def upgraded(self, content_type: str, protocol: str, extra: str = "") -> bytes:
        """The 101 after which the connection belongs to ``protocol``."""
        content = f"Content-Type: {content_type}\r\n" if content_type else ""
        lines = f"HTTP/1.1 101 UPGRADED\r\n{content}Connection: Upgrade\r\nUpgrade: {protocol}\r\n{extra}"
        return lines.encode("latin-1") + self.common + b"\r\n"

    def hijacked(self, content_type: str) -> bytes:
        """The 200 without any framing after which clients that did not ask for an upgrade read a raw stream."""
        return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n".encode("latin-1") + self.common + b"\r\n"
