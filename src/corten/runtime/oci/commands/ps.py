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
    command.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="of ps(1), which then makes the table"
    )


def run(call: Call) -> int:
    cgroup = Cgroup(call.states.load(call.options.id).cgroup_path)
    if call.options.format == "json":
        call.print(json.dumps(cgroup.pids()))
        return 0
    if call.options.options:
        call.print(reports.as_ps_prints(cgroup, call.options.options))
        return 0
    found = reports.processes(cgroup)
    call.print(reports.table([("PID", "CMD"), *((str(pid), command) for pid, command in found)]))
    return 0
