"""HTTP for one transfer: requests, bodies block by block, and the end of all of them at once.

A transfer has connections of its own, so that it can be cancelled from another thread: its sockets are shut down and
whoever waits for them stops.  Redirects, retries and credentials are decided above; here are bounds only: of time, of
sizes, of how slow a body may come.

The library is urllib3: per byte received it needs a third of httpx's processor time and half of aiohttp's, and it works
in threads, as hashing, inflating and unpacking do.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from corten import __version__
from corten.errors import InvalidParameter
from corten.registry.failures import Cancelled, Unreachable
from corten.registry.hosts import Hosts
from corten.registry.proxies import proxy_for
from corten.registry.settings import Settings
from corten.registry.trust import Trust, netloc_of
from corten.registry.unreachable import unreachable
from corten.registry.urls import origin_of, redirected, shown_url

if TYPE_CHECKING:
    import urllib3
    from urllib3.connection import HTTPConnection

READ_BYTES = 1 << 20
_MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_PAUSE_TEXT = 64
Body = bytes | Iterable[bytes] | None


class Answer:
    """A response whose head is here.  Close it: in a ``with`` block, or by reading it to its end."""

    def __init__(self, transport: Transport, response: urllib3.BaseHTTPResponse, url: str, what: str) -> None:
        self._transport = transport
        self._response = response
        self.url = url
        self.what = what
        self.status: int = response.status
        self._window_s = 0.0
        self._window_bytes = 0

    def header(self, name: str) -> str:
        return str(self._response.headers.get(name, ""))

    def headers(self, name: str) -> list[str]:
        """All values of a header that may come several times."""
        return list(self._response.headers.getlist(name))

    @property
    def length(self) -> int:
        """Promised bytes of the body, -1 when nothing is promised."""
        text = self.header("content-length")
        return int(text) if text.isascii() and text.isdigit() else -1

    def read(self) -> bytes:
        """What has arrived of the body, b"" at its end.

        Errors: Unreachable for a body that is cut, silent or too slow; Cancelled.
        """
        begin = time.monotonic()
        with self._transport.failures(self.what):
            chunk = self._response.read1(READ_BYTES, decode_content=False)
        self._meter(len(chunk), time.monotonic() - begin)
        return chunk

    def _meter(self, size: int, waited_s: float) -> None:
        """Only waiting for the server counts: whoever unpacks may take its time."""
        settings = self._transport.settings
        self._window_bytes += size
        self._window_s += waited_s
        if self._window_s < settings.slow_s:
            return
        if self._window_bytes < settings.slow_bytes:
            self.close()
            raise Unreachable(
                f"{self.what}: the transfer is too slow ({self._window_bytes} bytes in {self._window_s:.0f} s)"
            )
        self._window_s, self._window_bytes = 0.0, 0

    def small(self, limit: int, *, cut: bool = False) -> bytes:
        """The whole body.  ``cut``: only its beginning when it is larger.

        Errors: Unreachable when it is larger than ``limit`` bytes or does not arrive in time; Cancelled.
        """
        parts: list[bytes] = []
        size = 0
        try:
            with self._transport.deadline(self.what):
                if not cut and self.length > limit:
                    raise Unreachable(f"{self.what}: the answer has more than {limit} bytes", passing=False)
                while chunk := self.read():
                    parts.append(chunk)
                    size += len(chunk)
                    if size > limit:
                        if cut:
                            break
                        raise Unreachable(f"{self.what}: the answer has more than {limit} bytes", passing=False)
        finally:
            self.close()
        return b"".join(parts)[:limit]

    def close(self) -> None:
        """Give the connection back when the body was read to its end, else end it."""
        with contextlib.suppress(Exception):
            if self._response.closed:
                self._response.release_conn()
            else:
                self._response.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """The connections of one transfer; thread-safe.

    close: must be called; abort: everything that waits raises Cancelled, now and later
    """

    def __init__(self, settings: Settings, hosts: Hosts) -> None:
        self.settings = settings
        self.hosts = hosts
        self._pools: dict[tuple[Trust | None, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._current: dict[int, socket.socket] = {}  # thread -> the connection that it uses
        self._aborted = threading.Event()

    # -- end ----------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._aborted.set()
        for sock in list(self._sockets):
            _shut(sock)

    def close(self) -> None:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.clear()
        # errors that somebody still looks at hold pools, and those their connections
        for connection in list(self._connections):
            connection.close()

    def check(self) -> None:
        """Errors: Cancelled."""
        if self._aborted.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Errors: Cancelled, as soon as that is so."""
        if self._aborted.wait(seconds):
            raise Cancelled

    # -- errors and time ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """The library's errors become Unreachable, or Cancelled when that is why."""
        import http.client

        from urllib3 import exceptions

        try:
            yield
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            self.check()
            raise unreachable(what, error) from error

    @contextlib.contextmanager
    def deadline(self, what: str) -> Iterator[None]:
        """Within the block this thread's connection must be done in ``document_s``."""
        late = threading.Event()
        thread = threading.get_ident()

        def end() -> None:
            late.set()
            sock = self._current.get(thread)
            if sock is not None:
                _shut(sock)

        timer = threading.Timer(self.settings.document_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Unreachable:
            if not late.is_set():
                raise
        finally:
            timer.cancel()
        if late.is_set():  # a head that was cut short may look like a whole one
            raise Unreachable(f"{what}: no complete answer in {self.settings.document_s:g} s")

    # -- requests -----------------------------------------------------------------------------------------------------

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body = None) -> Answer:
        """One request; its answer's head is here when this returns.  A redirect is an answer like others.

        Errors: InvalidParameter for a URL that may not be used; Unreachable; Cancelled.
        """
        self.check()
        netloc = netloc_of(url)
        trust = self.hosts.trust(netloc)
        if urlsplit(url).scheme == "http" and not trust.plain:
            raise InvalidParameter(
                f"plain HTTP to {netloc} is refused: it is neither this machine nor one of the insecure-registries"
            )
        what = f'{method.capitalize()} "{shown_url(url)}"'
        pool = self._pool(trust, url)
        sent = {"User-Agent": f"corten/{__version__}", "Accept-Encoding": "identity", **headers}
        bounded = self.deadline(what) if body is None or isinstance(body, bytes) else contextlib.nullcontext()
        with bounded, self.failures(what):
            response = self._open(pool, method, url, sent, body)
        return Answer(self, response, url, what)

    def _open(
        self, pool: urllib3.PoolManager, method: str, url: str, headers: dict[str, str], body: Body
    ) -> urllib3.BaseHTTPResponse:
        options: dict[str, Any] = {
            "headers": headers, "body": body, "redirect": False, "retries": False, "preload_content": False,
            "decode_content": False,
        }  # fmt: skip
        if body is not None and not isinstance(body, bytes):
            options["chunked"] = "Content-Length" not in headers
        return pool.urlopen(method, url, **options)

    def get(self, url: str, headers: Mapping[str, str], own: Mapping[str, str]) -> Answer:
        """GET that follows redirects; ``own`` headers (Authorization and the like) go to ``url``'s own host only.

        Errors: as ``send``; Unreachable for a redirect from HTTPS to HTTP, and for too many.
        """
        home = origin_of(url)
        for _ in range(_MAX_REDIRECTS):
            answer = self.send("GET", url, {**headers, **(own if origin_of(url) == home else {})})
            target = answer.header("location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.close()
            url = redirected(url, target)
        raise Unreachable(f"{answer.what}: more than {_MAX_REDIRECTS} redirects", passing=False)

    def _pool(self, trust: Trust, url: str) -> urllib3.PoolManager:
        proxy = proxy_for(url)
        key = (trust if url.startswith("https:") else None, proxy)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._new_pool(*key)
        return pool

    def _new_pool(self, trust: Trust | None, proxy: str) -> urllib3.PoolManager:
        """trust: of a host that is spoken to by TLS"""
        import urllib3

        settings = self.settings
        options: dict[str, Any] = {
            "num_pools": 16, "maxsize": 8,
            "timeout": urllib3.Timeout(connect=settings.connect_s, read=settings.stall_s),
        }  # fmt: skip
        if trust is not None:
            options["ssl_context"] = trust.context()
        manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = _tracked(self._track)
        return manager

    def _track(self, connection: HTTPConnection, *, fresh: bool) -> None:
        sock = connection.sock
        assert sock is not None
        if fresh:
            self._connections.add(connection)
            self._sockets.add(sock)
            sock.settimeout(self.settings.stall_s)
        self._current[threading.get_ident()] = sock
        if self._aborted.is_set():
            _shut(sock)


def _tracked(track: Any) -> dict[str, Any]:
    """Pools whose connections tell of their sockets: when one is made, and when one is used by a thread."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

    def telling(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]  # whichever class the pool has
            def connect(self) -> None:
                super().connect()
                track(self, fresh=True)

            def putrequest(self, *arguments: Any, **options: Any) -> None:
                if self.sock is not None:
                    track(self, fresh=False)
                super().putrequest(*arguments, **options)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    return {"http": telling(HTTPConnectionPool), "https": telling(HTTPSConnectionPool)}


def _shut(sock: socket.socket) -> None:
    # the descriptor is left to its owner: what is shut down wakes whoever waits for it.  A TLS socket is shut below TLS
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def retry_after(text: str, longest_s: float) -> float:
    """Seconds of a ``Retry-After`` header, at most ``longest_s``; 0 when it says nothing."""
    text = text.strip()[:_MAX_PAUSE_TEXT]
    if text.isascii() and text.isdigit():
        return min(float(text), longest_s)
    if not text:
        return 0.0
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, min(moment - time.time(), longest_s))
