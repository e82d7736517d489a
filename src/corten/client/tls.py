"""TLS for the client: a socket pair whose far end a thread joins with the daemon's TLS connection.

Everything above works with plain sockets and their descriptors (``poll``, ``shutdown`` of one direction), which no
``SSLSocket`` gives: closing one direction of that closes both.

```
 caller ◀──socket pair──▶ thread: SSLObject ◀──TCP──▶ daemon      end of one direction: close_notify
```
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading

from corten import tls as tls_contexts
from corten.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.client.address import Address, Tls

_SIZE = 64 * 1024
_CONNECT_WITHIN_S = 30.0


def context_for(tls: Tls) -> ssl.SSLContext:
    """Errors: InvalidParameter when a certificate cannot be used."""
    context = tls_contexts.client_context(system=False)
    if tls.verify:
        tls_contexts.trust(context, tls.ca)
    else:
        tls_contexts.do_not_verify(context)
    if tls.verify or os.path.exists(tls.cert):
        tls_contexts.load_pair(context, tls.cert, tls.key)
    return context


def connect(address: Address) -> socket.socket:
    """The near end of a connection whose handshake is done.

    Errors: Unavailable when nobody listens or the other side cannot be trusted, InvalidParameter (certificates).
    """
    context = context_for(address.tls)
    where = f"tcp://{address.host}:{address.port}"
    try:
        sock = socket.create_connection((address.host, address.port), timeout=_CONNECT_WITHIN_S)
    except OSError as error:
        raise Unavailable(f"Cannot connect to the Corten daemon at {where}. Is the daemon running?") from error
    joint = _Joint(sock, context, address.host)
    try:
        joint.shake_hands()
    except ssl.SSLError as error:
        sock.close()
        raise Unavailable(f"cannot connect to the Corten daemon at {where}: TLS: {error.reason or error}") from error
    except OSError as error:
        sock.close()
        raise Unavailable(
            f"cannot connect to the Corten daemon at {where}: TLS handshake: {error.strerror or error}"
        ) from error
    plain, far = socket.socketpair()
    near = TlsSocket(fileno=plain.detach())
    threading.Thread(target=joint.run, args=(far, near), name="corten-tls", daemon=True).start()
    return near


class TlsSocket(socket.socket):
    """The near end.  ``problem``: why the connection ended, when TLS said so (a certificate that is not accepted)."""

    __slots__ = ("problem",)

    problem: str


class _Joint:
    """One TLS connection, and later the plain socket that it is joined with."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._to_far = b""
        self._to_daemon = b""
        self._far_sends = True
        self._daemon_sends = True
        self._far_told = False

    def shake_hands(self) -> None:
        """Errors: ssl.SSLError, OSError (also TimeoutError)."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                data = self._sock.recv(_SIZE)
                if not data:
                    raise ConnectionResetError("the daemon closed the connection") from None
                self._incoming.write(data)
            except ssl.SSLError:
                self._sock.sendall(self._outgoing.read())  # the alert
                raise
        self._sock.sendall(self._outgoing.read())

    def run(self, far: socket.socket, near: TlsSocket) -> None:
        """Pump until both directions have ended or one side has gone."""
        self._far = far
        where = "the Corten daemon refused the connection: TLS"
        try:
            self._sock.setblocking(False)
            far.setblocking(False)
            self._decrypt()
            while self._to_far or self._to_daemon or self._daemon_sends:
                self._turn()
        except ssl.SSLError as error:
            near.problem = f"{where}: {error.reason or error}"  # before the near end is seen to end
        except OSError:
            pass  # whoever reads the near end sees its end
        finally:
            far.close()
            self._sock.close()

    def _turn(self) -> None:
        """Wait for what can go on and let it go on.  Each direction holds at most one piece."""
        poller = select.poll()
        # POLLHUP cannot be masked: a side is watched only while it matters
        reads_far = self._far_sends and not self._to_daemon
        far_events = (select.POLLIN if reads_far else 0) | (select.POLLOUT if self._to_far else 0)
        reads_daemon = self._daemon_sends and not self._to_far
        daemon_events = (select.POLLIN if reads_daemon else 0) | (select.POLLOUT if self._to_daemon else 0)
        poller.register(self._far, far_events)
        if daemon_events:
            poller.register(self._sock, daemon_events)
        ready = dict(poller.poll())
        far_ready = ready.get(self._far.fileno(), 0)
        if far_ready & select.POLLHUP and not far_ready & select.POLLIN:
            raise ConnectionResetError  # the caller has closed its end
        if reads_far and far_ready & select.POLLIN:
            self._from_far()
        if self._to_far and far_ready & select.POLLOUT:
            self._to_far = self._to_far[self._far.send(self._to_far, socket.MSG_NOSIGNAL) :]
        daemon_ready = ready.get(self._sock.fileno(), 0)
        if reads_daemon and daemon_ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
            data = self._sock.recv(_SIZE)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
                self._daemon_sends = False
            self._decrypt()
        if self._to_daemon and daemon_ready & select.POLLOUT:
            self._to_daemon = self._to_daemon[self._sock.send(self._to_daemon, socket.MSG_NOSIGNAL) :]
        if not (self._daemon_sends or self._to_far or self._far_told):
            self._far_told = True
            self._far.shutdown(socket.SHUT_WR)

    def _from_far(self) -> None:
        data = self._far.recv(_SIZE)
        if data:
            self._tls.write(data)
        else:
            self._far_sends = False
            with contextlib.suppress(ssl.SSLError):  # it would like to wait for the daemon's own end; that comes later
                self._tls.unwrap()
        self._to_daemon += self._outgoing.read()

    def _decrypt(self) -> None:
        pieces = []
        try:
            while piece := self._tls.read(_SIZE):
                pieces.append(piece)
            self._daemon_sends = False
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._daemon_sends = False
        except ssl.SSLEOFError:
            self._daemon_sends = False  # a length or a chunk tells above that something is missing
        self._to_far += b"".join(pieces)
        self._to_daemon += self._outgoing.read()
