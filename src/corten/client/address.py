"""Where the daemon listens: the address that was given, ``CORTEN_HOST``, or this user's default socket.

``DOCKER_HOST`` is not read: a machine may run both engines, and ``corten rm`` must never reach Docker's containers
because of a variable that was set for another tool.
"""

from __future__ import annotations

import os

from corten.errors import InvalidParameter

HOST_VARIABLE = "CORTEN_HOST"


def exec_root() -> str:
    """The directory of run-time state of this user's daemon, where its socket is."""
    if os.geteuid() == 0:
        return "/run/corten"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{runtime}/corten"


def data_root() -> str:
    """The directory of persistent state of this user's daemon."""
    if os.geteuid() == 0:
        return "/var/lib/corten"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share")
    return f"{data}/corten"


def default_host() -> str:
    """The socket that is used when nobody says otherwise."""
    return f"unix://{exec_root()}/corten.sock"


def chosen_host(given: str = "") -> str:
    """The address to use; empty when nobody chose one: then it is ``default_host()``, and a daemon may be started."""
    return given or os.environ.get(HOST_VARIABLE, "")


def socket_path(host: str) -> str:
    """The path of ``unix:///path``; a bare absolute path is taken as one.

    Errors: InvalidParameter for every other kind of address.
    """
    if host.startswith("/"):
        return host
    scheme, separator, path = host.partition("://")
    if not separator:
        raise InvalidParameter(f"invalid host '{host}': unix:///path is needed")
    if scheme != "unix":
        raise InvalidParameter(f"invalid host '{host}': only unix:// addresses are supported so far")
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid host '{host}': the path of the socket must be absolute")
    return path
