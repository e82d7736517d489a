"""kill: a signal to a container's first process, or to all of them."""

from __future__ import annotations

import argparse

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict
from corten.runtime.oci import signals
from corten.runtime.oci.call import Call
from corten.runtime.state import Status


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-a", "--all", action="store_true", help="to all its processes")
    command.add_argument("id")
    command.add_argument("signal", nargs="?", default="SIGTERM")


def run(call: Call) -> int:
    state = call.states.load(call.options.id)
    number = signals.signal_number(call.options.signal)
    if call.options.all:
        Cgroup(state.cgroup_path).kill(number)
        return 0
    if call.states.status(state) == Status.STOPPED or not signals.send(state, number):
        raise Conflict("container not running")
    return 0
