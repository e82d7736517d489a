"""update: limits of a container that is there."""

from __future__ import annotations

import argparse

from corten.errors import InvalidParameter
from corten.runtime import groups, resctrl
from corten.runtime.oci.call import Call
from corten.runtime.oci.documents import resources_of
from corten.runtime.oci.quantities import size


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-r", "--resources", default="", metavar="FILE", help="linux.resources; - for stdin")
    for name in ("memory", "memory-swap", "memory-reservation"):
        command.add_argument(f"--{name}", type=size, metavar="BYTES")
    for name in ("cpu-period", "cpu-quota", "cpu-burst", "cpu-rt-period", "cpu-rt-runtime"):
        command.add_argument(f"--{name}", type=int, metavar="MICROSECONDS")
    for name in ("cpu-share", "cpu-idle", "pids-limit", "blkio-weight"):
        command.add_argument(f"--{name}", type=int, metavar="N")
    for name in ("cpuset-cpus", "cpuset-mems"):
        command.add_argument(f"--{name}", default="", metavar="LIST")
    command.add_argument("--l3-cache-schema", default="", metavar="L3:ID=MASK;...", help="of its class of resctrl")
    command.add_argument("--mem-bw-schema", default="", metavar="MB:ID=SHARE;...", help="of its class of resctrl")
    command.add_argument("id")


def run(call: Call) -> int:
    resources = resources_of(call.options)
    cgroup = call.cgroup("update")
    _change_share(call)
    groups.update(cgroup, resources)
    for warning in cgroup.warnings:
        call.tell("warning", warning)
    return 0


def _change_share(call: Call) -> None:
    """Of its class of cache and memory bandwidth."""
    options = call.options
    schemas = [options.l3_cache_schema, options.mem_bw_schema]
    if not any(schemas):
        return
    share = call.states.load(options.id).resctrl_group
    if share is None:
        raise InvalidParameter(f"container {options.id} was made without linux.intelRdt: it has no class to change")
    resctrl.check({"memBwSchema": options.mem_bw_schema})
    share.change(*filter(None, schemas))
