"""An ordinary user's daemon as two processes: one outside the user namespace, and its child inside, the daemon itself.

The outer one is what was started: it passes signals on, ends with the daemon's exit code, and what has to be done in
the host's own network or with the user's own rights is done by it.  The daemon does not outlive it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from corten import places
from corten.errors import Conflict, CortenError
from corten.linux import process as kernel
from corten.linux import subids
from corten.network.outside import Greeting, Outside, serve
from corten.network.rootless import Uplink
from corten.rootless import delegation
from corten.rootless import keeper as keeping
from corten.rootless.keeper import Keeper

logger = logging.getLogger(__name__)

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(exec_root: Path, daemon: Callable[[Outside], int]) -> int:
    """Run ``daemon`` as root of this user's namespaces; its exit code.

    Errors: SystemFailure when there can be no such namespaces, Conflict when another daemon's cannot be found.
    """
    places.make_private(str(exec_root))
    users = os.open(exec_root / "namespaces.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with _locked(exec_root):
        keeper = _namespaces(exec_root, users)
        fcntl.flock(users, fcntl.LOCK_SH)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outer = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        os.close(users)
        _become_daemon(keeper, outer, lambda: daemon(_outside(theirs, exec_root)))
    theirs.close()
    # a thread of its own: this one waits for signals and for the daemon's end
    network = _Network(ours, keeper.pid, exec_root)
    network.start()
    code = _wait(child)
    network.join()
    keeper.close()
    with _locked(exec_root):
        if _is_alone(users):
            _leave(exec_root, network)
        os.close(users)
    return code


def _outside(channel: socket.socket, exec_root: Path) -> Outside:
    """The daemon's side of the host's network.  Errors: SystemFailure, OSError."""
    outside = Outside(channel)
    outside.use_resolver(exec_root)
    return outside


class _Network(threading.Thread):
    """The host's side: the way out, and ports that are published, until the daemon has ended."""

    def __init__(self, channel: socket.socket, keeper: int, exec_root: Path) -> None:
        super().__init__(name="network", daemon=True)
        self._channel = channel
        self._keeper = keeper
        self._exec_root = exec_root
        self._uplink: Uplink | None = None

    def run(self) -> None:
        try:
            self._uplink = Uplink.attach(self._keeper, self._exec_root)
            greeting = self._uplink.greeting
        except OSError as error:
            greeting = Greeting("", str(error))
        serve(self._channel, greeting)

    def close(self) -> None:
        """Nobody needs the way out any more."""
        if self._uplink is not None:
            self._uplink.close()


@contextlib.contextmanager
def _locked(exec_root: Path) -> Iterator[None]:
    """Only one process at a time makes or ends the namespaces."""
    descriptor = os.open(exec_root / "namespaces.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_alone(users: int) -> bool:
    """Whether no other outer process is there, such as one that finds the data root taken.

    users: a file of which each of them holds a shared lock, which may be lost here
    """
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _namespaces(exec_root: Path, users: int) -> Keeper:
    wanted = subids.maps_of_user()
    group = delegation.obtain()
    keeper = keeping.find(exec_root)
    if keeper is not None and (keeper.maps.uids, keeper.maps.gids) != (wanted.uids, wanted.gids):
        if keeping.is_needed(exec_root) or not _is_alone(users):
            logger.warning("the subordinate ids have changed: they are used when nothing runs with the old any more")
        else:
            keeper.end()
            keeper.close()
            keeper = None
    if keeper is None:
        if not _is_alone(users):
            raise Conflict("another daemon of this user runs, and its namespaces have lost their keeper: end it first")
        keeper = keeping.create(exec_root, wanted, group)
    elif keeper.group:
        delegation.join(keeper.group)
    if keeper.maps.lacking:
        logger.warning(
            "there is only one user id for containers (%s): programs of images run as root alone, "
            "and every file belongs to root",
            keeper.maps.lacking,
        )
    return keeper


def _become_daemon(keeper: Keeper, outer: int, daemon: Callable[[], int]) -> None:
    code = 1
    try:
        keeper.enter()
        keeper.close()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != outer:
            return
        if os.environ.get("LISTEN_PID") == str(outer):
            os.environ["LISTEN_PID"] = str(os.getpid())
        code = daemon()
    except (CortenError, OSError) as error:
        sys.stderr.write(f"cortend: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int:
    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _leave(exec_root: Path, network: _Network) -> None:
    """Without containers nothing of this user's daemon stays."""
    if keeping.is_needed(exec_root):
        return
    network.close()
    keeper = keeping.find(exec_root)
    if keeper is not None:
        keeper.end()
        keeper.close()
    (exec_root / keeping.NOTE).unlink(missing_ok=True)
