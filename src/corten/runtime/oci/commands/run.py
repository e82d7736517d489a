"""run: create and start; in the foreground until the program has ended."""

from __future__ import annotations

import argparse
import contextlib

from corten.errors import CortenError
from corten.runtime.oci import bundles
from corten.runtime.oci.call import Call
from corten.runtime.oci.commands.delete import take_away
from corten.runtime.oci.console import Foreground


def arguments(command: argparse.ArgumentParser) -> None:
    bundles.arguments(command)
    command.add_argument("-d", "--detach", action="store_true", help="do not wait for the program")
    command.add_argument("--keep", action="store_true", help="do not delete the container when it ends")
    command.add_argument(
        "--no-subreaper", action="store_true", help="what is the case: orphans are the pid namespace's"
    )
    command.add_argument("id")


def run(call: Call) -> int:
    options = call.options
    init = bundles.create(call, gated=False, detached=options.detach)
    with contextlib.nullcontext() if options.detach else Foreground() as foreground:
        try:
            init.start()
        except CortenError:
            init.abandon()
            call.states.remove(options.id)
            raise
        if foreground is None:
            return 0
        code = foreground.follow(init.pid, init.pidfd, init.console_fd)
    if not options.keep:
        with call.states.locked(options.id):
            take_away(call, call.states.load(options.id))
    return code
