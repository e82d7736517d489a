"""exec: a further program in a container."""

from __future__ import annotations

import argparse
import contextlib
import os

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter
from corten.runtime import execution
from corten.runtime.oci import handing
from corten.runtime.oci.call import Call
from corten.runtime.oci.console import Foreground
from corten.runtime.oci.documents import process_of_exec
from corten.runtime.state import Status, document, require


def arguments(command: argparse.ArgumentParser) -> None:
    handing.arguments(command)
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
    command.add_argument("--cgroup", default="", metavar="PATH", help="a group that is there below the container's own")
    command.add_argument("--ignore-paused", action="store_true", help="wait until a paused container is resumed")
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)


def run(call: Call) -> int:
    options = call.options
    state = call.states.load(options.id)
    status = call.states.status(state)
    if status != Status.PAUSED or not options.ignore_paused:
        require("exec", status)
    cgroup = _group(state.cgroup_path, options.cgroup)
    spec = call.states.spec(options.id)
    process = process_of_exec(options, spec)
    handing.check_console(options.console_socket, process, detached=options.detach)
    with contextlib.nullcontext() if options.detach else Foreground() as foreground:
        made = execution.exec_process(
            state.pid,
            spec,
            process,
            cgroup=cgroup,
            stdio=None,
            seccomp_cache=call.seccomp_cache,
            keep_fds=options.preserve_fds,
            state=document(state, status),
            share=state.resctrl_group,
        )
        for warning in made.warnings:
            call.tell("warning", warning)
        handing.send_console(options.console_socket, made.console_fd)
        handing.write_pid(options.pid_file, made.pid)
        if foreground is None:
            return 0
        return foreground.follow(made.pid, made.pidfd, made.console_fd)


def _group(path: str, below: str) -> Cgroup:
    """The container's, or one below it.  Errors: InvalidParameter when that is not there, in one of the hierarchies."""
    if not below:
        return Cgroup(path)
    if ":" in below:
        raise InvalidParameter(f"--cgroup {below}: a group of single controllers is not supported, only PATH")
    cgroup = Cgroup(f"{path}/{below}")
    for directory in cgroup.hierarchies.directories(cgroup.path):
        if not os.path.isdir(directory):
            raise InvalidParameter(f"--cgroup {below}: there is no {directory}")
    return cgroup
