"""pause: no process of a container runs any more."""

from __future__ import annotations

import argparse

from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("id")


def run(call: Call) -> int:
    call.cgroup("pause").freeze()
    return 0
