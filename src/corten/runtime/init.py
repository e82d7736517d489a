"""What the cloned child does, step by step, until it is the user's program.

Runs in a fork of the caller: nothing may be imported here, since after the pivot an import would run the container's
code.  Every step has a name; an error goes to the parent with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import paths
from corten.linux import process as kernel
from corten.runtime import hooks, mounts, privileges, program, rootfs, seccomp, terminal, users
from corten.runtime.handshake import Channel, Message

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@dataclass(slots=True, kw_only=True)
class InitRequest:
    """All that init needs; handed over by the fork.

    new:        types of the namespaces that were or are to be made
    stdio:      descriptors for 0, 1, 2; None with a terminal or to keep the caller's
    keep:       how many descriptors from 3 on the program inherits
    gate:       an open FIFO whose opening for writing starts the program, -1 to wait on the channel
    """

    spec: dict[str, Any]
    container_id: str
    bundle: str
    cgroup: Cgroup | None
    new: frozenset[str]
    stdio: tuple[int, int, int] | None
    channel: Channel
    seccomp_cache: str = ""
    keep: int = 0
    gate: int = -1
    join_cgroup: bool = True
    die_with_parent: bool = False
    state: dict[str, Any] = field(default_factory=dict)


def reset_signals() -> None:
    """Default dispositions and an empty mask: the interpreter ignores some, and ignored ones survive execve."""
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def freeze_imports() -> None:
    """From here on an import fails instead of running what the container put on the path."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


class Init:
    """The child's side of a start."""

    def __init__(self, request: InitRequest) -> None:
        self._request = request
        self._spec = request.spec
        self._process: dict[str, Any] = request.spec.get("process") or {}
        self._linux: dict[str, Any] = request.spec.get("linux") or {}
        self._root = -1
        self._master = -1
        self._slave = -1
        self._identity = users.Identity(0, 0, (0,), "/")
        self._program = b""
        self._warnings: list[str] = []
        self._step = "start"

    def run(self) -> None:
        """Never returns."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("session", self._session),
            ("cgroup", self._join_cgroup),
            ("user namespace", self._enter_user_namespace),
            ("namespaces", self._finish_namespaces),
            ("limits", self._set_limits),
            ("root file system", self._enter_root),
            ("mounts", self._make_mounts),
            ("devices", self._make_devices),
            ("user", self._resolve_user),
            ("sysctl", self._write_sysctls),
            ("mask paths", self._mask_paths),
            ("seccomp", self._compile_filter),
            ("createContainer hooks", lambda: self._run_hooks("createContainer")),
            ("pivot root", self._pivot),
            ("working directory", self._make_working_directory),
            ("standard streams", self._standard_streams),
            ("ready", self._wait_for_start),
            ("startContainer hooks", lambda: self._run_hooks("startContainer")),
            ("privileges", self._confine),
            ("exec", self._execute),
        )
        try:
            for self._step, work in steps:
                work()
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._request.channel.send_error(error, self._step)
        os._exit(1)

    # 1
    def _session(self) -> None:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        reset_signals()
        os.setsid()
        os.umask(0)

    # 2
    def _join_cgroup(self) -> None:
        if self._request.join_cgroup and self._request.cgroup is not None:
            self._request.cgroup.join_self()

    # 3
    def _enter_user_namespace(self) -> None:
        if "user" not in self._request.new:
            return
        self._request.channel.send(Message.NEED_MAPS)
        self._request.channel.expect(Message.MAPPED)
        if not self._linux.get("uidMappings"):
            return
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)

    # 4
    def _finish_namespaces(self) -> None:
        new = self._request.new
        if "cgroup" in new:
            # only now: the namespace's root is the group that we are in
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        offsets = self._linux.get("timeOffsets")
        if "time" in new and offsets:
            self._enter_time_namespace(offsets)
        if "network" in new:
            loopback_up()
        if self._spec.get("hostname"):
            kernel.sethostname(self._spec["hostname"])
        if self._spec.get("domainname"):
            kernel.setdomainname(self._spec["domainname"])
        with contextlib.suppress(OSError):
            # a kernel without keys has nothing to separate
            kernel.join_session_keyring(f"_ses.{self._request.container_id}")

    @staticmethod
    def _enter_time_namespace(offsets: dict[str, dict[str, int]]) -> None:
        """Offsets must be written before a process is inside (time_namespaces(7))."""
        kernel.unshare(kernel.CLONE_NEWTIME)
        text = "".join(f"{clock} {value.get('secs', 0)} {value.get('nanosecs', 0)}\n" for clock, value in offsets.items())
        file = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
        namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(namespace, kernel.CLONE_NEWTIME)
        finally:
            os.close(namespace)

    # 5
    def _set_limits(self) -> None:
        score = self._process.get("oomScoreAdj")
        if score is not None:
            file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, str(score).encode())
            except PermissionError:
                self._warnings.append(f"oomScoreAdj {score} is below what this host allows: left as it is")
            finally:
                os.close(file)
        self._warnings += privileges.set_rlimits(self._process.get("rlimits") or [])
        profile = self._process.get("apparmorProfile")
        if profile:
            self._set_apparmor(profile)
        persona = self._linux.get("personality")
        if persona:
            domains = {"LINUX": 0, "LINUX32": 8}
            if persona.get("domain") not in domains:
                raise InvalidParameter(f"linux.personality: unknown domain '{persona.get('domain')}'")
            kernel.personality(domains[persona["domain"]])
        priority = self._process.get("ioPriority")
        if priority:
            classes = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
            if priority.get("class") not in classes:
                raise InvalidParameter(f"process.ioPriority: unknown class '{priority.get('class')}'")
            kernel.ioprio_set(classes[priority["class"]] << 13 | priority.get("priority", 0))

    @staticmethod
    def _set_apparmor(profile: str) -> None:
        if not os.path.exists("/sys/kernel/security/apparmor"):
            raise InvalidParameter(f"process.apparmorProfile '{profile}': AppArmor is not enabled on this host")
        file = os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, f"exec {profile}".encode())
        finally:
            os.close(file)

    # 6
    def _enter_root(self) -> None:
        path = self._spec["root"]["path"]
        if not os.path.isabs(path):
            path = os.path.join(self._request.bundle, path)
        self._root = rootfs.enter_mount_namespace(path, self._linux.get("rootfsPropagation") or "")

    # 7
    def _make_mounts(self) -> None:
        cgroup_path = self._request.cgroup.path if self._request.cgroup else ""
        for mount in self._spec.get("mounts") or ():
            mounts.make(self._root, mount, cgroup_path=cgroup_path, cgroup_namespace="cgroup" in self._request.new)

    # 8
    def _make_devices(self) -> None:
        entries = self._spec.get("mounts") or ()
        bound = any(paths.clean(mount["destination"]) == "/dev" and "bind" in "".join(mount.get("options") or ()) for mount in entries)
        if not bound:
            rootfs.make_devices(self._root, self._linux.get("devices") or [], bind="user" in self._request.new)
            rootfs.make_links(self._root)
        if self._process.get("terminal"):
            self._master, self._slave = terminal.open_pty(self._root)
            size = self._process.get("consoleSize")
            if size:
                terminal.set_size(self._master, size["height"], size["width"])
            rootfs.attach_console(self._root, self._slave)

    # 9
    def _resolve_user(self) -> None:
        user = self._process.get("user") or {}
        name, groups = user.get("username"), user.get("additionalGroups") or []
        if name is not None or groups:
            self._identity = users.resolve(self._root, name or str(user.get("uid", 0)), groups)
            return
        uid, gid = user.get("uid", 0), user.get("gid", 0)
        groups = [gid, *(user.get("additionalGids") or [])]
        self._identity = users.Identity(uid, gid, tuple(dict.fromkeys(groups)), "")

    # 10
    def _write_sysctls(self) -> None:
        rootfs.write_sysctls(self._linux.get("sysctl") or {})

    # 11
    def _mask_paths(self) -> None:
        for path in self._linux.get("readonlyPaths") or ():
            rootfs.make_readonly(self._root, path)
        masked = self._linux.get("maskedPaths") or ()
        if masked:
            masks = rootfs.Masks()
            for path in masked:
                masks.cover(self._root, path)

    # 12
    def _compile_filter(self) -> None:
        profile = self._linux.get("seccomp")
        if profile:
            self._program = seccomp.compiled(profile, self._request.seccomp_cache)

    def _run_hooks(self, name: str) -> None:
        entries = self._spec.get("hooks") or {}
        if entries.get(name):
            hooks.run(entries, name, {**self._request.state, "pid": os.getpid()})

    # 13
    def _pivot(self) -> None:
        freeze_imports()
        rootfs.pivot(self._root)
        rootfs.finish_root(self._linux.get("rootfsPropagation") or "", read_only=False)

    # 14
    def _make_working_directory(self) -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                # what is wrong with it is told when it is entered
                os.close(paths.mkdirs_in_root(root, self._process.get("cwd") or "/", 0o755))
        finally:
            os.close(root)
        if (self._spec.get("root") or {}).get("readonly"):
            rootfs.finish_root("", read_only=True)

    # 15
    def _standard_streams(self) -> None:
        if self._slave >= 0:
            os.fchown(self._slave, self._identity.uid, -1)
            terminal.take_over(self._slave)
        elif self._request.stdio is not None:
            for number, descriptor in enumerate(self._request.stdio):
                os.dup2(descriptor, number, inheritable=True)

    # 16
    def _wait_for_start(self) -> None:
        channel = self._request.channel
        descriptors = (self._master,) if self._master >= 0 else ()
        channel.send(Message.READY, descriptors, warnings=self._warnings)
        if self._master >= 0:
            os.close(self._master)
        if self._request.gate < 0:
            channel.expect(Message.START)
            return
        # opened anew through its descriptor: blocks until "start" opens the other end
        gate = os.open(f"/proc/self/fd/{self._request.gate}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(gate, b"0")
        os.close(gate)

    # 17
    def _confine(self) -> None:
        keep = 3 + self._request.keep
        channel = self._request.channel.fileno()
        if channel < keep:
            raise SystemFailure("the handshake's descriptor lies among those to preserve", step="privileges")
        # nothing but 0, 1, 2 and what is to be preserved reaches the program (CVE-2024-21626)
        kernel.close_range(keep, cloexec=True)
        user = self._process.get("user") or {}
        privileges.confine(
            self._process,
            self._linux.get("seccomp"),
            self._program,
            self._identity,
            may_set_groups=self._may_set_groups(),
            enter=lambda: self._enter_working_directory(user),
        )

    def _may_set_groups(self) -> bool:
        if "user" not in self._request.new:
            return True
        try:
            with open("/proc/self/setgroups") as file:
                return file.read().strip() == "allow"
        except OSError:
            return False

    def _enter_working_directory(self, user: dict[str, Any]) -> None:
        enter_directory(self._process.get("cwd") or "/")
        umask = user.get("umask")
        os.umask(0o022 if umask is None else umask)

    # 18
    def _execute(self) -> None:
        if self._request.die_with_parent:
            # a program whose streams nobody carries must not go on unseen; lost when it gains privileges (prctl(2))
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        execute(self._process, self._identity)


def enter_directory(path: str) -> None:
    """Change to the working directory and make sure that it lies inside the root (CVE-2024-21626)."""
    try:
        os.chdir(path)
    except OSError as error:
        raise InvalidParameter(f"chdir to cwd ({path!r}) set in config.json failed: {(error.strerror or '').lower()}") from None
    try:
        inside = os.getcwd()
    except FileNotFoundError:
        inside = "(unreachable)"
    if not inside.startswith("/"):
        raise InvalidParameter(f"the working directory {path!r} lies outside the container's root")


def execute(process: dict[str, Any], identity: users.Identity) -> None:
    """The last step of init and of exec."""
    environment = program.environment_of(process.get("env") or [])
    if identity.home:
        environment.setdefault(b"HOME", identity.home.encode("utf-8", "surrogateescape"))
    os.environ.clear()
    arguments = process["args"]
    program.execute(program.find(arguments[0], environment), arguments, environment)

