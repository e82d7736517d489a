"""The end of a container, step by step.  The shim ends soon after, so this may take memory and, briefly, time."""

from __future__ import annotations

import contextlib

from corten.cgroup.manager import Cgroup
from corten.errors import CortenError
from corten.runtime import hooks
from corten.shim.launch import Place, read_spec, unmount_root


def open_cgroup(place: Place) -> Cgroup | None:
    try:
        return Cgroup(place.cgroup)
    except (CortenError, OSError):
        return None


def stop_stragglers(cgroup: Cgroup | None) -> bool:
    """The program is gone: kill what it left in its cgroup (a shared pid namespace); True if memory had run out."""
    if cgroup is None:
        return False
    with contextlib.suppress(CortenError, OSError):
        cgroup.thaw()  # what is frozen does not die on cgroup v1
    oom_killed = False
    with contextlib.suppress(CortenError, OSError):
        oom_killed = cgroup.oom_kills() > 0
    with contextlib.suppress(CortenError, OSError):
        cgroup.kill()
    return oom_killed


def clear(place: Place, cgroup: Cgroup | None) -> list[str]:
    """Take mount and cgroup away; what went wrong."""
    if place.runtime:
        place.foreign.delete()
    unmount_root(place.target)
    if cgroup is not None:
        try:
            cgroup.delete()
        except (CortenError, OSError) as error:
            return [str(error)]
    return []


def run_last_hooks(place: Place, pid: int) -> list[str]:
    """The specification's ``poststop``: the container is gone; what went wrong."""
    try:
        spec = read_spec(place)
        hooks.run(spec.get("hooks") or {}, "poststop", place.state(spec, "stopped", pid))
    except (CortenError, OSError, ValueError, KeyError) as error:
        return [f"poststop: {error}"]
    return []
