"""Who decides about system calls that a profile hands over (SCMP_ACT_NOTIFY): a program that listens at a unix socket.

It gets the filter's descriptor together with what process it belongs to.  The process itself sends them, right after
the filter is in force, over a connection that was made while the host's paths were still to be seen.
Sources: runtime-spec config-linux.md, "Seccomp" and "The Container Process State"; seccomp_unotify(2).
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime.hostproc import HostProc

ACTION = "SCMP_ACT_NOTIFY"
_FD_NAME = "seccompFd"  # the specification's name for it
# what the hand-over itself needs: nobody could answer for it yet
_NEEDED = "sendmsg"


def check(seccomp: dict[str, Any], place: str) -> None:
    """Errors: InvalidParameter naming what does not go together, behind ``place``."""
    rules = [rule for rule in seccomp.get("syscalls") or () if rule.get("action") == ACTION]
    if seccomp.get("defaultAction") == ACTION:
        raise InvalidParameter(f"{place}defaultAction: {ACTION} cannot be the default")
    if rules and not seccomp.get("listenerPath"):
        raise InvalidParameter(f"{place}listenerPath: {ACTION} needs somebody who listens")
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise InvalidParameter(f"{place}listenerMetadata: there is no listenerPath")
    if any(_NEEDED in rule["names"] for rule in rules):
        raise InvalidParameter(
            f"{place}syscalls: {_NEEDED} cannot be handed over: it is how the listener gets the filter"
        )


def is_wanted(seccomp: dict[str, Any]) -> bool:
    """Whether a listener is told of anything; a path alone means nothing."""
    return any(rule.get("action") == ACTION for rule in seccomp.get("syscalls") or ())


class SeccompListener:
    """A connection to the listener, until it has been given the filter."""

    def __init__(self, seccomp: dict[str, Any], state: dict[str, Any]) -> None:
        """state: of the container (runtime.md, "State").  Errors: SystemFailure when nobody listens."""
        path = seccomp["listenerPath"]
        self._state = state
        self._metadata: str = seccomp.get("listenerMetadata") or ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pid = 0
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            text = f"nobody listens for the seccomp filter at {path}: {(error.strerror or str(error)).lower()}"
            raise SystemFailure(text, step="seccomp", errno=error.errno or 0) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def remember_self(self, proc: HostProc) -> None:
        """The calling process is the one with the filter: its pid as the host has it."""
        self._pid = int(proc.read("self/stat").partition(" ")[0])

    def give(self, descriptor: int) -> None:
        """Hand the filter over; it is nobody's here afterwards.  Errors: OSError."""
        document: dict[str, Any] = {
            "ociVersion": self._state["ociVersion"],
            "fds": [_FD_NAME],
            "pid": self._pid,
            "state": {"pid": self._pid, **self._state},
        }
        if self._metadata:
            document["metadata"] = self._metadata
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self._socket.sendmsg([json.dumps(document).encode()], rights)
        os.close(descriptor)
        self.close()


def install(program: bytes, flags: int, listener: SeccompListener | None) -> None:
    """Put a filter in force on this thread, and give it to its listener.  Errors: OSError."""
    if listener is None:
        kernel.seccomp_filter(program, flags)
        return
    listener.give(kernel.seccomp_filter(program, flags | kernel.SECCOMP_FILTER_FLAG_NEW_LISTENER))
