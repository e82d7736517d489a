"""What a caller gets of a program that it starts: the pty's master and the pid, where it asks for them.

Source: runc's docs/terminals.md, for what --console-socket goes with.
"""

from __future__ import annotations

import argparse
import array
import os
import socket
from typing import Any

from corten.errors import InvalidParameter


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--console-socket", default="", metavar="SOCKET", help="gets the pty's master")
    command.add_argument("--pid-file", default="", metavar="FILE", help="gets the pid")
    command.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="descriptors from 3 on to pass")


def check_console(path: str, process: dict[str, Any], *, detached: bool) -> None:
    """path: of --console-socket.  Errors: InvalidParameter."""
    terminal = bool(process.get("terminal"))
    if terminal and detached and not path:
        raise InvalidParameter("cannot allocate tty if corten-oci will detach without setting console socket")
    if path and not (terminal and detached):
        raise InvalidParameter("cannot use console socket if corten-oci will not detach or allocate tty")


def send_console(path: str, console: int) -> None:
    """The pty's master to whoever listens at a unix socket; nobody asked for it where there is no path.

    Errors: OSError.
    """
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [console]))]
        connection.sendmsg([b"/dev/ptmx"], ancillary)


def write_pid(path: str, pid: int) -> None:
    """Whole or not at all: its reader waits for it to appear."""
    if not path:
        return
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        file.write(str(pid))
    os.replace(temporary, path)
