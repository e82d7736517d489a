"""The command line of ``corten-oci``: runc's names, so that runc's callers can call it.  Source: runc(8)."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable

from corten import __version__
from corten.linux import user_namespace
from corten.runtime.oci.commands import COMMANDS


def default_root() -> str:
    """Of the user: also where Podman has made it root of a user namespace."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and (not own or user_namespace.is_initial()):
        return "/run/corten-oci"
    return f"{own or f'/run/user/{os.geteuid()}'}/corten-oci"


class _Help(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each argument, and each would load shutil to ask for the terminal's width."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(columns) if columns.isdecimal() and columns != "0" else 100)


def parse(words: list[str]) -> tuple[argparse.Namespace, Callable[..., int]]:
    """What was asked for, and the function of the command; ends the process after --help, --version and mistakes."""
    options = _parser().parse_args(words)
    module = importlib.import_module(f"corten.runtime.oci.commands.{options.command}")
    command = argparse.ArgumentParser(
        prog=f"corten-oci {options.command}",
        description=COMMANDS[options.command],
        allow_abbrev=False,
        formatter_class=_Help,
    )
    module.arguments(command)
    return command.parse_args(options.rest, options), module.run


def _parser() -> argparse.ArgumentParser:
    """Of what stands before the command: all commands together take longer to declare than most take to run."""
    listed = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="corten-oci",
        description="OCI runtime of Corten",
        epilog=f"commands:\n{listed}",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    top.add_argument("--root", default=default_root(), metavar="DIR", help="where the containers' state is kept")
    top.add_argument("--log", default="", metavar="FILE", help="where errors and warnings are written, besides stderr")
    top.add_argument("--log-format", default="text", choices=("text", "json"))
    top.add_argument("--debug", action="store_true", help="tell in the log how long each step of a start took")
    top.add_argument(
        "--systemd-cgroup", action="store_true", help="cgroupsPath is slice:prefix:name, and systemd makes the cgroup"
    )
    top.add_argument(
        "--rootless", default="auto", choices=("auto", "true", "false"), help="fail when it is not as it says"
    )
    version = f"corten-oci version {__version__}\nspec: 1.2.0"
    top.add_argument("-v", "--version", action="version", version=version)
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    rest = top.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="what it takes: corten-oci COMMAND --help"
    )
    rest.required = False  # some take nothing; argparse knows that by itself only from Python 3.12 on
    return top
