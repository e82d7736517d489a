"""restore: a container that goes on where a checkpoint was made, by criu."""

from __future__ import annotations

import argparse
import contextlib
import os

from corten.linux import process as kernel
from corten.runtime import groups, lifecycle, resctrl, sources
from corten.runtime.oci import bundles, criu, handing
from corten.runtime.oci.call import Call
from corten.runtime.oci.commands.delete import take_away
from corten.runtime.oci.console import Foreground


def arguments(command: argparse.ArgumentParser) -> None:
    criu.arguments(command)
    command.add_argument("-b", "--bundle", default=".", metavar="DIR", help="directory with config.json")
    command.add_argument("--pid-file", default="", metavar="FILE", help="gets the pid")
    command.add_argument("-d", "--detach", action="store_true", help="do not wait for the program")
    command.add_argument(
        "--no-subreaper", action="store_true", help="what is the case: orphans are the pid namespace's"
    )
    command.add_argument("id")


def run(call: Call) -> int:
    options = call.options
    bundle = os.path.abspath(options.bundle)
    spec = bundles.load_spec(call, bundle)
    directory = call.states.make(options.id)
    cgroup = share = None
    try:
        linux = spec.get("linux") or {}
        path = linux.get("cgroupsPath") or lifecycle.default_cgroup_path(options.id)
        cgroup = groups.make(path, linux.get("resources") or {})
        share = resctrl.make(linux.get("intelRdt"), options.id)
        with contextlib.nullcontext() if options.detach else Foreground() as foreground:
            pid = criu.restore(options, spec, sources.root_path(spec, bundle), cgroup, directory, share)
            groups.settle(cgroup)
            bundles.remember(call, pid, spec, cgroup, share, bundle)
            handing.write_pid(options.pid_file, pid)
            if foreground is None:
                return 0
            code = foreground.follow(pid, kernel.pidfd_open(pid), -1)
    except BaseException:
        if cgroup is not None:
            groups.discard(cgroup)
        if share is not None:
            share.remove()
        call.states.remove(options.id)
        raise
    with call.states.locked(options.id):
        take_away(call, call.states.load(options.id))
    return code
