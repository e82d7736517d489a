"""Heads of answers as bytes."""

from __future__ import annotations

import time

from corten.api.http.messages import REASONS
from corten.api.http.wire import http_date
from corten.registry.server.replies import AnyReply

_COMMON = b"Docker-Distribution-Api-Version: registry/2.0\r\nX-Content-Type-Options: nosniff\r\n"


class Heads:
    """The date changes once a second; the rest is made for each answer."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""

    def date(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"Date: {http_date(second)}\r\n".encode()
        return self._date

    def parts(self, reply: AnyReply) -> tuple[bytes, bytes]:
        """What comes before the date, and after it up to the body."""
        start = f"HTTP/1.1 {reply.status} {REASONS[reply.status]}\r\n".encode()
        lines = [f"{name}: {value}\r\n" for name, value in reply.headers]
        if reply.content_type:
            lines.append(f"Content-Type: {reply.content_type}\r\n")
        if reply.status not in (204, 304):
            lines.append(f"Content-Length: {reply.length}\r\n")
        if reply.closes:
            lines.append("Connection: close\r\n")
        return start, _COMMON + "".join(lines).encode("latin-1") + b"\r\n"

    def reply(self, reply: AnyReply) -> bytes:
        start, rest = self.parts(reply)
        return start + self.date() + rest
