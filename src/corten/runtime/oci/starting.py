"""The commands of ``corten-oci`` that start programs: create, start, run, exec.

Source: runtime-spec runtime.md, "Operations"; runc(8).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from dataclasses import asdict
from typing import Any

from corten.cgroup import systemd
from corten.cgroup.manager import Cgroup
from corten.errors import CortenError, InvalidParameter
from corten.linux import process as kernel
from corten.runtime import execution, groups, hooks, lifecycle, resctrl, sources, spec_check
from corten.runtime.oci import console, reports
from corten.runtime.oci.documents import parsed, process_of_exec
from corten.runtime.oci.operations import Operations
from corten.runtime.state import ContainerState, Status, document, require, start_ticks


class Starting(Operations):
    """All commands: those that start programs are here."""

    # -- create, run, start -----------------------------------------------------------------------------------------

    def _load_spec(self, bundle: str) -> dict[str, Any]:
        path = os.path.join(bundle, "config.json")
        try:
            with open(path, "rb") as file:
                spec: dict[str, Any] = parsed(file.read(), path)
        except FileNotFoundError:
            raise InvalidParameter(f"JSON specification file {path} not found") from None
        spec_check.check(spec)
        if self._options.systemd_cgroup:
            linux = spec.setdefault("linux", {})
            wanted = linux.get("cgroupsPath") or f":corten-oci:{self._options.id}"
            linux["cgroupsPath"] = systemd.path_of(wanted)
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
        self._save(init.pid, init.spec, init.cgroup, init.share, bundle, directory)

    def _save(
        self,
        pid: int,
        spec: dict[str, Any],
        cgroup: Cgroup,
        share: resctrl.Group | None,
        bundle: str,
        directory: str,
    ) -> None:
        state = ContainerState(
            id=self._options.id,
            bundle=bundle,
            rootfs=sources.root_path(spec, bundle),
            pid=pid,
            start_ticks=start_ticks(pid),
            oci_version=spec["ociVersion"],
            cgroup_path=cgroup.path,
            created=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            owner=reports.owner_of(directory),
            annotations=spec.get("annotations") or {},
            share=asdict(share) if share is not None else {},
        )
        self._states.save(state, spec)

    def _hand_out(self, pid: int, console_fd: int) -> None:
        """The pty and the pid to those who asked for them."""
        options = self._options
        if getattr(options, "console_socket", ""):
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
        with contextlib.nullcontext() if options.detach else console.Foreground() as foreground:
            try:
                init.start()
            except CortenError:
                init.abandon()
                self._states.remove(options.id)
                raise
            if foreground is None:
                return 0
            code = foreground.follow(init.pid, init.pidfd, init.console_fd)
        if not options.keep:
            with self._states.locked(options.id):
                self._delete(self._states.load(options.id))
        return code

    # -- restore ----------------------------------------------------------------------------------------------------

    def do_restore(self) -> int:
        from corten.runtime.oci import criu

        options = self._options
        bundle = os.path.abspath(options.bundle)
        spec = self._load_spec(bundle)
        directory = self._states.make(options.id)
        cgroup = share = None
        try:
            linux = spec.get("linux") or {}
            path = linux.get("cgroupsPath") or lifecycle.default_cgroup_path(options.id)
            cgroup = groups.make(path, linux.get("resources") or {})
            share = resctrl.make(linux.get("intelRdt"), options.id)
            with contextlib.nullcontext() if options.detach else console.Foreground() as foreground:
                pid = criu.restore(options, spec, sources.root_path(spec, bundle), cgroup, directory, share)
                groups.settle(cgroup)
                self._save(pid, spec, cgroup, share, bundle, directory)
                self._hand_out(pid, -1)
                if foreground is None:
                    return 0
                code = foreground.follow(pid, kernel.pidfd_open(pid), -1)
        except BaseException:
            if cgroup is not None:
                groups.discard(cgroup)
            if share is not None:
                share.remove()
            self._states.remove(options.id)
            raise
        with self._states.locked(options.id):
            self._delete(self._states.load(options.id))
        return code

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
        with contextlib.nullcontext() if options.detach else console.Foreground() as foreground:
            made = execution.exec_process(
                state.pid,
                spec,
                process,
                cgroup=Cgroup(state.cgroup_path),
                stdio=None,
                seccomp_cache=self._cache,
                keep_fds=options.preserve_fds,
                state=document(state, status),
                share=state.resctrl_group,
            )
            for warning in made.warnings:
                self._tell("warning", warning)
            self._hand_out(made.pid, made.console_fd)
            if foreground is None:
                return 0
            return foreground.follow(made.pid, made.pidfd, made.console_fd)
