"""Containers made by another OCI runtime: runc, crun, runsc and whatever speaks their command line.

The maker mounts the root and takes streams and log as ever; then the runtime makes the container of a bundle beside the
shim's socket, and the shim adopts its program:

::

    maker (subreaper)            runtime                          program
      │ create ────────────────────▶│ ── makes ─────────────────────▶│  waits
      │◀─── pid file, pty, exit ────│                                │
      │ handover to the shim                                         │
      │ start ─────────────────────▶│ ── lets go ───────────────────▶│  runs; the shim's child when the maker is gone

What is said with signals and cgroups for Corten's own containers is the runtime's work here (kill, pause, exec), as it
may run them in ways of its own, a virtual machine for instance.  Limits and statistics are the cgroup's, whose path is
in the spec.

Source: the command line that runc has and others follow (OCI runtime command line interface).
"""

from __future__ import annotations

import _signal
import _socket
import array
import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

from corten.cgroup import systemd
from corten.cgroup.hierarchy import is_scope
from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime import users
from corten.shim import quirks

Streams = tuple[int, int, int] | None

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONGEST_LOG = 256 * 1024
_CONSOLE_S = 10.0
# what the messages of runtimes begin with and ours say already
_PREFIXES = (
    "runc create failed: ",
    "runc start failed: ",
    "runc exec failed: ",
    "exec failed: ",
    "container_linux.go:380: ",
    "unable to start container process: ",
    "starting container process caused: ",
)
# what tells that the command cannot be run -> dockerd's words, the error
_COMMAND_FAILURES: tuple[tuple[tuple[str, ...], str, type[CortenError]], ...] = (
    (("executable file not found", "not found in $path"), "executable file not found in $PATH", CommandNotFound),
    (("no such file or directory",), "no such file or directory", CommandNotFound),
    (("permission denied", "is a directory"), "permission denied", CommandNotExecutable),
    (("exec format error",), "exec format error", CommandNotExecutable),
)


class Runtime:
    """One container under another runtime.

    command:   the program and its own options
    root:      directory of the runtime's state
    directory: of the shim: also the bundle
    """

    __slots__ = ("_command", "_complaint", "_directory", "_id", "_network", "_program", "_root")

    def __init__(self, command: list[str], root: str, directory: str, container_id: str) -> None:
        self._command = command
        self._root = root
        self._directory = directory
        self._id = container_id
        self._complaint = ""
        self._program: list[str] = []
        self._network = ""

    # -- the container ------------------------------------------------------------------------------------------------

    def create(self, spec: dict[str, Any], streams: Streams) -> tuple[int, int]:
        """(pid of the program that waits, pty or -1).

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure; nothing of it is left then.
        """
        os.makedirs(self._root, 0o700, exist_ok=True)
        root = os.open(spec["root"]["path"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            process = translated(spec["process"], root)
        finally:
            os.close(root)
        self._program = process["args"]
        self._network = next(
            (item.get("path", "") for item in spec["linux"].get("namespaces") or () if item["type"] == "network"), ""
        )
        self._write("config.json", json.dumps({**for_others(spec), "process": process}))
        driver = ["--systemd-cgroup"] if is_scope(spec["linux"].get("cgroupsPath") or "") else []
        try:
            return self._make(["create", "--bundle", self._directory], process, streams, "init.pid", driver)
        except BaseException:
            self.delete()
            raise

    def start(self) -> None:
        """Errors: CommandNotFound, CommandNotExecutable, SystemFailure."""
        code = self._call(["start", self._id], None)
        if code:
            raise self._failure("start", code, self._program)

    def execute(self, process: dict[str, Any], init_pid: int, streams: Streams) -> tuple[int, int]:
        """(pid of a further program, pty or -1).

        Errors: CommandNotFound, CommandNotExecutable, InvalidParameter, SystemFailure.
        """
        root = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            process = translated(process, root)
        finally:
            os.close(root)
        name = f"exec-{os.getpid()}"
        self._write(f"{name}.json", json.dumps(process))
        try:
            return self._make(["exec", "--detach", "--process", f"{name}.json"], process, streams, f"{name}.pid")
        finally:
            self._unlink(f"{name}.json")

    def kill(self, number: int) -> None:
        """Errors: SystemFailure."""
        self._do("kill", self._id, str(number))

    def pause(self) -> None:
        """Errors: SystemFailure."""
        self._do("pause", self._id)

    def resume(self) -> None:
        """Errors: SystemFailure."""
        self._do("resume", self._id)

    def delete(self) -> None:
        """Take away what the runtime knows of the container and what is left of it; never raises."""
        with contextlib.suppress(CortenError, OSError):
            # runsc waits up to five seconds until its processes, which are our children by now, are no zombies either
            self._call(["delete", "--force", self._id], None, reaps=True)

    # -- how it is called ---------------------------------------------------------------------------------------------

    def _do(self, verb: str, *arguments: str) -> None:
        code = self._call([verb, *arguments], None)
        if code:
            raise self._failure(verb, code, [])

    def _make(
        self, words: list[str], process: dict[str, Any], streams: Streams, pid_file: str, options: Sequence[str] = ()
    ) -> tuple[int, int]:
        """Have a program made; its streams, or the pty that the runtime makes for it.  options: before the verb"""
        console = _Console(self._directory, f".{pid_file}.sock") if process.get("terminal") else None
        words = [words[0], *(["--console-socket", console.name] if console else []), *words[1:]]
        try:
            code = self._call([*words, "--pid-file", pid_file, self._id], streams, options)
            if code:
                raise self._failure(words[0], code, process["args"])
            with open(f"{self._directory}/{pid_file}") as file:
                pid = int(file.read())
            return pid, console.receive() if console else -1
        finally:
            self._unlink(pid_file)
            if console is not None:
                console.close()

    def _call(self, words: list[str], streams: Streams, options: Sequence[str] = (), *, reaps: bool = False) -> int:
        """Run the runtime and wait for its end: its exit code, 128 + n for a signal.  Errors: OSError.

        reaps: meanwhile every child that ends is waited for: nobody asks for its exit code any more
        """
        log = f".runtime-{os.getpid()}.log"
        arguments = [*self._command, "--root", self._root, "--log", log, "--log-format", "json"]
        arguments += [*options, *words]
        pid = os.fork()
        if pid == 0:
            try:
                quirks.hide_from(self._command[0], words[0], self._network)
                self._become(arguments, streams, log)
            finally:
                os._exit(127)
        ended, status = os.waitpid(-1 if reaps else pid, 0)
        while ended != pid:
            ended, status = os.waitpid(-1, 0)
        self._complaint = self._last_error(log) if status else ""
        self._unlink(log)
        return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def _become(self, arguments: list[str], streams: Streams, log: str) -> None:
        """The child's whole life: what the shim has changed for itself is as it was."""
        os.chdir(self._directory)
        quiet = -1
        if streams is None:
            quiet = os.open("/dev/null", os.O_RDWR)
            streams = (quiet, quiet, quiet)
        # out of the way first: a descriptor of theirs may have a number that is taken now
        copies = [os.dup(descriptor) for descriptor in streams]
        for number, copy in enumerate(copies):
            os.dup2(copy, number, inheritable=True)
        kernel.close_range(3)
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGPIPE,
                       _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGCHLD):  # fmt: skip
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        environment = {**os.environ, "PATH": os.environ.get("PATH") or _PATH}
        try:
            os.execve(arguments[0], arguments, environment)
        except OSError as error:
            with open(log, "w") as file:
                file.write(json.dumps({"level": "error", "msg": f"{arguments[0]}: {(error.strerror or '').lower()}"}))

    def _failure(self, verb: str, code: int, command: list[str]) -> CortenError:
        """Why the runtime failed, by its own log, as the kind that Corten's runtime would have raised."""
        text = self._complaint or f"{self._command[0]} {verb} ended with exit code {code}"
        for prefix in _PREFIXES:
            text = text.removeprefix(prefix)
        lower = text.lower()
        if command and (command[0].lower() in lower or "executable" in lower):
            # clients find the exit code by these words, which not every runtime uses
            for signs, words, kind in _COMMAND_FAILURES:
                if any(sign in lower for sign in signs):
                    return kind(text if words in text else f'exec: "{command[0]}": {words}')
        if verb == "kill" and ("not running" in lower or "no such process" in lower or "does not exist" in lower):
            return Conflict(text)
        return SystemFailure(text, step=f"{os.path.basename(self._command[0])} {verb}")

    def _last_error(self, log: str) -> str:
        """What the runtime's log tells last."""
        try:
            with open(f"{self._directory}/{log}", errors="replace") as file:
                lines = file.read(_LONGEST_LOG).splitlines()
        except OSError:
            return ""
        found = ""
        for line in lines:
            try:
                document = json.loads(line)
            except ValueError:
                found = line.strip() or found
                continue
            if isinstance(document, dict) and document.get("level") in ("error", "fatal"):
                found = str(document.get("msg", "")).strip() or found
        return found

    def _write(self, name: str, text: str) -> None:
        path = f"{self._directory}/{name}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{name}")


def for_others(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec for runtimes of older versions of the specification too: 1.0.2 without a time namespace, which came
    with 1.1 and brings nothing as long as no offsets are given.
    """
    linux = spec["linux"]
    if is_scope(linux.get("cgroupsPath") or ""):
        linux = {**linux, "cgroupsPath": systemd.cgroups_path_of(linux["cgroupsPath"])}
    namespaces = [item for item in linux.get("namespaces") or () if item["type"] != "time" or item.get("path")]
    return {**spec, "ociVersion": "1.0.2", "linux": {**linux, "namespaces": namespaces}}


def translated(process: dict[str, Any], root: int) -> dict[str, Any]:
    """``process`` without Corten's extensions: users and groups as the numbers that the container's files give them.

    root: an O_PATH descriptor of the container's root
    Errors: InvalidParameter.
    """
    identity = users.of_process(root, process)
    user = {key: value for key, value in process["user"].items() if key not in ("username", "additionalGroups")}
    user |= {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)}
    environment = list(process.get("env") or [])
    if identity.home and not any(item.startswith("HOME=") for item in environment):
        environment.append(f"HOME={identity.home}")
    if any("\0" in item for item in environment):
        raise InvalidParameter("invalid environment: it contains a NUL byte")
    return {**process, "user": user, "env": environment}


class _Console:
    """A socket by which the runtime hands over the pty that it made.  ``name`` is relative to the directory: an address
    holds 107 bytes only (unix(7)), and runtimes work in there.
    """

    __slots__ = ("_directory", "_listener", "name")

    def __init__(self, directory: str, name: str) -> None:
        self._directory = directory
        self.name = name
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        old = os.umask(0o177)
        try:
            self._listener.bind(f"/proc/self/fd/{place}/{name}")
        finally:
            os.umask(old)
            os.close(place)
        self._listener.listen(1)
        self._listener.settimeout(_CONSOLE_S)

    def receive(self) -> int:
        """The master's end.  Errors: SystemFailure when the runtime sent none."""
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # what accept() wraps
            connection = _socket.socket(fileno=descriptor)
            connection.settimeout(_CONSOLE_S)
            try:
                _, ancillary, _, _ = connection.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            finally:
                connection.close()
        except OSError as error:
            raise SystemFailure(
                f"the runtime gave no terminal: {error.strerror or error}", step="console", errno=error.errno or 0
            ) from error
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(content) >= 4:
                numbers = array.array("i")
                numbers.frombytes(content[:4])
                return numbers[0]
        raise SystemFailure("the runtime gave no terminal", step="console")

    def close(self) -> None:
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{self.name}")
