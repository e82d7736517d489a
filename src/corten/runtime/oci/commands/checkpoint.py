"""checkpoint: a container's state in a directory, by criu."""

from __future__ import annotations

import argparse

from corten.runtime.oci import criu
from corten.runtime.oci.call import Call
from corten.runtime.oci.commands.delete import take_away
from corten.runtime.state import require


def arguments(command: argparse.ArgumentParser) -> None:
    criu.arguments(command)
    command.add_argument("--leave-running", action="store_true", help="let the container go on")
    command.add_argument(
        "--tcp-skip-in-flight", action="store_true", help="leave out connections that are not open yet"
    )
    command.add_argument("--link-remap", action="store_true", help="keep files that have been unlinked")
    command.add_argument("id")


def run(call: Call) -> int:
    options = call.options
    with call.states.locked(options.id):
        state = call.states.load(options.id)
        require("checkpoint", call.states.status(state))
        criu.dump(options, state.pid, call.states.spec(options.id))
        if not options.leave_running:
            take_away(call, state)
    return 0
