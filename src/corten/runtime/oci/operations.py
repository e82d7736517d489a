"""The commands of ``corten-oci`` that start nothing; those that do are in ``starting``.

What only some of them need is imported by them: callers run many of these commands for each container, and importing
is what most of them take their time for.

Source: runtime-spec runtime.md, "Operations"; runc(8).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound
from corten.linux import process as kernel
from corten.runtime import hooks
from corten.runtime.oci import reports
from corten.runtime.oci.signals import signal_number
from corten.runtime.state import ContainerState, StateDirectory, Status, document, require, start_ticks

_WALL = 0x40000000


class Operations:
    """One call of the command.

    tell: (level, message) for what is not the answer itself
    """

    def __init__(self, options: argparse.Namespace, tell: Callable[[str, str], None], *, debugging: bool) -> None:
        self._options = options
        self._tell = tell
        self._debugging = debugging
        self._states = StateDirectory(options.root)
        self._cache = f"{options.root}/.seccomp"

    def run(self) -> int:
        command: Callable[[], int] = getattr(self, f"do_{self._options.command}")
        return command()

    def _print(self, text: str) -> None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    # -- kill, delete, state ----------------------------------------------------------------------------------------

    def do_state(self) -> int:
        state = self._states.load(self._options.id)
        self._print(json.dumps(document(state, self._states.status(state)), indent=2))
        return 0

    def do_kill(self) -> int:
        options = self._options
        state = self._states.load(options.id)
        number = signal_number(options.signal)
        if options.all:
            Cgroup(state.cgroup_path).kill(number)
            return 0
        if self._states.status(state) not in (Status.CREATED, Status.RUNNING, Status.PAUSED):
            raise Conflict("container not running")
        if not self._signal(state, number):
            raise Conflict("container not running")
        return 0

    def _signal(self, state: ContainerState, number: int) -> bool:
        """To the container's first process; False when it has gone."""
        try:
            pidfd = kernel.pidfd_open(state.pid)
        except ProcessLookupError:
            return False
        try:
            # only now, that the pid cannot be another's any more
            if start_ticks(state.pid) != state.start_ticks:
                return False
            kernel.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def do_delete(self) -> int:
        options = self._options
        try:
            with self._states.locked(options.id):
                state = self._states.load(options.id)
                status = self._states.status(state)
                if not options.force and status not in (Status.CREATED, Status.STOPPED):
                    raise Conflict(f"cannot delete container {options.id} that is not stopped: {status}")
                self._delete(state)
        except NotFound:
            if not options.force:
                raise
            # also what a create that was killed has left
            self._states.remove(options.id)
        return 0

    def _delete(self, state: ContainerState) -> None:
        cgroup = Cgroup(state.cgroup_path)
        with contextlib.suppress(CortenError, OSError):
            cgroup.thaw()  # what is frozen does not die on cgroup v1
        if state.pid:
            self._signal(state, signal.SIGKILL)
        cgroup.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state.pid, _WALL)
        cgroup.delete()
        if state.resctrl_group is not None:
            state.resctrl_group.remove()
        try:
            spec = self._states.spec(state.id)
            hooks.run(spec.get("hooks") or {}, "poststop", document(state, Status.STOPPED))
        except (CortenError, OSError, ValueError) as error:
            # runtime.md, "Lifecycle": logged, and the rest goes on
            self._tell("warning", str(error))
        self._states.remove(state.id)

    def do_checkpoint(self) -> int:
        from corten.runtime.oci import criu

        options = self._options
        with self._states.locked(options.id):
            state = self._states.load(options.id)
            require("checkpoint", self._states.status(state))
            criu.dump(options, state.pid, self._states.spec(options.id))
            if not options.leave_running:
                self._delete(state)
        return 0

    # -- limits and processes ---------------------------------------------------------------------------------------

    def _cgroup(self, operation: str) -> Cgroup:
        state = self._states.load(self._options.id)
        require(operation, self._states.status(state))
        return Cgroup(state.cgroup_path)

    def do_pause(self) -> int:
        self._cgroup("pause").freeze()
        return 0

    def do_resume(self) -> int:
        self._cgroup("resume").thaw()
        return 0

    def do_update(self) -> int:
        from corten.runtime import groups, resctrl
        from corten.runtime.oci.documents import resources_of

        options = self._options
        resources = resources_of(options)
        cgroup = self._cgroup("update")
        schemas = [options.l3_cache_schema, options.mem_bw_schema]
        if any(schemas):
            share = self._states.load(options.id).resctrl_group
            if share is None:
                raise InvalidParameter(
                    f"container {options.id} was made without linux.intelRdt: it has no class to change"
                )
            resctrl.check({"memBwSchema": options.mem_bw_schema})
            share.change(*filter(None, schemas))
        groups.update(cgroup, resources)
        for warning in cgroup.warnings:
            self._tell("warning", warning)
        return 0

    def do_ps(self) -> int:
        found = reports.processes(Cgroup(self._states.load(self._options.id).cgroup_path))
        if self._options.format == "json":
            self._print(json.dumps([pid for pid, _ in found]))
        else:
            self._print(reports.table([("PID", "CMD"), *((str(pid), command) for pid, command in found)]))
        return 0

    def do_events(self) -> int:
        options = self._options
        cgroup = self._cgroup("get statistics of")
        state = self._states.load(options.id)
        kills = cgroup.oom_kills()
        while True:
            self._print(json.dumps({"type": "stats", "id": state.id, "data": reports.statistics(cgroup)}))
            if options.stats:
                return 0
            time.sleep(options.interval)
            if cgroup.oom_kills() > kills:
                kills = cgroup.oom_kills()
                self._print(json.dumps({"type": "oom", "id": state.id}))
            if self._states.status(state) == Status.STOPPED:
                return 0

    # -- of all containers, of none ---------------------------------------------------------------------------------

    def do_list(self) -> int:
        documents = []
        for container_id in self._states.ids():
            with contextlib.suppress(NotFound):
                state = self._states.load(container_id)
                documents.append(document(state, self._states.status(state)))
        if self._options.format == "json":
            self._print(json.dumps(documents))
        elif self._options.quiet:
            for item in documents:
                self._print(item["id"])
        else:
            names = ("id", "pid", "status", "bundle", "created", "owner")
            rows = [tuple(str(item[name]) for name in names) for item in documents]
            self._print(reports.table([tuple(name.upper() for name in names), *rows]))
        return 0

    def do_spec(self) -> int:
        from corten.runtime.defaults import default_spec

        path = os.path.join(self._options.bundle, "config.json")
        try:
            with open(path, "x") as file:
                json.dump(default_spec(), file, indent=4)
                file.write("\n")
        except FileExistsError:
            raise Conflict(f"file {path} exists: remove it first") from None
        return 0

    def do_features(self) -> int:
        from corten.runtime.oci.features import features

        self._print(json.dumps(features(), indent=2))
        return 0
