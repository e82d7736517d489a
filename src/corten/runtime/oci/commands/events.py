"""events: statistics at intervals, and each time that memory ran out."""

from __future__ import annotations

import argparse
import json
import time

from corten.runtime.oci import reports
from corten.runtime.oci.call import Call
from corten.runtime.oci.quantities import seconds
from corten.runtime.state import Status


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--stats", action="store_true", help="once")
    command.add_argument("--interval", default=5.0, type=seconds, help="between two statistics, such as 5s")
    command.add_argument("id")


def run(call: Call) -> int:
    options = call.options
    cgroup = call.cgroup("get statistics of")
    state = call.states.load(options.id)
    kills = cgroup.oom_kills()
    while True:
        call.print(json.dumps({"type": "stats", "id": state.id, "data": reports.statistics(cgroup)}))
        if options.stats:
            return 0
        time.sleep(options.interval)
        if cgroup.oom_kills() > kills:
            kills = cgroup.oom_kills()
            call.print(json.dumps({"type": "oom", "id": state.id}))
        if call.states.status(state) == Status.STOPPED:
            return 0
