"""TLS below HTTP and below hijacked streams: a transport whose two directions end apart.

asyncio's own TLS closes both directions as soon as the client ends one of them.  ``docker run -i`` ends its input with
TLS's close_notify and still reads the program's output, as RFC 8446 section 6.1 allows; so records are handled here,
over ``ssl.SSLObject``.

```
 TCP transport ──bytes──▶ TlsServerProtocol ──records──▶ SSLObject ──plain bytes──▶ the connection's protocol
 TCP transport ◀─bytes─── TlsTransport ◀────── SSLObject ◀──── write, write_eof (close_notify), close
```
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_READ_SIZE = 64 * 1024


class TlsTransport(asyncio.Transport):
    """What the protocol above sees of a TLS connection, once its handshake is done."""

    def __init__(self, lower: asyncio.Transport, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
        super().__init__()
        self._lower = lower
        self._tls = tls
        self._outgoing = outgoing
        self._protocol: asyncio.Protocol
        self._unread: list[bytes] = []  # decrypted while reading was paused
        self._pauses = False
        self._eof_received = False
        self._eof_told = False
        self._eof_sent = False
        self._closes = False

    # -- for the protocol above -------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports: "socket", "peername", "ssl_object"."""
        return self._tls if name == "ssl_object" else self._lower.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closes or self._lower.is_closing()

    def is_reading(self) -> bool:
        return not (self._pauses or self._eof_told or self.is_closing())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data or self._eof_sent or self.is_closing():
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send close_notify: no more bytes follow, and what the client sends is still read."""
        if self._eof_sent or self.is_closing():
            return
        self._eof_sent = True
        self._decrypt()  # OpenSSL takes what has arrived and was not read at this moment for an error
        try:
            self._tls.unwrap()
        except ssl.SSLError as error:
            if not isinstance(error, ssl.SSLWantReadError):
                logger.debug("TLS: close_notify: %s", error)
        self._flush()

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._lower.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        if not self._pauses:
            self._pauses = True
            if not self._lower.is_closing():
                self._lower.pause_reading()

    def resume_reading(self) -> None:
        if self._pauses:
            self._pauses = False
            if not self._lower.is_closing():
                self._lower.resume_reading()
            # not from here: the protocol above may be in the midst of something
            asyncio.get_running_loop().call_soon(self._deliver)

    def close(self) -> None:
        if not self._closes:
            self.write_eof()
            self._closes = True
            self._lower.close()

    def abort(self) -> None:
        self._closes = True
        self._lower.abort()

    # -- for the protocol below -------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Records have arrived."""
        self._decrypt()
        self._flush()  # what TLS itself answers, such as a change of keys
        self._deliver()

    def _decrypt(self) -> None:
        while not self._eof_received:
            try:
                data = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._fail(error)
                return
            if data:
                self._unread.append(data)
            else:
                self._eof_received = True

    def _deliver(self) -> None:
        while self._unread and not self._pauses and not self.is_closing():
            self._protocol.data_received(self._unread.pop(0))
        if self._eof_received and not (self._unread or self._pauses or self._eof_told or self.is_closing()):
            self._eof_told = True
            if not self._protocol.eof_received():
                self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._lower.is_closing():
            self._lower.write(data)

    def _fail(self, error: ssl.SSLError) -> None:
        logger.debug("TLS: %s", error)
        self._flush()  # the alert
        self.abort()


class TlsServerProtocol(asyncio.Protocol):
    """Accepts TLS on a TCP transport and puts the protocol that ``factory`` makes above it.

    under_way: those whose handshake is; a client that would make it more than ``at_most`` is dropped
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        handshake_timeout_s: float,
        *,
        under_way: set[TlsServerProtocol],
        at_most: int,
    ) -> None:
        self._under_way = under_way
        self._at_most = at_most
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._factory = factory
        self._handshake_timeout_s = handshake_timeout_s
        self._late: asyncio.TimerHandle | None = None
        self._lower: asyncio.Transport
        self._upper: TlsTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._lower = transport
        if len(self._under_way) >= self._at_most:
            transport.abort()
            return
        self._under_way.add(self)
        self._late = asyncio.get_running_loop().call_later(self._handshake_timeout_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._upper is None and not self._shake_hands():
            return
        if self._upper is not None:
            self._upper.receive()

    def _shake_hands(self) -> bool:
        """True when the handshake is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._lower.write(self._outgoing.read())
            return False
        except ssl.SSLError as error:
            peer = self._lower.get_extra_info("peername")
            # what a scanner sends is no event of ours; a client without its certificate is
            logger.info("TLS handshake error from %s: %s", _shown(peer), error.reason or error)
            self._lower.write(self._outgoing.read())  # the alert tells the client why
            self._end_handshake()
            self._lower.close()
            return False
        self._end_handshake()
        self._lower.write(self._outgoing.read())
        self._upper = TlsTransport(self._lower, self._tls, self._outgoing)
        protocol = self._factory()
        self._upper.set_protocol(protocol)
        protocol.connection_made(self._upper)
        return True

    def abort(self) -> None:
        """Cut the connection."""
        self._lower.abort()

    def _end_handshake(self) -> None:
        self._under_way.discard(self)
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def eof_received(self) -> bool:
        # TLS says by close_notify that a direction has ended: an end below it is a client that has gone
        if self._upper is not None:
            self._upper.abort()
        return False

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._protocol.resume_writing()

    @property
    def _protocol(self) -> asyncio.BaseProtocol:
        assert self._upper is not None
        return self._upper.get_protocol()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_handshake()
        if self._upper is not None:
            self._upper.abort()
            self._protocol.connection_lost(exc)


def _shown(peer: object) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else str(peer)
