"""Running one command of ``corten-oci``, and telling what went wrong."""

from __future__ import annotations

import argparse
import gc
import os

from corten.errors import CommandNotExecutable, CommandNotFound, CortenError, InvalidParameter
from corten.runtime.oci.arguments import parse


def run(words: list[str]) -> int:
    """One command; its exit code, which is the program's own where one was run in the foreground."""
    options, command = parse(words)
    # only now: nothing of it is needed for --version and --help
    from corten.runtime.oci.call import Call
    from corten.runtime.oci.log import Log

    gc.enable()
    log = Log(options)
    try:
        _check(options)
        return command(Call(options, log.tell))
    except CommandNotFound as error:
        log.tell("error", error.message)
        return 127
    except CommandNotExecutable as error:
        log.tell("error", error.message)
        return 126
    except CortenError as error:
        log.tell("error", error.message)
    except OSError as error:
        log.tell("error", f"{(error.strerror or str(error)).lower()}{f': {error.filename}' if error.filename else ''}")
    except KeyboardInterrupt:
        return 130
    return 1


def _check(options: argparse.Namespace) -> None:
    rootless = os.geteuid() != 0
    if options.rootless != "auto" and (options.rootless == "true") != rootless:
        raise InvalidParameter(f"--rootless={options.rootless} is not the case: the user is {os.geteuid()}")
    if rootless and options.command in ("create", "run", "restore"):
        raise InvalidParameter(
            "without root this works where one is root of a user namespace, as below Podman or with podman unshare"
        )
