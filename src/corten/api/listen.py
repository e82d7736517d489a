"""Where the API listens: unix sockets of our own, TCP, and sockets that someone else opened and passed on."""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from corten.api.tcp import TcpOptions, check_allowed, open_sockets, parse_tcp_address, set_keepalive
from corten.errors import Conflict, InvalidParameter, SystemFailure

logger = logging.getLogger(__name__)

SOCKET_MODE = 0o660
_FIRST_PASSED_FD = 3  # sd_listen_fds(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """One place to listen at.

    path:  of a unix socket that is made here
    group: its group; when no such group exists, that of the process
    fd:    a listening socket that was passed to this process
    host, port: of TCP; ``host`` may be a name
    text:  what the user wrote, for messages
    """

    path: Path | None = None
    group: str = ""
    fd: int = -1
    host: str = ""
    port: int = 0
    text: str = ""


class Listener:
    """A listening socket; ``close`` takes away what it left in the file system."""

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        self.sock = sock
        self.is_tcp = sock.family != socket.AF_UNIX
        self._path = path
        self._identity = _identity(path) if path is not None else None

    def close(self) -> None:
        self.sock.close()
        if self._path is not None and _identity(self._path) == self._identity:
            with suppress(FileNotFoundError):
                self._path.unlink()


def parse_host(text: str, group: str = "", tcp: TcpOptions | None = None) -> list[ListenAddress]:
    """The addresses that one ``--host`` value means: ``unix:///path``, ``tcp://host:port``, ``fd://``, ``fd://4``,
    ``fd://name``.

    Errors: InvalidParameter for another form, or for ``fd://`` when no socket was passed.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix":
        if not rest.startswith("/"):
            raise InvalidParameter(f"invalid host '{text}': unix:// needs an absolute path")
        return [ListenAddress(path=Path(rest), group=group)]
    if separator and scheme == "tcp":
        host, port = parse_tcp_address(text, rest, (tcp or TcpOptions()).default_port)
        return [ListenAddress(host=host, port=port, text=text)]
    if separator and scheme == "fd":
        return [ListenAddress(fd=fd) for fd in _passed_sockets(rest)]
    raise InvalidParameter(f"invalid host '{text}': unix://PATH, tcp://HOST:PORT and fd:// are supported")


def _passed_sockets(wanted: str) -> Iterable[int]:
    """Descriptors by systemd's protocol (sd_listen_fds(3)): all, one by number, or those of a name."""
    passed: list[int] = []
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        with suppress(ValueError):
            count = int(os.environ.get("LISTEN_FDS", "0"))
            passed = list(range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count))
    if wanted.isdigit():
        return [int(wanted)]
    if not passed:
        raise InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by a socket unit"
        )
    if wanted in ("", "*"):
        return passed
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    named = [fd for fd, name in zip(passed, names, strict=False) if name == wanted]
    if not named:
        raise InvalidParameter(f"invalid host 'fd://{wanted}': no socket of that name was passed")
    return named


def listen(address: ListenAddress) -> Listener:
    """Open one listening socket; the first, when a name has several addresses.  Errors: as ``listen_all``."""
    first, *others = listen_all(address)
    for listener in others:
        listener.close()
    return first


def listen_all(address: ListenAddress, tcp: TcpOptions | None = None) -> list[Listener]:
    """Open the listening sockets of an address.

    Errors: Conflict when another process listens there or a file is in the way, InvalidParameter when ``fd`` is no
    listening socket or ``tcp`` does not allow to listen there, SystemFailure.
    """
    if address.path is not None:
        return [_listen_unix(address.path, address.group)]
    if address.fd >= 0:
        listener = Listener(_adopt_fd(address.fd))
        if listener.is_tcp:
            try:
                check_allowed(tcp or TcpOptions(), f"fd://{address.fd}")
            except InvalidParameter:
                listener.sock.detach()
                raise
        return [listener]
    check_allowed(tcp or TcpOptions(), address.text)
    return listen_tcp(address.host, address.port, address.text)


def listen_tcp(host: str, port: int, text: str) -> list[Listener]:
    """Listen at every address of ``host``; ``text`` is what the user wrote.  Errors: Conflict, SystemFailure."""
    try:
        return [Listener(sock) for sock in open_sockets(host, port)]
    except OSError as error:
        kind = Conflict if error.errno == errno.EADDRINUSE else SystemFailure
        raise kind(
            f"cannot listen on {text}: {error.strerror or error}", step="listen", errno=error.errno or 0
        ) from error


def _adopt_fd(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidParameter(f"invalid host 'fd://{fd}': {error.strerror}") from error
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listening = 0
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not listening or sock.family not in families or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise InvalidParameter(f"invalid host 'fd://{fd}': not a listening stream socket")
    if sock.family != socket.AF_UNIX:
        set_keepalive(sock)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _listen_unix(path: Path, group: str) -> Listener:
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(
            f"cannot listen on {path}: {error.strerror}", step="listen", errno=error.errno or 0
        ) from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two daemons that start at once must not take each other's socket away
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            os.fchmod(sock.fileno(), SOCKET_MODE)  # bind(2) gives this mode, less the umask, to the new file
            sock.bind(str(path))
            _set_owner(path, group)
            path.chmod(SOCKET_MODE)
            sock.listen(1024)  # only now, so that nobody connects who may not
        except BaseException:
            sock.close()
            raise
        return Listener(sock, path)
    except OSError as error:
        raise SystemFailure(
            f"cannot listen on {path}: {error.strerror or error}", step="listen", errno=error.errno or 0
        ) from error
    finally:
        os.close(directory)


def _remove_stale(path: Path) -> None:
    """Take away a socket that nobody listens on."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise Conflict(f"cannot listen on {path}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code == errno.ECONNREFUSED:
        path.unlink()
    elif code in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise Conflict(f"cannot listen on {path}: another daemon listens there; is cortend already running?")
    elif code != errno.ENOENT:
        raise SystemFailure(f"cannot listen on {path}: {os.strerror(code)}", step="connect", errno=code)


def _set_owner(path: Path, group: str) -> None:
    if not group or os.geteuid() != 0:
        return
    try:
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        logger.debug("group %s does not exist: %s belongs to root alone", group, path)
        return
    os.chown(path, 0, number)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
