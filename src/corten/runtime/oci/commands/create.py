"""create: a container whose program waits for ``start``."""

from __future__ import annotations

import argparse

from corten.runtime.oci import bundles
from corten.runtime.oci.call import Call


def arguments(command: argparse.ArgumentParser) -> None:
    bundles.arguments(command)
    command.add_argument("id")


def run(call: Call) -> int:
    bundles.create(call, gated=True, detached=True)
    return 0
