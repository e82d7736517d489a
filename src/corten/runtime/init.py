"""What the cloned child does, step by step, until it is the user's program.

Runs in a fork of the caller: nothing may be imported here, since after the pivot an import would run the container's
code.  Every step has a name; an error goes to the parent with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from corten.errors import SystemFailure
from corten.linux import pages, paths, user_namespace
from corten.linux import process as kernel
from corten.runtime import (
    devices,
    hooks,
    idmap,
    labels,
    mounts,
    namespaces,
    program,
    rootfs,
    seccomp,
    sources,
    terminal,
    users,
)
from corten.runtime.child import begin_session, close_others, freeze_imports
from corten.runtime.handshake import Channel, Message, shortened
from corten.runtime.init_request import InitRequest
from corten.runtime.privileges import Confinement

_MOST_RANGES = 1200  # of memory, in one message


class Init:
    """The child's side of a start."""

    def __init__(self, request: InitRequest, enter: Callable[[], None]) -> None:
        """enter: enters the namespaces that are joined and that the clone has not entered."""
        self._request = request
        self._enter = enter
        self._spec = request.spec
        self._process: dict[str, Any] = request.spec.get("process") or {}
        self._linux: dict[str, Any] = request.spec.get("linux") or {}
        self._sources = request.taken
        self._root = -1
        self._parts: list[int] = []
        self._master = -1
        self._slave = -1
        self._teller = request.channel
        self._identity = users.Identity(0, 0, (0,), "")
        self._filter = b""
        self._confinement: Confinement | None = None
        self._environment: dict[bytes, bytes] = {}
        self._program = ""
        self._procfs = request.ahead.procfs if request.ahead is not None else -1
        self._touched: list[pages.Range] = []
        self._warnings: list[str] = []
        self._times: list[tuple[str, int]] = []

    def _steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Names and work, in order."""
        own_mounts = "mount" in self._request.new
        return (
            ("session", self._session),
            ("cgroup", self._join_cgroup),
            ("join namespaces", self._enter),
            ("user namespace", self._wait_for_parent),
            ("namespaces", self._finish_namespaces),
            *(
                (
                    ("root file system", self._enter_root),
                    ("mounts", self._make_mounts),
                    ("devices", self._make_devices),
                    ("terminal", self._make_terminal),
                    ("user", self._resolve_user),
                    ("sysctl", self._write_sysctls),
                    ("mask paths", self._mask_paths),
                    ("seccomp", self._compile_filter),
                    ("hooks", self._run_hooks_before_pivot),
                    ("pivot root", self._pivot),
                    ("working directory", self._make_working_directory),
                )
                if own_mounts
                else (
                    ("root file system", self._open_root),
                    ("terminal", self._make_terminal),
                    ("user", self._resolve_user),
                    ("sysctl", self._write_sysctls),
                    ("seccomp", self._compile_filter),
                    ("hooks", self._run_hooks_before_pivot),
                    ("change root", self._change_root),
                )
            ),
            ("standard streams", self._standard_streams),
            ("privileges", self._confine),
            ("exec", self._find_program),
            ("ready", self._wait_for_start),
            ("startContainer hooks", self._run_last_hooks),
            ("exec", self._execute),
        )

    def run(self) -> None:
        """Never returns."""
        step = "start"
        try:
            for step, work in self._steps():
                began = time.perf_counter_ns()
                work()
                if self._request.timed:
                    self._times.append((step, time.perf_counter_ns() - began))
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._teller.send_error(error, step)
        os._exit(1)

    # 1
    def _session(self) -> None:
        if self._request.ahead is None:
            begin_session()

    # 2
    def _join_cgroup(self) -> None:
        if self._request.join_cgroup:
            self._request.cgroup.join_self()

    # 3
    def _wait_for_parent(self) -> None:
        request = self._request
        if not request.needs_parent:
            return
        if request.clock_offsets:
            # they must be set before a process is inside (time_namespaces(7))
            kernel.unshare(kernel.CLONE_NEWTIME)
        request.channel.send(Message.ARRIVED)
        request.channel.expect(Message.PREPARED)
        if request.clock_offsets:
            namespaces.enter_time_namespace()
        if "user" in request.joined or ("user" in request.new and idmap.maps_root(self._linux)):
            namespaces.become_root()

    # 4
    def _finish_namespaces(self) -> None:
        new = self._request.new
        if "cgroup" in new:
            # only now: the namespace's root is the group that we are in
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        if "network" in new and self._request.ahead is None:
            namespaces.loopback_up()
        namespaces.set_names(self._spec)
        if self._request.new_keyring:
            labels.for_keys(self._process, self._request.proc)
            namespaces.leave_keys(f"_ses.{self._request.container_id}")

    # 5
    def _enter_root(self) -> None:
        self._root = self._sources.root
        path = sources.root_path(self._spec, self._request.bundle)
        if self._spec["root"].get("readonly") and not user_namespace.is_initial():
            self._parts = rootfs.parts_of(self._root, path)
        rootfs.attach(self._root, path)

    # 6
    def _make_mounts(self) -> None:
        made = self._request.ahead.filesystems if self._request.ahead is not None else {}
        for index, mount in enumerate(self._spec.get("mounts") or ()):
            mounts.make(
                self._root,
                mount,
                source=self._sources.binds.get(index, -1),
                made=made.get(index, -1),
                cgroup=self._request.cgroup,
                own=self._request.new | self._request.joined,
                label=self._linux.get("mountLabel") or "",
            )

    # 7
    def _make_devices(self) -> None:
        if not self._has_own("/dev"):
            rootfs_devices = self._linux.get("devices") or []
            covered = {paths.clean(mount["destination"]) for mount in self._spec.get("mounts") or ()}
            devices.make_devices(self._root, rootfs_devices, bind=self._request.in_user_namespace, covered=covered)
            devices.make_links(self._root)

    def _has_own(self, directory: str) -> bool:
        """Whether a bind mount brings the directory with all that is in it."""
        return any(
            paths.clean(mount["destination"]) == directory and index in self._sources.binds
            for index, mount in enumerate(self._spec.get("mounts") or ())
        )

    # 8
    def _make_terminal(self) -> None:
        if not self._process.get("terminal"):
            return
        self._master, self._slave = terminal.open_pty(self._root)
        terminal.set_size_of(self._process, self._master)
        if "mount" in self._request.new:
            devices.attach_console(self._root, self._slave)

    # 9
    def _resolve_user(self) -> None:
        self._identity = users.of_process(self._root, self._process)

    # 10
    def _write_sysctls(self) -> None:
        rootfs.write_sysctls(self._linux.get("sysctl") or {}, self._procfs)

    # 11
    def _mask_paths(self) -> None:
        for path in self._linux.get("readonlyPaths") or ():
            rootfs.make_readonly(self._root, path)
        masked = self._linux.get("maskedPaths") or ()
        if masked:
            masks = rootfs.Masks(self._linux.get("mountLabel") or "")
            for path in masked:
                masks.cover(self._root, path)

    # 12
    def _compile_filter(self) -> None:
        profile = self._linux.get("seccomp")
        if self._request.ahead is not None:
            self._filter = self._request.ahead.program
        elif profile:
            self._filter = seccomp.compiled(profile, self._request.seccomp_cache)

    # 13
    def _run_hooks_before_pivot(self) -> None:
        entries = self._spec.get("hooks") or {}
        if any(entries.get(name) for name in hooks.OF_THE_RUNTIME):
            self._request.channel.send(Message.MOUNTED)
            self._request.channel.expect(Message.HOOKED)
        hooks.run(entries, "createContainer", {**self._request.state, "status": "creating", "pid": os.getpid()})

    # 14
    def _pivot(self) -> None:
        freeze_imports()
        rootfs.pivot(self._root)
        rootfs.propagate(self._linux.get("rootfsPropagation") or "")

    # 15
    def _make_working_directory(self) -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                # what is wrong with it is told when it is entered
                os.close(paths.mkdirs_in_root(root, self._process.get("cwd") or "/", 0o755))
        finally:
            os.close(root)
        if self._spec["root"].get("readonly"):
            rootfs.make_read_only(self._parts)

    # 5 and 14 in a mount namespace that others made: its mounts are theirs, only our root changes
    def _open_root(self) -> None:
        path = sources.root_path(self._spec, self._request.bundle)
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _change_root(self) -> None:
        freeze_imports()
        os.fchdir(self._root)
        os.chroot(".")
        os.chdir("/")

    # 16
    def _standard_streams(self) -> None:
        if self._slave >= 0:
            os.fchown(self._slave, self._identity.uid, -1)
            terminal.take_over(self._slave)
        elif self._request.stdio is not None:
            for number, descriptor in enumerate(self._request.stdio):
                os.dup2(descriptor, number, inheritable=True)
            terminal.hand_over(self._identity.uid)

    # 17
    def _confine(self) -> None:
        self._confinement = Confinement(
            self._process,
            self._linux,
            self._filter,
            self._identity,
            lambda: program.enter_directory(self._process.get("cwd") or "/"),
            in_user_namespace=self._request.in_user_namespace,
            listener=self._request.listener,
        )
        self._warnings += self._confinement.prepare(self._request.proc)
        if self._request.ahead is not None and self._request.ahead.observed:
            with contextlib.suppress(OSError):
                self._touched = pages.own(self._request.proc.open, "self")[:_MOST_RANGES]
        keep = 3 + self._request.keep
        listener = self._request.listener
        needed = (
            self._request.channel.fileno(),
            self._request.gate,
            self._master,
            listener.fileno() if listener is not None else -1,
        )
        if any(0 <= descriptor < keep for descriptor in needed):
            raise SystemFailure("a descriptor of the runtime lies among those to preserve", step="privileges")
        # nothing of the host's may be within reach from here on, by the program or by who looks at us (CVE-2024-21626)
        close_others(keep, needed)
        self._confinement.apply()

    # 18
    def _find_program(self) -> None:
        self._environment = program.environment_of(self._process, self._identity.home)
        self._program = program.find(self._process["args"][0], self._environment)

    # 19
    def _wait_for_start(self) -> None:
        channel = self._request.channel
        descriptors = (self._master,) if self._master >= 0 else ()
        warnings = shortened(self._warnings)
        channel.send(Message.READY, descriptors, warnings=warnings, times=self._times, touched=self._touched)
        if self._master >= 0:
            os.close(self._master)
        if self._request.gate >= 0:
            # "create" has ended: from now on "start" is who listens
            with socket.socket(fileno=self._request.gate) as gate:
                self._teller = Channel(gate.accept()[0])
        self._teller.expect(Message.START)

    # 20
    def _run_last_hooks(self) -> None:
        entries = self._spec.get("hooks") or {}
        hooks.run(entries, "startContainer", {**self._request.state, "status": "created", "pid": os.getpid()})

    # 21
    def _execute(self) -> None:
        # the directory may have been moved out of the root meanwhile
        program.verify_directory(self._process.get("cwd") or "/")
        if self._request.die_with_parent:
            # a program whose streams nobody carries must not go on unseen; lost when it gains privileges (prctl(2))
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        assert self._confinement is not None
        self._confinement.seal()
        program.execute(self._program, self._process["args"], self._environment)
