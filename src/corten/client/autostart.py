"""Starting a daemon for this user when a command needs one and none listens.

```
 first command ──lock──▶ nobody listens ──▶ start the daemon ──▶ wait for its socket ──unlock──▶ go on
 second command ──────────────── waits for the lock ────────────────▶ somebody listens ──────▶ go on
```
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time

from corten import places
from corten.client.transport import is_listening
from corten.errors import CortenError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_WITHIN_S = 60.0  # one that fails is noticed at once: this is for a machine that is slow or busy
IDLE_EXIT_S = 300
_POLL_S = 0.01
_LAST_LINES = 10


def _make(directory: str) -> None:
    """One of the daemon's directories.  Errors: OSError, SystemFailure."""
    if places.is_rootless():
        places.make_private(directory)
    else:
        os.makedirs(directory, mode=0o711, exist_ok=True)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Only one command at a time starts a daemon."""
    try:
        _make(directory)
        fd = os.open(os.path.join(directory, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot start the Corten daemon: {error.strerror}: {error.filename}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _open_log(directories: Sequence[str]) -> tuple[int, str]:
    """A descriptor of the daemon's log, and its path, in the first directory that is writable."""
    for directory in directories:
        path = os.path.join(directory, "cortend.log")
        with contextlib.suppress(OSError):
            _make(directory)
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640), path
    raise Unavailable(f"cannot start the Corten daemon: {directories[0]} is not writable")


def _tail(path: str, start: int) -> str:
    """The last lines that were written since ``start``."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(start)
        lines = file.read(64 * 1024).decode("utf-8", "replace").strip().splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
    return ""


def start_daemon(
    path: str, log_level: str = "info", *, command: Sequence[str] = (), log_directories: Sequence[str] = ()
) -> None:
    """Start a daemon that listens on the socket ``path`` and return when it does.

    It outlives this command, and leaves when it has been idle for a while.

    command:         what to start in the place of ``cortend``
    log_directories: where its log may be, best first (the data root, else beside the socket)

    Errors: Unavailable with the end of the daemon's log when it does not come up within a minute.
    """
    command = command or (
        sys.executable,
        "-m",
        "corten.daemon",
        "--idle-exit",
        str(IDLE_EXIT_S),
        "--log-level",
        log_level,
    )
    with _locked(os.path.dirname(path)):
        if is_listening(path):
            return  # another command was faster
        log, log_path = _open_log(log_directories or (places.data_root(), os.path.dirname(path)))
        start = os.fstat(log).st_size
        try:
            # a session of its own: the terminal's signals are not for it
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise Unavailable(f"cannot start the Corten daemon: {error.strerror}: {command[0]}") from error
        finally:
            os.close(log)
        _wait(process, path, log_path, start)


def _wait(process: subprocess.Popen[bytes], path: str, log_path: str, start: int) -> None:
    end = time.monotonic() + START_WITHIN_S
    problem = f"it does not listen on unix://{path} after {START_WITHIN_S:.0f} s"
    while time.monotonic() < end:
        code = process.poll()
        if code is not None:
            problem = f"it ended with exit code {code}" if code >= 0 else f"signal {-code} ended it"
            break
        try:
            if is_listening(path):
                # the daemon is to outlive this process; that nobody waits for it is meant
                process.returncode = 0
                return
        except CortenError:
            process.terminate()
            raise
        time.sleep(_POLL_S)
    else:
        process.terminate()
    lines = _tail(log_path, start)
    raise Unavailable(f"cannot start the Corten daemon: {problem}; see {log_path}" + (f"\n{lines}" if lines else ""))
