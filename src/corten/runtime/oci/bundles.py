"""Making a container of a bundle, a directory with ``config.json``, and remembering it.

Source: runtime-spec bundle.md; runtime.md, "Create".
"""

from __future__ import annotations

import argparse
import os
import pwd
import socket
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter
from corten.runtime import lifecycle, resctrl, sources, spec_check
from corten.runtime.oci import gate, handing
from corten.runtime.oci.call import Call
from corten.runtime.oci.documents import parsed
from corten.runtime.oci.times import now
from corten.runtime.state import ContainerState, start_ticks


def arguments(command: argparse.ArgumentParser) -> None:
    """Those of create and run."""
    command.add_argument("-b", "--bundle", default=".", metavar="DIR", help="directory with config.json")
    handing.arguments(command)
    command.add_argument("--no-pivot", action="store_true", help="refused: without pivot_root a container can get out")
    command.add_argument("--no-new-keyring", action="store_true", help="keep the caller's session keyring")


def load_spec(call: Call, bundle: str) -> dict[str, Any]:
    """Errors: InvalidParameter for a config.json that is not there or is wrong."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            spec: dict[str, Any] = parsed(file.read(), path)
    except FileNotFoundError:
        raise InvalidParameter(f"JSON specification file {path} not found") from None
    spec_check.check(spec)
    if call.options.systemd_cgroup:
        from corten.cgroup import systemd

        linux = spec.setdefault("linux", {})
        wanted = linux.get("cgroupsPath") or f":corten-oci:{call.options.id}"
        linux["cgroupsPath"] = systemd.path_of(wanted)
    return spec


def create(call: Call, *, gated: bool, detached: bool) -> lifecycle.InitProcess:
    """Make the container; nothing is left of it when this raises.

    gated:    its init waits for the command ``start`` instead of this process
    detached: nobody here will wait for the program
    """
    options = call.options
    if options.no_pivot:
        raise InvalidParameter("--no-pivot is not supported: without pivot_root a container can get out")
    bundle = os.path.abspath(options.bundle)
    spec = load_spec(call, bundle)
    handing.check_console(options.console_socket, spec.get("process") or {}, detached=detached)
    directory = call.states.make(options.id)
    try:
        init = _begin(call, spec, bundle, gate.make(directory) if gated else None)
        try:
            for warning in init.warnings:
                call.tell("warning", warning)
            for step, duration in init.times:
                call.tell("debug", f"{step}: {duration / 1e6:.3f} ms")
            remember(call, init.pid, init.spec, init.cgroup, init.share, bundle)
            handing.send_console(options.console_socket, init.console_fd)
            handing.write_pid(options.pid_file, init.pid)
        except BaseException:
            init.abandon()
            raise
    except BaseException:
        call.states.remove(options.id)
        raise
    return init


def _begin(call: Call, spec: dict[str, Any], bundle: str, entrance: socket.socket | None) -> lifecycle.InitProcess:
    try:
        return lifecycle.create(
            spec,
            container_id=call.options.id,
            bundle=bundle,
            seccomp_cache=call.seccomp_cache,
            keep_fds=call.options.preserve_fds,
            gate=entrance.fileno() if entrance is not None else -1,
            new_keyring=not call.options.no_new_keyring,
            timed=call.options.debug,
        )
    finally:
        if entrance is not None:
            entrance.close()


def remember(
    call: Call, pid: int, spec: dict[str, Any], cgroup: Cgroup, share: resctrl.Group | None, bundle: str
) -> None:
    """What ``state`` and all others will find."""
    state = ContainerState(
        id=call.options.id,
        bundle=bundle,
        rootfs=sources.root_path(spec, bundle),
        pid=pid,
        start_ticks=start_ticks(pid),
        oci_version=spec["ociVersion"],
        cgroup_path=cgroup.path,
        created=now(),
        owner=_owner(call.states.directory(call.options.id)),
        annotations=spec.get("annotations") or {},
        share=share._asdict() if share is not None else {},
    )
    call.states.save(state, spec)


def _owner(directory: str) -> str:
    uid = os.stat(directory).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
