"""resume: the processes of a paused container go on."""

from __future__ import annotations

import argparse

from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("id")


def run(call: Call) -> int:
    call.cgroup("resume").thaw()
    return 0
