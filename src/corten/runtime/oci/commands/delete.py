"""delete: take away what is left of a container."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, CortenError, NotFound
from corten.runtime import hooks
from corten.runtime.oci import signals
from corten.runtime.oci.call import Call
from corten.runtime.state import ContainerState, Status, document

_WALL = 0x40000000  # also children that do not signal with SIGCHLD, waitpid(2)


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-f", "--force", action="store_true", help="kill it if it runs; no error if it is not there")
    command.add_argument("id")


def run(call: Call) -> int:
    options = call.options
    try:
        with call.states.locked(options.id):
            state = call.states.load(options.id)
            status = call.states.status(state)
            if not options.force and status not in (Status.CREATED, Status.STOPPED):
                raise Conflict(f"cannot delete container {options.id} that is not stopped: {status}")
            take_away(call, state)
    except NotFound:
        if not options.force:
            raise
        # also what a create that was killed has left
        call.states.remove(options.id)
    return 0


def take_away(call: Call, state: ContainerState) -> None:
    """Kill what runs, remove the control group, run the last hooks, forget the container."""
    cgroup = Cgroup(state.cgroup_path)
    with contextlib.suppress(CortenError, OSError):
        cgroup.thaw()  # what is frozen does not die on cgroup v1
    if state.pid:
        signals.send(state, signal.SIGKILL)
    cgroup.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(state.pid, _WALL)
    cgroup.delete()
    if state.resctrl_group is not None:
        state.resctrl_group.remove()
    try:
        spec = call.states.spec(state.id)
        hooks.run(spec.get("hooks") or {}, "poststop", document(state, Status.STOPPED))
    except (CortenError, OSError, ValueError) as error:
        # runtime.md, "Lifecycle": logged, and the rest goes on
        call.tell("warning", str(error))
    call.states.remove(state.id)
