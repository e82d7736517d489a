"""Running one command of ``corten-oci``, and telling what went wrong."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys

from corten.errors import CommandNotExecutable, CommandNotFound, CortenError, InvalidParameter
from corten.runtime.oci.arguments import parser
from corten.runtime.oci.operations import Operations

# the commands that are ``starting``'s: what they need takes as long to import as all the rest together
STARTING = ("create", "start", "run", "exec", "restore")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


class Log:
    """Messages on standard error and in the file of ``--log``, in runc's form so that its callers can read them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._file: str = options.log
        self._json: bool = options.log_format == "json"
        self.debugging: bool = options.debug

    def tell(self, level: str, message: str) -> None:
        # a caller that keeps a log may have given us the container's standard error
        if level == "error" or not self._file:
            sys.stderr.write(f"corten-oci: {message}\n")
        if not self._file:
            return
        if self._json:
            line = json.dumps({"level": level, "msg": message, "time": now()})
        else:
            line = f"time={json.dumps(now())} level={level} msg={json.dumps(message)}"
        with contextlib.suppress(OSError), open(self._file, "a") as file:
            file.write(f"{line}\n")


def run(words: list[str]) -> int:
    """One command; its exit code, which is the program's own where one was run in the foreground."""
    options = parser().parse_args(words)
    log = Log(options)
    try:
        _check(options)
        return _operations(options.command)(options, log.tell, debugging=log.debugging).run()
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


def _operations(command: str) -> type[Operations]:
    if command in STARTING:
        from corten.runtime.oci.starting import Starting

        return Starting
    return Operations


def _check(options: argparse.Namespace) -> None:
    rootless = os.geteuid() != 0
    if options.rootless != "auto" and (options.rootless == "true") != rootless:
        raise InvalidParameter(f"--rootless={options.rootless} is not the case: the user is {os.geteuid()}")
