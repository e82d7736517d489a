"""``corten-oci``: the runtime as a command, with runc's command line, for containerd, Podman and own scripts.

This part only shields the interpreter and hands over to ``runtime.oci``: what enters a container has the interpreter
as /proc/<pid>/exe, so it is executed once more from a read-only, detached clone of its directory's mount, through
which nobody can write to it (CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import os
import sys

import corten

# commands of ours whose processes enter a container; at a restore it is criu that does
_ENTERING = ("create", "run", "exec")
# far above what a caller passes with --preserve-fds
_LOWEST_DESCRIPTOR = 512


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None and any(word in _ENTERING for word in words):
        _execute_shielded(words)
    from corten.runtime.oci.command import run

    return run(words)


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
    code = (
        f"import sys; sys.path.append({package!r}); "
        f"from corten.runtime.cli import shielded; sys.exit(shielded({shield}))"
    )
    try:
        os.execve(
            f"/proc/self/fd/{shield}/{os.path.basename(program)}",
            [program, "-I", "-S", "-X", "utf8", "-c", code, *words],
            dict(os.environ),
        )
    except OSError:
        os.close(shield)


def shielded(shield: int) -> int:
    """``main`` in the shielded interpreter."""
    os.close(shield)
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
