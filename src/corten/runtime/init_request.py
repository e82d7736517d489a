"""What a container's init is told: all that it needs, handed over by the fork."""

from __future__ import annotations

from typing import Any, NamedTuple

from corten.cgroup.manager import Cgroup
from corten.runtime import sources
from corten.runtime.handshake import Channel
from corten.runtime.hostproc import HostProc
from corten.runtime.seccomp_listener import SeccompListener


class Ahead(NamedTuple):
    """What a newborn (``newborn.py``) has done beside its session and its loopback device.

    program:     the compiled seccomp profile, b"" without one
    filesystems: detached, by their index in ``mounts``
    procfs:      another descriptor of one of them; -1 when there is none
    observed:    it tells what memory it has written to
    """

    program: bytes
    filesystems: dict[int, int]
    procfs: int
    observed: bool


class InitRequest(NamedTuple):
    """
    new:        types of the namespaces that were or are to be made
    joined:     types of the namespaces that were joined
    taken:      root and bind sources, which the parent has opened
    stdio:      descriptors for 0, 1, 2; None with a terminal or to keep the caller's
    keep:       how many descriptors from 3 on the program inherits
    gate:       a listening socket whose first client starts the program, -1 to wait on the channel
    listener:   who gets the seccomp filter, None where the profile hands nothing over
    timed:      tell how long each step took
    ahead:      what has been done already; None for who is cloned when all is known
    """

    spec: dict[str, Any]
    container_id: str
    bundle: str
    cgroup: Cgroup
    new: frozenset[str]
    joined: frozenset[str]
    proc: HostProc
    taken: sources.Sources
    stdio: tuple[int, int, int] | None
    channel: Channel
    state: dict[str, Any]
    seccomp_cache: str = ""
    keep: int = 0
    gate: int = -1
    join_cgroup: bool = True
    die_with_parent: bool = False
    new_keyring: bool = True
    listener: SeccompListener | None = None
    timed: bool = False
    ahead: Ahead | None = None

    @property
    def joined_paths(self) -> dict[str, str]:
        """Files of the namespaces that are joined, by type."""
        entries = (self.spec.get("linux") or {}).get("namespaces") or ()
        return {entry["type"]: entry["path"] for entry in entries if entry.get("path")}

    @property
    def in_user_namespace(self) -> bool:
        return "user" in self.new or "user" in self.joined

    @property
    def needs_parent(self) -> bool:
        """Whether the host's side has to act before init can go on."""
        return self.in_user_namespace or bool(self.clock_offsets)

    @property
    def clock_offsets(self) -> dict[str, dict[str, int]]:
        offsets: dict[str, dict[str, int]] = (self.spec.get("linux") or {}).get("timeOffsets") or {}
        return offsets if "time" in self.new else {}
