"""The init program of ``--init``: a static binary of two kilobytes that comes with the package (profiles/init.c)."""

from __future__ import annotations

import os
from pathlib import Path

from corten.errors import InvalidParameter

_PROFILES = Path(__file__).parent / "profiles"


def path() -> Path:
    """The program for this machine, executable.

    Errors: InvalidParameter on an architecture that it was not built for.
    """
    program = _PROFILES / f"init-{os.uname().machine}"
    if not program.exists():
        raise InvalidParameter(f"--init is not available on {os.uname().machine}")
    if not os.access(program, os.X_OK):
        # an installer may drop the mode
        program.chmod(0o755)
    return program
