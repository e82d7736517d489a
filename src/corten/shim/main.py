"""The shim: one process per container, between daemon and program.

Mounts the root, makes the container through the runtime, carries its streams, runs further programs, waits for the end and
writes it down.  It lives on without the daemon; any daemon finds it again by ``<exec-root>/<id>/shim.sock``.

Operations on a control connection (each answered with the same ``seq``):
start, attach, exec, exec-kill, resize, kill, pause, resume, update, state, ack.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, CortenError, NotFound
from corten.linux import mount as mounting
from corten.linux import overlay
from corten.linux import process as kernel
from corten.logdriver.writers import LogWriter, open_writer
from corten.runtime import hooks, joining, lifecycle, terminal
from corten.shim import protocol
from corten.shim.loop import EpollLoop
from corten.shim.streams import Streams

_WALL = 0x40000000
_DRAIN_S = 1.0


class Exec:
    """A further program of the container."""

    def __init__(self, exec_id: str, process: joining.ExecProcess, streams: Streams) -> None:
        self.id = exec_id
        self.pid = process.pid
        self.pidfd = process.pidfd
        self.console = process.console_fd
        self.streams = streams


class Shim:
    """Owns one container while it runs."""

    def __init__(self, control: socket.socket) -> None:
        self._loop = EpollLoop()
        self._controls: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._execs: dict[str, Exec] = {}
        self._init: lifecycle.InitProcess | None = None
        self._streams: Streams | None = None
        self._writer: LogWriter | None = None
        self._directory = ""
        self._target = ""
        self._cache = ""
        self._spec = b""
        self._started_ns = 0
        self._exit: dict[str, Any] | None = None
        self._operations: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
            "start": self._start,
            "attach": self._attach,
            "exec": self._exec,
            "exec-kill": self._exec_kill,
            "resize": self._resize,
            "kill": self._kill,
            "pause": lambda message, descriptors: self._freeze(True),
            "resume": lambda message, descriptors: self._freeze(False),
            "update": self._update,
            "state": lambda message, descriptors: self._state(),
            "ack": lambda message, descriptors: self._acknowledge(),
        }
        self._add_control(control)
        self._watch_orphans()

    def run(self) -> None:
        self._loop.run()

    def _watch_orphans(self) -> None:
        """Processes of the container that lost their parent come to us, the subreaper: collect them as they end."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def reap(events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 4096)
            own = {entry.pid for entry in self._execs.values()} | ({self._init.pid} if self._init else set())
            self._reap_all_but(own)

        self._loop.watch(reading, select.EPOLLIN, reap)

    @staticmethod
    def _reap_all_but(own: set[int]) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in own:
                return  # ours are collected where their end is handled
            os.waitpid(found.si_pid, os.WNOHANG | _WALL)

    # -- control ------------------------------------------------------------------------------------------------------

    def _add_control(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._controls.append(connection)
        self._loop.watch(connection.fileno(), select.EPOLLIN, lambda events: self._control_ready(connection))

    def _drop_control(self, connection: socket.socket) -> None:
        self._loop.forget(connection.fileno())
        connection.close()
        if connection in self._controls:
            self._controls.remove(connection)
        if self._init is None or (self._exit is not None and not self._controls):
            # nobody to start for, or everything is over and written down
            self._loop.running = False

    def _control_ready(self, connection: socket.socket) -> None:
        try:
            message, descriptors = protocol.receive(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message, descriptors = None, []
        if message is None:
            self._drop_control(connection)
            return
        try:
            operation = self._operations.get(message.get("op", ""))
            if operation is None:
                raise NotFound(f"the shim knows no operation {message.get('op')!r}")
            answer = operation(message, descriptors)
        except (CortenError, OSError, ValueError, KeyError, TypeError) as error:
            answer = {"error": protocol.describe_error(error)}
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        answer["seq"] = message.get("seq", 0)
        self._send(connection, answer)
        if message.get("op") == "start" and "error" in answer:
            self._loop.running = False
        trim_memory()

    def _send(self, connection: socket.socket, message: dict[str, Any]) -> None:
        try:
            protocol.send(connection, message)
        except OSError:
            # the daemon is gone or stuck; what matters is written down
            self._drop_control(connection)

    def _broadcast(self, message: dict[str, Any]) -> None:
        for connection in list(self._controls):
            self._send(connection, message)

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # by descriptor: a path below a deep exec root may exceed the 107 bytes of a socket address
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = os.umask(0o177)
            try:
                listener.bind(f"/proc/self/fd/{directory}/shim.sock")
            finally:
                os.umask(old)
        finally:
            os.close(directory)
        listener.listen(16)
        listener.setblocking(False)
        self._listener = listener
        self._loop.watch(listener.fileno(), select.EPOLLIN, lambda events: self._accept())

    def _accept(self) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.geteuid():
                connection.close()
                return
            self._add_control(connection)

    # -- start --------------------------------------------------------------------------------------------------------

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        self._directory = message["directory"]
        self._cache = message["seccomp_cache"]
        undo: list[Callable[[], None]] = []
        try:
            os.mkdir(self._directory, 0o710)
            undo.append(lambda: _remove_runtime_directory(self._directory))
            self._listen()
            log = message["log"]
            self._writer = open_writer(log["type"], log["config"], log["path"], log.get("attributes") or {}, self._loop)
            undo.append(self._writer.close)
            self._mount(message["rootfs"])
            undo.append(self._unmount)
            self._run_init(message, descriptors, drop_slow=log["config"].get("mode") == "non-blocking")
        except BaseException:
            if self._listener is not None:
                self._loop.forget(self._listener.fileno())
                self._listener.close()
            for step in reversed(undo):
                step()
            raise
        assert self._init is not None
        self._write_state()
        return {"pid": self._init.pid, "started_ns": self._started_ns, "warnings": self._init.warnings}

    def _mount(self, rootfs: dict[str, Any]) -> None:
        self._target = rootfs["target"]
        if rootfs["type"] == "bind":
            return  # a plain directory needs no mount
        os.makedirs(self._target, 0o700, exist_ok=True)
        overlay.overlay_mount(self._target, rootfs["lower"], rootfs["upper"] or None, rootfs["work"] or None, rootfs["options"])

    def _unmount(self) -> None:
        with contextlib.suppress(OSError):
            mounting.umount2(self._target, mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)

    def _run_init(self, message: dict[str, Any], descriptors: list[int], *, drop_slow: bool) -> None:
        spec = message["spec"]
        tty = bool(spec["process"].get("terminal"))
        streams = Streams(
            self._loop, tty=tty, sink=self._log, drop_slow=drop_slow, stdin_once=message["stdin_once"]
        )
        pipes = Pipes(None if tty else message["open_stdin"])
        try:
            init = lifecycle.create(
                spec,
                container_id=message["id"],
                bundle=message["bundle"],
                stdio=pipes.theirs,
                seccomp_cache=self._cache,
                die_with_parent=True,
            )
            try:
                pipes.connect(streams, init.console_fd if tty else -1, with_input=message["open_stdin"])
                for index, wanted in enumerate(message["attach"]):
                    self._attach_to(streams, wanted, descriptors[index])
                init.start()
            except BaseException:
                streams.close()
                init.console_fd = -1  # closed with the streams
                init.abandon()
                raise
        finally:
            pipes.close_theirs()
        self._init, self._streams = init, streams
        self._started_ns = time.time_ns()
        # only what a later exec and the last hooks need is kept, as bytes
        kept = {key: spec.get(key) for key in ("ociVersion", "hooks", "annotations")}
        kept["process"] = {"rlimits": spec["process"].get("rlimits")}
        kept["linux"] = {"seccomp": (spec.get("linux") or {}).get("seccomp")}
        self._spec = json.dumps(kept).encode()
        init.spec, init.state = {}, {**init.state}
        self._loop.watch(init.pidfd, select.EPOLLIN, lambda events: self._init_exited())

    def _write_state(self) -> None:
        assert self._init is not None
        self._write_file(
            "state.json",
            {"pid": self._init.pid, "started_ns": self._started_ns, "cgroup": self._init.cgroup.path, "target": self._target, "shim": os.getpid()},
        )

    def _write_file(self, name: str, document: dict[str, Any]) -> None:
        temporary = f"{self._directory}/.{name}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(document).encode())
        finally:
            os.close(descriptor)
        os.rename(temporary, f"{self._directory}/{name}")

    def _log(self, stream: str, data: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(stream, data, time.time_ns())
        except OSError:
            # a full disk must not stop the program; what follows may find room again
            self._broadcast({"event": "log-error"})

    # -- operations ---------------------------------------------------------------------------------------------------

    def _running(self) -> lifecycle.InitProcess:
        if self._init is None or self._exit is not None:
            raise Conflict("the container is not running")
        return self._init

    def _attach_to(self, streams: Streams, wanted: dict[str, Any], descriptor: int) -> None:
        streams.attach(
            socket.socket(fileno=os.dup(descriptor)),
            stdin=wanted["stdin"],
            stdout=wanted["stdout"],
            stderr=wanted["stderr"],
            detach_keys=bytes.fromhex(wanted["detach_keys"]),
        )

    def _attach(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        self._running()
        assert self._streams is not None
        self._attach_to(self._streams, message, descriptors[0])
        return {}

    def _exec(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        init = self._running()
        exec_id, process = message["id"], message["process"]
        tty = bool(process.get("terminal"))
        streams = Streams(self._loop, tty=tty, sink=lambda stream, data: None, stdin_once=True)
        pipes = Pipes(None if tty else message["stdin"])
        try:
            made = joining.exec_process(
                init.pid, json.loads(self._spec), process, cgroup=init.cgroup, stdio=pipes.theirs, seccomp_cache=self._cache
            )
            pipes.connect(streams, made.console_fd if tty else -1, with_input=message["stdin"])
        except BaseException:
            streams.close()
            pipes.close_ours()
            raise
        finally:
            pipes.close_theirs()
        if descriptors:
            self._attach_to(streams, message, descriptors[0])
        entry = self._execs[exec_id] = Exec(exec_id, made, streams)
        self._loop.watch(made.pidfd, select.EPOLLIN, lambda events: self._exec_exited(entry))
        return {"pid": made.pid}

    def _exec_kill(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        entry = self._execs.get(message["id"])
        if entry is not None:
            kernel.pidfd_send_signal(entry.pidfd, message["signal"])
        return {}

    def _resize(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        exec_id = message["id"]
        if exec_id:
            if exec_id not in self._execs:
                raise NotFound(f"No such exec instance: {exec_id}")
            console = self._execs[exec_id].console
        else:
            console = self._running().console_fd
        if console >= 0:
            terminal.set_size(console, message["height"], message["width"])
        return {}

    def _kill(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        init = self._running()
        if message.get("all"):
            init.cgroup.kill(message["signal"])
        else:
            kernel.pidfd_send_signal(init.pidfd, message["signal"])
        return {}

    def _freeze(self, frozen: bool) -> dict[str, Any]:
        cgroup = self._running().cgroup
        if frozen:
            cgroup.freeze()
        else:
            cgroup.thaw()
        return {}

    def _update(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        self._running().cgroup.update(message["resources"])
        return {}

    def _state(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"started_ns": self._started_ns, "pid": self._init.pid if self._init else 0}
        if self._exit is not None:
            answer["exit"] = self._exit
        return answer

    def _acknowledge(self) -> dict[str, Any]:
        if self._exit is not None:
            self._loop.running = False
        return {}

    # -- exits --------------------------------------------------------------------------------------------------------

    def _exec_exited(self, entry: Exec) -> None:
        self._loop.forget(entry.pidfd)
        code = _wait(entry.pid)
        os.close(entry.pidfd)
        entry.streams.drain()
        self._execs.pop(entry.id, None)
        # first the code, then the end of the stream: whoever sees the end may ask for the code
        self._broadcast({"event": "exec-exit", "id": entry.id, "code": code})
        entry.streams.close()
        trim_memory()

    def _init_exited(self) -> None:
        assert self._init is not None
        assert self._streams is not None
        init = self._init
        self._loop.forget(init.pidfd)
        code = _wait(init.pid)
        at_ns = time.time_ns()
        with contextlib.suppress(CortenError, OSError):
            init.cgroup.thaw()
        oom_killed = init.cgroup.oom_kills() > 0
        init.cgroup.kill()
        self._drain()
        for entry in list(self._execs.values()):
            self._exec_exited(entry)
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.finish(time.time_ns())
            self._writer.close()
        self._unmount()
        problems = self._after_exit(init)
        self._exit = {"code": code, "at_ns": at_ns, "oom_killed": oom_killed, "problems": problems}
        with contextlib.suppress(OSError):
            self._write_file("exit.json", self._exit)
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._broadcast({"event": "exit", **self._exit})
        self._streams.close()
        if not self._controls:
            self._loop.running = False

    def _drain(self) -> None:
        """Everything written before the end belongs to the log, also by processes that have just been killed."""
        assert self._streams is not None
        deadline = time.monotonic() + _DRAIN_S
        self._streams.drain()
        while self._streams.is_open and not self._streams.tty and time.monotonic() < deadline:
            time.sleep(0.005)
            self._streams.drain()

    def _after_exit(self, init: lifecycle.InitProcess) -> list[str]:
        problems = []
        spec = json.loads(self._spec)
        try:
            hooks.run(spec.get("hooks") or {}, "poststop", {**init.state, "status": "stopped"})
        except CortenError as error:
            problems.append(error.message)
        try:
            init.cgroup.delete()
        except CortenError as error:
            problems.append(error.message)
        os.close(init.pidfd)
        return problems


class Pipes:
    """The three pipes of a program without a terminal; nothing at all for one with a terminal.

    with_input: None for a terminal; False connects standard input to /dev/null
    """

    def __init__(self, with_input: bool | None) -> None:
        self.theirs: tuple[int, int, int] | None = None
        self._ours: list[int] = []
        if with_input is None:
            return
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        if with_input:
            in_read, in_write = os.pipe2(os.O_CLOEXEC)
        else:
            in_read, in_write = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
        self.theirs = (in_read, out_write, err_write)
        self._ours = [in_write, out_read, err_read]

    def connect(self, streams: Streams, console: int, *, with_input: bool) -> None:
        """Hand our ends over to the streams, which close them."""
        if self.theirs is None:
            streams.add_output(console, "stdout")
            streams.set_input(console)
            return
        in_write, out_read, err_read = self._ours
        self._ours = []
        streams.add_output(out_read, "stdout")
        streams.add_output(err_read, "stderr")
        if in_write >= 0:
            streams.set_input(in_write)

    def close_theirs(self) -> None:
        for descriptor in self.theirs or ():
            os.close(descriptor)

    def close_ours(self) -> None:
        for descriptor in self._ours:
            if descriptor >= 0:
                os.close(descriptor)
        self._ours = []


def _wait(pid: int) -> int:
    """The exit code as Docker counts it: 128 + n for signal n."""
    try:
        _, status = os.waitpid(pid, _WALL)
    except ChildProcessError:
        return 255
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _remove_runtime_directory(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


_libc = ctypes.CDLL(None)


def trim_memory() -> None:
    """Give freed memory back: a shim is idle most of its life."""
    _libc.malloc_trim(0)


def run_shim(descriptors: list[int]) -> None:
    """The forked child's whole life."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    kernel.set_name("corten-shim")
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    Shim(socket.socket(fileno=descriptors[0])).run()
