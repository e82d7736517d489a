"""``corten update``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.messages import describe
from corten.cli.options.container import restart_policy
from corten.cli.options.table import LIMITS
from corten.client.api import path_of
from corten.errors import CortenError, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.cli.context import Context

# option -> field; only these may change while a container exists
_FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "kernel-memory": "KernelMemory",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "network-rate": "NetworkRate",
    "pids-limit": "PidsLimit",
}


def _update(context: Context, options: flags.Options, names: list[str]) -> int:
    if options.is_empty:
        raise InvalidParameter("you must provide one or more flags when using this command")
    document = {field: options.value(option) for option, field in _FIELDS.items() if options.is_given(option)}
    document["RestartPolicy"] = restart_policy(options.text("restart"))
    code = 0
    for name in names:
        try:
            answer = context.api.post(path_of("/containers/", name, "/update"), None, document)
        except CortenError as error:
            context.complain(describe(error))
            code = 1
            continue
        context.print(name)
        for warning in answer.get("Warnings") or ():
            context.warning(warning)
    return code


UPDATE = Command(
    _update,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        *(flag for flag in LIMITS if flag.name in _FIELDS),
        flags.text("restart", "", "What to do when the program ends: no, always, unless-stopped, on-failure[:RETRIES]"),
    ),
    least=1,
    most=None,
    examples=("update --memory 1g --memory-swap 2g web", "update --restart unless-stopped web db"),
)
