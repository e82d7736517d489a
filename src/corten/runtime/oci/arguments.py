"""The command line of ``corten-oci``: runc's names, so that runc's callers can call it.  Source: runc(8)."""

from __future__ import annotations

import argparse
import os
import re

from corten import __version__

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def default_root() -> str:
    if os.geteuid() == 0:
        return "/run/corten-oci"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/corten-oci"


def size(text: str) -> int:
    """512m -> bytes; -1 stands for no limit.  Errors: ValueError."""
    word = text.strip().lower()
    if word.lstrip("-").isdigit():
        return int(word)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt])(?:i?b)?", word)
    if not found:
        raise ValueError(f"invalid size '{text}'")
    return int(float(found[1]) * _UNITS[found[2]])


def seconds(text: str) -> float:
    """5s, 500ms, 1m -> seconds.  Errors: ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not found or not float(found[1]):
        raise ValueError(f"invalid duration '{text}'")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]


class _Help(argparse.HelpFormatter):
    """argparse makes one for each argument, and each would load shutil to ask for the terminal's width."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(columns) if columns.isdecimal() and columns != "0" else 100)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="corten-oci", description="OCI runtime of Corten", allow_abbrev=False, formatter_class=_Help
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
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=top.prog)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False, formatter_class=_Help)

    _add_create(add("create", "make a container, which waits for start"), run=False)
    _add_create(add("run", "make and start a container"), run=True)
    add("start", "run the program of a created container").add_argument("id")
    add("state", "print a container's state").add_argument("id")
    kill = add("kill", "send a signal to a container's first process")
    kill.add_argument("-a", "--all", action="store_true", help="to all its processes")
    kill.add_argument("id")
    kill.add_argument("signal", nargs="?", default="SIGTERM")
    delete = add("delete", "delete a container that is stopped or was never started")
    delete.add_argument("-f", "--force", action="store_true", help="kill it if it runs; no error if it is not there")
    delete.add_argument("id")
    _add_exec(add("exec", "run a program in a container"))
    listing = add("list", "list containers")
    listing.add_argument("-q", "--quiet", action="store_true", help="ids only")
    listing.add_argument("-f", "--format", default="table", choices=("table", "json"))
    processes = add("ps", "list a container's processes")
    processes.add_argument("-f", "--format", default="table", choices=("table", "json"))
    processes.add_argument("id")
    add("pause", "suspend all processes").add_argument("id")
    add("resume", "resume all processes").add_argument("id")
    _add_update(add("update", "change a container's limits"))
    events = add("events", "print statistics, and each time that memory ran out")
    events.add_argument("--stats", action="store_true", help="once")
    events.add_argument("--interval", default=5.0, type=seconds, help="between two statistics, such as 5s")
    events.add_argument("id")
    spec = add("spec", "write a config.json to start from")
    spec.add_argument("-b", "--bundle", default=".", metavar="DIR")
    _add_checkpoint(add("checkpoint", "write the state of a running container to a directory, and end it (needs criu)"))
    _add_restore(add("restore", "make a container that goes on where a checkpoint was made (needs criu)"))
    add("features", "print what the runtime supports")
    return top


def _add_streams(command: argparse.ArgumentParser) -> None:
    command.add_argument("--console-socket", default="", metavar="SOCKET", help="gets the pty's master")
    command.add_argument("--pid-file", default="", metavar="FILE", help="gets the pid")
    command.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="descriptors from 3 on to pass")


def _add_create(command: argparse.ArgumentParser, *, run: bool) -> None:
    command.add_argument("-b", "--bundle", default=".", metavar="DIR", help="directory with config.json")
    _add_streams(command)
    command.add_argument("--no-pivot", action="store_true", help="refused: without pivot_root a container can get out")
    command.add_argument("--no-new-keyring", action="store_true", help="keep the caller's session keyring")
    if run:
        command.add_argument("-d", "--detach", action="store_true", help="do not wait for the program")
        command.add_argument("--keep", action="store_true", help="do not delete the container when it ends")
        command.add_argument(
            "--no-subreaper", action="store_true", help="what is the case: orphans are the pid namespace's"
        )
    command.add_argument("id")


def _add_exec(command: argparse.ArgumentParser) -> None:
    _add_streams(command)
    command.add_argument("--cwd", default="", metavar="DIR")
    command.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    command.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    command.add_argument("-u", "--user", default="", metavar="UID[:GID]")
    command.add_argument("-g", "--additional-gids", action="append", type=int, default=[], metavar="GID")
    command.add_argument("-p", "--process", default="", metavar="FILE", help="process of config.json")
    command.add_argument("-d", "--detach", action="store_true", help="do not wait for the program")
    command.add_argument("--process-label", default="", metavar="LABEL", help="for SELinux")
    command.add_argument("--apparmor", default="", metavar="PROFILE")
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("-c", "--cap", action="append", default=[], metavar="CAPABILITY", help="in addition")
    command.add_argument("--ignore-paused", action="store_true", help="wait until a paused container is resumed")
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--image-path", default="checkpoint", metavar="DIR", help="of the checkpoint")
    command.add_argument("--work-path", default="", metavar="DIR", help="of criu's logs (default: the image path)")
    command.add_argument("--tcp-established", action="store_true", help="with open TCP connections")
    command.add_argument("--ext-unix-sk", action="store_true", help="with unix sockets whose other end is outside")
    command.add_argument("--file-locks", action="store_true", help="with locks of files")


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    _add_images(command)
    command.add_argument("--leave-running", action="store_true", help="let the container go on")
    command.add_argument(
        "--tcp-skip-in-flight", action="store_true", help="leave out connections that are not open yet"
    )
    command.add_argument("--link-remap", action="store_true", help="keep files that have been unlinked")
    command.add_argument("id")


def _add_restore(command: argparse.ArgumentParser) -> None:
    _add_images(command)
    command.add_argument("-b", "--bundle", default=".", metavar="DIR", help="directory with config.json")
    command.add_argument("--pid-file", default="", metavar="FILE", help="gets the pid")
    command.add_argument("-d", "--detach", action="store_true", help="do not wait for the program")
    command.add_argument(
        "--no-subreaper", action="store_true", help="what is the case: orphans are the pid namespace's"
    )
    command.add_argument("id")


def _add_update(command: argparse.ArgumentParser) -> None:
    command.add_argument("-r", "--resources", default="", metavar="FILE", help="linux.resources; - for stdin")
    for name in ("memory", "memory-swap", "memory-reservation"):
        command.add_argument(f"--{name}", type=size, metavar="BYTES")
    for name in ("cpu-period", "cpu-quota", "cpu-burst", "cpu-rt-period", "cpu-rt-runtime"):
        command.add_argument(f"--{name}", type=int, metavar="MICROSECONDS")
    for name in ("cpu-share", "cpu-idle", "pids-limit", "blkio-weight"):
        command.add_argument(f"--{name}", type=int, metavar="N")
    for name in ("cpuset-cpus", "cpuset-mems"):
        command.add_argument(f"--{name}", default="", metavar="LIST")
    command.add_argument("--l3-cache-schema", default="", metavar="L3:ID=MASK;...", help="of its class of resctrl")
    command.add_argument("--mem-bw-schema", default="", metavar="MB:ID=SHARE;...", help="of its class of resctrl")
    command.add_argument("id")
