"""AppArmor: the profile that containers get where the host has it, loaded when the first one needs it.

It forbids what dockerd's docker-default forbids (moby/profiles apparmor): mounting, writing to what /proc and /sys tell
of the machine rather than of a process, AF_ALG sockets, signals and ptrace beyond the profile.  Source: apparmor.d(5).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

from corten.linux import user_namespace

logger = logging.getLogger(__name__)

DEFAULT = "corten-default"
UNCONFINED = "unconfined"
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_PARSER = "apparmor_parser"
_PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"

# a deny rule beats every other: what may be written below /proc and /sys is what no pattern matches
_PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer={name},
  ptrace (trace, read, tracedby, readby) peer={name},

  deny mount,
  deny network alg,

  # /proc: only what belongs to a process
  deny /proc/* w,
  deny /proc/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny /proc/{{sysrq-trigger,kcore}} rwklx,

  # /sys: only /sys/fs/cgroup
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"""


class AppArmor:
    """The profiles of one daemon's containers.

    enabled: the host's kernel has AppArmor switched on
    """

    def __init__(self, *, enabled: bool) -> None:
        # loading is for root of the machine; who is root of a user namespace only cannot
        self._loads = enabled and user_namespace.is_initial()
        self._parser = shutil.which(_PARSER, path=_PLACES) if self._loads else None

    @property
    def problem(self) -> str:
        """Why containers run without a profile although the host has AppArmor, "" when all is well."""
        if self._loads and self._parser is None:
            return f"AppArmor is enabled, but {_PARSER} is not installed: containers run without a profile"
        return ""

    def shown(self, asked: str, *, privileged: bool) -> str:
        """The profile of a container; asked: with ``--security-opt apparmor=``, "" for the default."""
        if asked or not self._parser:
            return asked
        return UNCONFINED if privileged else DEFAULT

    def ready(self, asked: str, *, privileged: bool) -> str:
        """As ``shown``; the default profile is loaded if it is not, or not any more.

        When it cannot be loaded the start fails: the runtime finds no profile of that name.
        """
        name = self.shown(asked, privileged=privileged)
        if name == DEFAULT and not asked and not _is_loaded():
            self._load()
        return name

    def _load(self) -> None:
        if self._parser is None:
            return
        done = subprocess.run(
            [self._parser, "--replace", "--skip-cache"],
            input=_PROFILE.format(name=DEFAULT),
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": _PLACES},
        )
        if done.returncode:
            logger.error("AppArmor profile %s cannot be loaded: %s", DEFAULT, done.stderr.strip())
        else:
            logger.info("AppArmor profile %s loaded", DEFAULT)


def _is_loaded() -> bool:
    try:
        with open(_LOADED) as file:
            return any(line.startswith(f"{DEFAULT} (") for line in file)
    except OSError:
        return False


def is_enabled() -> bool:
    """Whether the host's kernel has AppArmor switched on."""
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        return False
