"""The user ``dockremap`` of ``--userns-remap=default``: made when it has no subordinate ids, as dockerd does.

The machine's own programs change its files (shadow's useradd and usermod know their locks and formats).
Sources: useradd(8), usermod(8), subuid(5).
"""

from __future__ import annotations

import logging
import pwd
import shutil
import subprocess
from pathlib import Path

from corten.errors import InvalidParameter
from corten.linux import subids
from corten.linux.subids import Range

logger = logging.getLogger(__name__)

_PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"
_FIRST = 100_000
_COUNT = 65_536
_LAST = 2**31


def ensure(name: str) -> None:
    """Errors: InvalidParameter with what a program says, or that it is missing."""
    names = subids.names_of_user(name)
    files = ((subids.SUBUID, "--add-subuids"), (subids.SUBGID, "--add-subgids"))
    lacking = [(path, option) for path, option in files if not subids.ranges(path, names)]
    if lacking and not _exists(name):
        _run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name)
        logger.info("user %s was made for containers' ids", name)
    for path, option in lacking:
        first = free(subids.granted(path))
        _run("usermod", option, f"{first}-{first + _COUNT - 1}", name)
        logger.info("user %s was given the ids from %d on in %s", name, first, path)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def free(taken: list[Range]) -> int:
    """Where 65,536 ids begin that nobody was given.  Errors: InvalidParameter."""
    first = _FIRST
    for other in sorted(taken):
        if other.first < first + _COUNT and first < other.end:
            first = other.end
    if first + _COUNT > _LAST:
        raise InvalidParameter("can't create ID mappings: there are no 65536 subordinate ids left")
    return first


def _run(program: str, *words: str) -> None:
    found = shutil.which(program, path=_PLACES)
    if found is None:
        raise InvalidParameter(
            f"--userns-remap=default: {program} is not installed: make a user dockremap with lines in {_both()}"
        )
    done = subprocess.run(
        [found, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env={"PATH": _PLACES}
    )
    if done.returncode:
        raise InvalidParameter(f"--userns-remap=default: {program} failed: {done.stderr.strip() or done.returncode}")


def _both() -> str:
    files: tuple[Path, ...] = (subids.SUBUID, subids.SUBGID)
    return " and ".join(map(str, files))
