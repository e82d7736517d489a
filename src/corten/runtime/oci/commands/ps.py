"""ps: the processes of a container, by their pids on the host."""

from __future__ import annotations

import argparse
import json

from corten.cgroup.manager import Cgroup
from corten.runtime.oci import reports
from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-f", "--format", default="table", choices=("table", "json"))
    command.add_argument("id")


def run(call: Call) -> int:
    found = reports.processes(Cgroup(call.states.load(call.options.id).cgroup_path))
    if call.options.format == "json":
        call.print(json.dumps([pid for pid, _ in found]))
    else:
        call.print(reports.table([("PID", "CMD"), *((str(pid), command) for pid, command in found)]))
    return 0
