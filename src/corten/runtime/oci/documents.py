"""Documents that the options of a command stand for."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from corten.errors import InvalidParameter
from corten.runtime import spec_check

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parsed(data: bytes, name: str) -> Any:
    """A document that others wrote.  Errors: InvalidParameter, with the file's name."""
    try:
        document = json.loads(data.decode())
        if _HALF.search(data):
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return document
    except ValueError as error:
        raise InvalidParameter(f"{name}: invalid JSON: {error}") from error
    except RecursionError:
        raise InvalidParameter(f"{name}: invalid JSON: nested too deeply") from None


def process_of_exec(options: argparse.Namespace, spec: dict[str, Any]) -> dict[str, Any]:
    """The ``process`` of an exec: a document of its own, or the container's with what the options change.

    Errors: InvalidParameter.
    """
    if options.process:
        with open(options.process, "rb") as file:
            process: dict[str, Any] = parsed(file.read(), options.process)
        return process
    arguments = options.args[1:] if options.args[:1] == ["--"] else options.args
    if not arguments:
        raise InvalidParameter("process args cannot be empty")
    process = {**(spec.get("process") or {}), "args": arguments, "terminal": options.tty}
    process.pop("consoleSize", None)
    process["env"] = [*(process.get("env") or []), *options.env]
    if options.cwd:
        process["cwd"] = options.cwd
    if options.user:
        user, _, group = options.user.partition(":")
        if not user.isdigit() or (group and not group.isdigit()):
            raise InvalidParameter(f"--user {options.user}: numbers are needed")
        process["user"] = {"uid": int(user), "gid": int(group or 0)}
    if options.additional_gids:
        process["user"] = {**(process.get("user") or {}), "additionalGids": options.additional_gids}
    if options.cap:
        sets = process.get("capabilities") or {}
        kinds = ("bounding", "effective", "permitted")
        process["capabilities"] = {**sets, **{kind: [*(sets.get(kind) or []), *options.cap] for kind in kinds}}
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.apparmor:
        process["apparmorProfile"] = options.apparmor
    if options.process_label:
        process["selinuxLabel"] = options.process_label
    return process


def resources_of(options: argparse.Namespace) -> dict[str, Any]:
    """``linux.resources`` of an update: a document, or what the options say.  Errors: InvalidParameter."""
    if options.resources:
        if options.resources == "-":
            given = parsed(sys.stdin.buffer.read(), "standard input")
        else:
            with open(options.resources, "rb") as file:
                given = parsed(file.read(), options.resources)
        spec_check.check_resources(given)
        resources: dict[str, Any] = given
        return resources
    wanted = {
        "memory": {
            "limit": options.memory,
            "swap": options.memory_swap,
            "reservation": options.memory_reservation,
        },
        "cpu": {
            "period": options.cpu_period,
            "quota": options.cpu_quota,
            "burst": options.cpu_burst,
            "realtimePeriod": options.cpu_rt_period,
            "realtimeRuntime": options.cpu_rt_runtime,
            "shares": options.cpu_share,
            "idle": options.cpu_idle,
            "cpus": options.cpuset_cpus or None,
            "mems": options.cpuset_mems or None,
        },
        "pids": {"limit": options.pids_limit},
        "blockIO": {"weight": options.blkio_weight},
    }
    present = {
        name: {key: value for key, value in fields.items() if value is not None} for name, fields in wanted.items()
    }
    return {name: fields for name, fields in present.items() if fields}
