"""The commands of ``corten-oci``.

Source: runtime-spec runtime.md, "Operations"; runc(8).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound
from corten.linux import process as kernel
from corten.runtime import groups, hooks, joining, lifecycle, sources, spec_check
from corten.runtime.defaults import default_spec
from corten.runtime.oci import console, reports
from corten.runtime.oci.documents import process_of_exec, resources_of, signal_number
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

    # -- create, run, start -----------------------------------------------------------------------------------------

    def _load_spec(self, bundle: str) -> dict[str, Any]:
        path = os.path.join(bundle, "config.json")
        try:
            with open(path) as file:
                spec: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            raise InvalidParameter(f"JSON specification file {path} not found") from None
        except ValueError as error:
            raise InvalidParameter(f"{path}: invalid JSON: {error}") from error
        spec_check.check(spec)
        return spec

    def _check_console(self, process: dict[str, Any], *, detached: bool) -> None:
        terminal, path = bool(process.get("terminal")), self._options.console_socket
        if terminal and detached and not path:
            raise InvalidParameter("cannot allocate tty if corten-oci will detach without setting console socket")
        if path and not (terminal and detached):
            raise InvalidParameter("cannot use console socket if corten-oci will not detach or allocate tty")

    def _create(self, *, gated: bool, detached: bool) -> lifecycle.InitProcess:
        options = self._options
        if options.no_pivot:
            raise InvalidParameter("--no-pivot is not supported: without pivot_root a container can get out")
        bundle = os.path.abspath(options.bundle)
        spec = self._load_spec(bundle)
        self._check_console(spec.get("process") or {}, detached=detached)
        directory = self._states.make(options.id)
        gate = self._states.open_gate(options.id) if gated else None
        try:
            init = lifecycle.create(
                spec,
                container_id=options.id,
                bundle=bundle,
                seccomp_cache=self._cache,
                keep_fds=options.preserve_fds,
                gate=gate.fileno() if gate is not None else -1,
                new_keyring=not options.no_new_keyring,
                timed=self._debugging,
            )
        except BaseException:
            self._states.remove(options.id)
            raise
        finally:
            if gate is not None:
                gate.close()
        try:
            self._record(init, bundle, directory)
            self._hand_out(init.pid, init.console_fd)
        except BaseException:
            init.abandon()
            self._states.remove(options.id)
            raise
        return init

    def _record(self, init: lifecycle.InitProcess, bundle: str, directory: str) -> None:
        for warning in init.warnings:
            self._tell("warning", warning)
        for step, duration in init.times:
            self._tell("debug", f"{step}: {duration / 1e6:.3f} ms")
        state = ContainerState(
            id=self._options.id,
            bundle=bundle,
            rootfs=sources.root_path(init.spec, bundle),
            pid=init.pid,
            start_ticks=start_ticks(init.pid),
            oci_version=init.spec["ociVersion"],
            cgroup_path=init.cgroup.path,
            created=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            owner=reports.owner_of(directory),
            annotations=init.spec.get("annotations") or {},
        )
        self._states.save(state, init.spec)

    def _hand_out(self, pid: int, console_fd: int) -> None:
        """The pty and the pid to those who asked for them."""
        options = self._options
        if options.console_socket:
            console.send(options.console_socket, console_fd)
        if options.pid_file:
            # whole or not at all: its reader waits for it to appear
            temporary = f"{options.pid_file}.tmp"
            with open(temporary, "w") as file:
                file.write(str(pid))
            os.replace(temporary, options.pid_file)

    def do_create(self) -> int:
        self._create(gated=True, detached=True)
        return 0

    def do_start(self) -> int:
        container_id = self._options.id
        with self._states.locked(container_id):
            state = self._states.load(container_id)
            require("start", self._states.status(state))
            channel = self._states.reach_gate(container_id)
            try:
                lifecycle.run_to_exec(channel)
            finally:
                channel.close()
                self._states.remove_gate(container_id)
            running = document(state, Status.RUNNING)
            try:
                hooks.run(self._states.spec(container_id).get("hooks") or {}, "poststart", running)
            except CortenError:
                self._signal(state, signal.SIGKILL)
                raise
        return 0

    def do_run(self) -> int:
        options = self._options
        init = self._create(gated=False, detached=options.detach)
        try:
            init.start()
        except CortenError:
            init.abandon()
            self._states.remove(options.id)
            raise
        if options.detach:
            return 0
        code = console.follow(init.pid, init.pidfd, init.console_fd)
        if not options.keep:
            with self._states.locked(options.id):
                self._delete(self._states.load(options.id))
        return code

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
        try:
            spec = self._states.spec(state.id)
            hooks.run(spec.get("hooks") or {}, "poststop", document(state, Status.STOPPED))
        except (CortenError, OSError, ValueError) as error:
            # runtime.md, "Lifecycle": logged, and the rest goes on
            self._tell("warning", str(error))
        self._states.remove(state.id)

    # -- exec -------------------------------------------------------------------------------------------------------

    def do_exec(self) -> int:
        options = self._options
        state = self._states.load(options.id)
        status = self._states.status(state)
        if status != Status.PAUSED or not options.ignore_paused:
            require("exec", status)
        spec = self._states.spec(options.id)
        process = process_of_exec(self._options, spec)
        self._check_console(process, detached=options.detach)
        made = joining.exec_process(
            state.pid,
            spec,
            process,
            cgroup=Cgroup(state.cgroup_path),
            stdio=None,
            seccomp_cache=self._cache,
            keep_fds=options.preserve_fds,
        )
        for warning in made.warnings:
            self._tell("warning", warning)
        self._hand_out(made.pid, made.console_fd)
        if options.detach:
            return 0
        return console.follow(made.pid, made.pidfd, made.console_fd)

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
        resources = resources_of(self._options)
        cgroup = self._cgroup("update")
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
        path = os.path.join(self._options.bundle, "config.json")
        try:
            with open(path, "x") as file:
                json.dump(default_spec(), file, indent=4)
                file.write("\n")
        except FileExistsError:
            raise Conflict(f"file {path} exists: remove it first") from None
        return 0

    def do_features(self) -> int:
        self._print(json.dumps(reports.features(), indent=2))
        return 0
