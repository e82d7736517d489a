"""state: what the specification says of a container, as JSON."""

from __future__ import annotations

import argparse
import json

from corten.runtime.oci.call import Call
from corten.runtime.state import document


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("id")


def run(call: Call) -> int:
    state = call.states.load(call.options.id)
    call.print(json.dumps(document(state, call.states.status(state)), indent=2))
    return 0
