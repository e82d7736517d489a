"""``corten-oci``: the runtime as a command, with runc's command line, for containerd, Podman and own scripts.

This part only shields the interpreter and hands over to ``runtime.oci``: what enters a container has the interpreter
as /proc/<pid>/exe, so it is executed once more from a read-only, detached clone of its directory's mount, through
which nobody can write to it (CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys

import corten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# commands of ours whose processes enter a container; at a restore it is criu that does
_ENTERING = ("create", "run", "exec")
# far above what a caller passes with --preserve-fds
_LOWEST_DESCRIPTOR = 512


def main() -> NoReturn:
    """The command as a process."""
    words = sys.argv[1:]
    _complete_streams()
    if any(word in _ENTERING for word in words):
        _execute_shielded(words)
    _run(words)


def _complete_streams() -> None:
    """The null device for what the caller has closed: else a descriptor of ours would get its number, and a program
    would be given it as its own stream.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(words: list[str]) -> NoReturn:
    gc.disable()  # nothing that is imported becomes garbage
    from corten.runtime.oci.command import run

    # what was to be said is out; for the interpreter to clear itself away takes as long as most answers
    os._exit(run(words))


def interpreter() -> str:
    """The real interpreter, also from a virtual environment: its own path is where Python finds its library."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _execute_shielded(words: list[str]) -> None:
    """Become the shielded interpreter; returns where the kernel or the user's rights do not allow it.

    Whoever has no rights on the host has none to lose: an interpreter of root's stays safe from them.
    """
    from corten.linux import mount

    program = interpreter()
    try:
        clone = mount.clone_tree(os.path.dirname(program))
        mount.mount_setattr(clone, set_=mount.MOUNT_ATTR_RDONLY)
        shield = fcntl.fcntl(clone, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
        os.close(clone)
    except OSError:
        return
    package = os.path.dirname(os.path.dirname(os.path.abspath(corten.__file__)))
    code = f"import sys; sys.path.append({package!r}); from corten.runtime.cli import shielded; shielded({shield})"
    try:
        os.execve(
            f"/proc/self/fd/{shield}/{os.path.basename(program)}",
            [program, "-I", "-S", "-X", "utf8", "-c", code, *words],
            dict(os.environ),
        )
    except OSError:
        os.close(shield)


def shielded(shield: int) -> NoReturn:
    """``main`` in the shielded interpreter."""
    os.close(shield)
    _run(sys.argv[1:])


if __name__ == "__main__":
    main()
