"""Where the daemon of a user keeps its things: system-wide for root, in the user's own directories for anyone else.

A daemon of an ordinary user later becomes root of a user namespace; whose daemon it is was decided when it started.
"""

from __future__ import annotations

import os
import stat

from corten.errors import SystemFailure

USER = os.geteuid()


def is_rootless() -> bool:
    """Whether this user's daemon does without root's rights."""
    return USER != 0


def exec_root() -> str:
    """The directory of run-time state, where the socket is."""
    if USER == 0:
        return "/run/corten"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{USER}"
    if "XDG_RUNTIME_DIR" in os.environ or _is_own(runtime):
        return f"{runtime}/corten"
    return f"/tmp/corten-{USER}"


def data_root() -> str:
    """The directory of persistent state."""
    if USER == 0:
        return "/var/lib/corten"
    return f"{os.environ.get('XDG_DATA_HOME') or os.path.join(os.path.expanduser('~'), '.local/share')}/corten"


def cdi_directories() -> tuple[str, ...]:
    """Where files of CDI devices are, the later ones go first; an ordinary user has some beside the machine's."""
    found = ("/etc/cdi", "/var/run/cdi")
    if USER == 0:
        return found
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{USER}"
    return (*found, f"{settings}/cdi", f"{runtime}/cdi")


def configuration_file() -> str:
    if USER == 0:
        return "/etc/corten/daemon.json"
    return f"{os.environ.get('XDG_CONFIG_HOME') or os.path.join(os.path.expanduser('~'), '.config')}/corten/daemon.json"


def _is_own(directory: str) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == USER


def make_private(directory: str) -> None:
    """Make an ordinary user's directory for run-time state; anyone may have put something in its place before.

    Errors: SystemFailure when it belongs to someone else or others may enter it.
    """
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not _is_own(directory):
            raise SystemFailure(f"{directory} is not a directory of user {USER}", step="run-time directory") from None
        if stat.S_IMODE(os.lstat(directory).st_mode) & 0o077:
            os.chmod(directory, 0o700)
