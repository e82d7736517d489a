"""start: the program of a created container."""

from __future__ import annotations

import argparse
import signal

from corten.errors import CortenError
from corten.runtime import hooks
from corten.runtime.handshake import run_to_exec
from corten.runtime.oci import gate, signals
from corten.runtime.oci.call import Call
from corten.runtime.state import Status, document, require


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("id")


def run(call: Call) -> int:
    container_id, states = call.options.id, call.states
    with states.locked(container_id):
        state = states.load(container_id)
        require("start", states.status(state))
        directory = states.directory(container_id)
        channel = gate.reach(directory)
        try:
            run_to_exec(channel)
        finally:
            channel.close()
            gate.remove(directory)
        try:
            hooks.run(states.spec(container_id).get("hooks") or {}, "poststart", document(state, Status.RUNNING))
        except CortenError:
            # runtime.md, "Lifecycle": the container is stopped when one of them fails
            signals.send(state, signal.SIGKILL)
            raise
    return 0
