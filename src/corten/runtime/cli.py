"""``corten-oci``: the runtime as a command, with runc's command line, for containerd, Podman and everyone's own scripts.

Source: runtime-spec runtime.md; runc(8).
"""

from __future__ import annotations

import argparse
import array
import contextlib
import datetime
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from corten import __version__
from corten.cgroup import stats
from corten.cgroup.manager import Cgroup
from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, InvalidParameter, SystemFailure
from corten.linux import process as kernel
from corten.runtime import hooks, joining, lifecycle, seccomp, spec_check
from corten.runtime.defaults import default_spec
from corten.runtime.state import ContainerState, StateDirectory, start_ticks

_WALL = 0x40000000


def default_root() -> str:
    if os.geteuid() == 0:
        return "/run/corten-oci"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/corten-oci"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="corten-oci", description="OCI runtime of Corten", allow_abbrev=False)
    parser.add_argument("--root", default=default_root(), help="directory of the containers' state")
    parser.add_argument("--log", default="", metavar="FILE", help="where errors are written")
    parser.add_argument("--log-format", default="text", choices=("text", "json"))
    parser.add_argument("--debug", action="store_true", help="tell more in the log")
    parser.add_argument("--systemd-cgroup", action="store_true", help="not supported: cgroups are made through cgroupfs")
    parser.add_argument("--rootless", default="auto", choices=("auto", "true", "false"), help="accepted for runc's callers")
    parser.add_argument("-v", "--version", action="version", version=f"corten-oci {__version__}\nspec: 1.2.0")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    for name, text in (("create", "make a container"), ("run", "make and start a container")):
        made = add(name, text)
        made.add_argument("-b", "--bundle", default=".", help="directory with config.json")
        made.add_argument("--console-socket", default="", help="socket that gets the pty's master")
        made.add_argument("--pid-file", default="")
        made.add_argument("--preserve-fds", type=int, default=0)
        made.add_argument("--no-pivot", action="store_true", help="not supported")
        made.add_argument("--no-new-keyring", action="store_true", help="not supported")
        if name == "run":
            made.add_argument("-d", "--detach", action="store_true")
            made.add_argument("--keep", action="store_true", help="do not delete the container when it ends")
        made.add_argument("id")
    add("start", "start a created container").add_argument("id")
    add("state", "print a container's state").add_argument("id")
    kill = add("kill", "send a signal to a container")
    kill.add_argument("-a", "--all", action="store_true", help="to all its processes")
    kill.add_argument("id")
    kill.add_argument("signal", nargs="?", default="SIGTERM")
    delete = add("delete", "delete a stopped container")
    delete.add_argument("-f", "--force", action="store_true")
    delete.add_argument("id")
    run = add("exec", "run a program in a container")
    run.add_argument("--console-socket", default="")
    run.add_argument("--cwd", default="")
    run.add_argument("-e", "--env", action="append", default=[])
    run.add_argument("-t", "--tty", action="store_true")
    run.add_argument("-u", "--user", default="")
    run.add_argument("-g", "--additional-gids", action="append", type=int, default=[])
    run.add_argument("-p", "--process", default="", metavar="FILE", help="process.json")
    run.add_argument("-d", "--detach", action="store_true")
    run.add_argument("--pid-file", default="")
    run.add_argument("--process-label", default="")
    run.add_argument("--apparmor", default="")
    run.add_argument("--no-new-privs", action="store_true")
    run.add_argument("-c", "--cap", action="append", default=[])
    run.add_argument("--preserve-fds", type=int, default=0)
    run.add_argument("id")
    run.add_argument("args", nargs=argparse.REMAINDER)
    listing = add("list", "list containers")
    listing.add_argument("-q", "--quiet", action="store_true")
    listing.add_argument("-f", "--format", default="table", choices=("table", "json"))
    processes = add("ps", "list a container's processes")
    processes.add_argument("-f", "--format", default="table", choices=("table", "json"))
    processes.add_argument("id")
    add("pause", "suspend all processes").add_argument("id")
    add("resume", "resume all processes").add_argument("id")
    update = add("update", "change limits")
    update.add_argument("-r", "--resources", default="", metavar="FILE", help="linux.resources as JSON, - for standard input")
    for option in ("memory", "memory-swap", "memory-reservation", "cpu-period", "cpu-quota", "cpu-share", "pids-limit", "blkio-weight"):
        update.add_argument(f"--{option}", type=int)
    update.add_argument("--cpuset-cpus", default="")
    update.add_argument("--cpuset-mems", default="")
    update.add_argument("id")
    events = add("events", "print statistics")
    events.add_argument("--stats", action="store_true", help="once")
    events.add_argument("--interval", default="5s")
    events.add_argument("id")
    spec = add("spec", "write a config.json to start from")
    spec.add_argument("-b", "--bundle", default=".")
    add("features", "print what the runtime supports")
    return parser


class Runtime:
    """The commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._states = StateDirectory(options.root)
        self._cache = f"{options.root}/.seccomp"

    def run(self) -> int:
        command: Callable[[], int] = getattr(self, f"do_{self._options.command}")
        return command()

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

    def _create(self, *, gated: bool) -> lifecycle.InitProcess:
        options = self._options
        for name in ("no_pivot", "no_new_keyring"):
            if getattr(options, name):
                raise InvalidParameter(f"--{name.replace('_', '-')} is not supported")
        bundle = os.path.abspath(options.bundle)
        spec = self._load_spec(bundle)
        terminal = bool((spec.get("process") or {}).get("terminal"))
        if terminal and gated and not options.console_socket:
            raise InvalidParameter("cannot allocate tty if corten-oci will detach without setting console socket")
        if options.console_socket and not terminal:
            raise InvalidParameter("cannot use console socket if corten-oci will not detach or allocate tty")
        directory = self._states.make(options.id)
        gate = -1
        try:
            if gated:
                os.mkfifo(f"{directory}/exec.fifo", 0o622)
                gate = os.open(f"{directory}/exec.fifo", os.O_PATH | os.O_CLOEXEC)
            init = lifecycle.create(
                spec,
                container_id=options.id,
                bundle=bundle,
                stdio=None,
                seccomp_cache=self._cache,
                keep_fds=options.preserve_fds,
                gate=gate,
            )
        except BaseException:
            self._states.remove(options.id)
            raise
        finally:
            if gate >= 0:
                os.close(gate)
        for warning in init.warnings:
            print(f"corten-oci: {warning}", file=sys.stderr)
        self._states.save(
            ContainerState(
                id=options.id,
                bundle=bundle,
                pid=init.pid,
                start_ticks=start_ticks(init.pid),
                oci_version=spec["ociVersion"],
                cgroup_path=init.cgroup.path,
                created=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
                annotations=spec.get("annotations") or {},
            )
        )
        if options.console_socket:
            _send_console(options.console_socket, init.console_fd)
            os.close(init.console_fd)
        if options.pid_file:
            _write_pid(options.pid_file, init.pid)
        return init

    def do_create(self) -> int:
        self._create(gated=True)
        return 0

    def do_start(self) -> int:
        with self._states.locked(self._options.id):
            state = self._states.load(self._options.id)
            status = self._states.status(state)
            if status != "created":
                raise Conflict(f"cannot start a container in the {status} state")
            self._open_gate(state)
            spec = self._load_spec(state.bundle)
            hooks.run(spec.get("hooks") or {}, "poststart", self._states.document(state, "running"))
        return 0

    def _open_gate(self, state: ContainerState) -> None:
        """Read what init writes once both ends are open; an init that dies meanwhile never opens its end."""
        fifo = f"{self._states.directory(state.id)}/exec.fifo"
        descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    if os.read(descriptor, 1):
                        os.unlink(fifo)
                        return
                if start_ticks(state.pid) != state.start_ticks:
                    break
                time.sleep(0.001)
        finally:
            os.close(descriptor)
        raise SystemFailure("container init ended before it was started", step="start")

    def do_run(self) -> int:
        options = self._options
        init = self._create(gated=False)
        try:
            init.start()
        except CortenError:
            init.abandon()
            self._states.remove(options.id)
            raise
        if options.detach:
            return 0
        code = _follow(init.pid, init.console_fd if not options.console_socket else -1)
        if not options.keep:
            self._delete(self._states.load(options.id))
        return code

    # -- kill, delete, state ------------------------------------------------------------------------------------------

    def do_state(self) -> int:
        state = self._states.load(self._options.id)
        print(json.dumps(self._states.document(state, self._status(state)), indent=2))
        return 0

    def _status(self, state: ContainerState) -> str:
        status = self._states.status(state)
        if status == "running" and _is_frozen(Cgroup(state.cgroup_path)):
            return "paused"
        return status

    def do_kill(self) -> int:
        options = self._options
        state = self._states.load(options.id)
        number = _signal_number(options.signal)
        status = self._states.status(state)
        if options.all:
            Cgroup(state.cgroup_path).kill(number)
            return 0
        if status == "stopped":
            raise Conflict("container not running")
        pidfd = kernel.pidfd_open(state.pid)
        try:
            if start_ticks(state.pid) != state.start_ticks:
                raise Conflict("container not running")
            kernel.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
        return 0

    def do_delete(self) -> int:
        options = self._options
        try:
            state = self._states.load(options.id)
        except CortenError:
            if options.force:
                self._states.remove(options.id)
                return 0
            raise
        status = self._states.status(state)
        if status == "running" and not options.force:
            raise Conflict(f"cannot delete container {options.id} that is not stopped: {status}")
        self._delete(state)
        return 0

    def _delete(self, state: ContainerState) -> None:
        cgroup = Cgroup(state.cgroup_path)
        with contextlib.suppress(CortenError, OSError):
            cgroup.thaw()
        if start_ticks(state.pid) == state.start_ticks != 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, signal.SIGKILL)
        cgroup.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state.pid, _WALL)
        cgroup.delete()
        document = self._states.document(state, "stopped")
        with contextlib.suppress(CortenError):
            spec = self._load_spec(state.bundle)
            hooks.run(spec.get("hooks") or {}, "poststop", document)
        self._states.remove(state.id)

    # -- exec -----------------------------------------------------------------------------------------------------------

    def do_exec(self) -> int:
        options = self._options
        state = self._states.load(options.id)
        status = self._status(state)
        if status not in ("running", "created"):
            raise Conflict(f"cannot exec in a {status} container")
        spec = self._load_spec(state.bundle)
        process = self._exec_process(spec)
        made = joining.exec_process(
            state.pid, spec, process, cgroup=Cgroup(state.cgroup_path), stdio=None, seccomp_cache=self._cache, keep_fds=options.preserve_fds
        )
        if options.console_socket:
            _send_console(options.console_socket, made.console_fd)
            os.close(made.console_fd)
        if options.pid_file:
            _write_pid(options.pid_file, made.pid)
        if options.detach:
            return 0
        return _follow(made.pid, made.console_fd if not options.console_socket else -1)

    def _exec_process(self, spec: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        if options.process_label:
            raise InvalidParameter("--process-label is not supported")
        if options.process:
            with open(options.process) as file:
                loaded: dict[str, Any] = json.load(file)
            return loaded
        arguments = options.args[1:] if options.args[:1] == ["--"] else options.args
        if not arguments:
            raise InvalidParameter("process args cannot be empty")
        process = {**spec["process"], "args": arguments, "terminal": options.tty}
        if options.cwd:
            process["cwd"] = options.cwd
        process["env"] = [*(process.get("env") or []), *options.env]
        if options.user:
            user, _, group = options.user.partition(":")
            if not user.isdigit() or (group and not group.isdigit()):
                raise InvalidParameter(f"--user {options.user}: numbers are needed")
            process["user"] = {"uid": int(user), "gid": int(group or 0)}
        if options.additional_gids:
            process["user"] = {**process.get("user", {}), "additionalGids": options.additional_gids}
        if options.cap:
            process["capabilities"] = {kind: list(options.cap) for kind in ("bounding", "effective", "permitted")}
        if options.no_new_privs:
            process["noNewPrivileges"] = True
        if options.apparmor:
            raise InvalidParameter("--apparmor is not supported for exec")
        return process

    # -- the rest -------------------------------------------------------------------------------------------------------

    def do_list(self) -> int:
        documents = []
        for container_id in self._states.ids():
            state = self._states.load(container_id)
            documents.append(self._states.document(state, self._status(state)))
        if self._options.quiet:
            print("\n".join(item["id"] for item in documents)) if documents else None
        elif self._options.format == "json":
            print(json.dumps(documents))
        else:
            print(f"{'ID':<12} {'PID':<8} {'STATUS':<8} {'BUNDLE':<30} CREATED")
            for item in documents:
                print(f"{item['id']:<12} {item['pid']:<8} {item['status']:<8} {item['bundle']:<30} {item['created']}")
        return 0

    def do_ps(self) -> int:
        pids = Cgroup(self._states.load(self._options.id).cgroup_path).pids()
        if self._options.format == "json":
            print(json.dumps(pids))
            return 0
        print("PID      CMD")
        for pid in pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                print(f"{pid:<8} {file.read().rstrip(bytes(1)).replace(bytes(1), b' ').decode(errors='replace')}")
        return 0

    def do_pause(self) -> int:
        Cgroup(self._running().cgroup_path).freeze()
        return 0

    def do_resume(self) -> int:
        Cgroup(self._states.load(self._options.id).cgroup_path).thaw()
        return 0

    def _running(self) -> ContainerState:
        state = self._states.load(self._options.id)
        if self._states.status(state) == "stopped":
            raise Conflict("container not running")
        return state

    def do_update(self) -> int:
        options = self._options
        if options.resources:
            file = sys.stdin if options.resources == "-" else open(options.resources)
            with file:
                resources = json.load(file)
        else:
            memory = {"limit": options.memory, "swap": options.memory_swap, "reservation": options.memory_reservation}
            cpu = {
                "period": options.cpu_period,
                "quota": options.cpu_quota,
                "shares": options.cpu_share,
                "cpus": options.cpuset_cpus or None,
                "mems": options.cpuset_mems or None,
            }
            resources = {
                "memory": {key: value for key, value in memory.items() if value is not None},
                "cpu": {key: value for key, value in cpu.items() if value is not None},
            }
            if options.pids_limit is not None:
                resources["pids"] = {"limit": options.pids_limit}
            if options.blkio_weight is not None:
                resources["blockIO"] = {"weight": options.blkio_weight}
        Cgroup(self._running().cgroup_path).update(resources)
        return 0

    def do_events(self) -> int:
        text = self._options.interval
        if not text.endswith("s") or not text[:-1].replace(".", "", 1).isdigit():
            raise InvalidParameter(f"invalid interval '{text}': seconds like 5s are needed")
        state = self._running()
        cgroup = Cgroup(state.cgroup_path)
        while True:
            print(json.dumps({"type": "stats", "id": state.id, "data": stats.read(cgroup)}), flush=True)
            if self._options.stats or self._states.status(state) == "stopped":
                return 0
            time.sleep(float(text[:-1]))

    def do_spec(self) -> int:
        path = os.path.join(self._options.bundle, "config.json")
        if os.path.exists(path):
            raise Conflict(f"file {path} exists: remove it first")
        with open(path, "w") as file:
            json.dump(default_spec(), file, indent=4)
            file.write("\n")
        return 0

    def do_features(self) -> int:
        document = {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": "1.2.0",
            "hooks": list(hooks.NAMES),
            "linux": {
                "namespaces": list(spec_check.NAMESPACES),
                "capabilities": list(kernel.known_capabilities()),
                "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
                "seccomp": {"enabled": True, "actions": list(seccomp.ACTIONS), "operators": list(seccomp.OPERATORS), "archs": list(seccomp.ARCHITECTURES)},
                "apparmor": {"enabled": True},
                "selinux": {"enabled": False},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": {"enabled": True}},
            },
        }  # fmt: skip
        print(json.dumps(document, indent=2))
        return 0


def _is_frozen(cgroup: Cgroup) -> bool:
    if cgroup.hierarchies.is_v2:
        name, wanted = "cgroup.freeze", "1"
    else:
        name, wanted = "freezer.state", "FROZEN"
    directory = cgroup.directory("freezer")
    if directory is None:
        return False
    try:
        return (directory / name).read_text().strip() == wanted
    except OSError:
        return False


def _signal_number(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    if name.isdigit():
        return int(name)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise InvalidParameter(f"unknown signal {text!r}") from None


def _send_console(path: str, console: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [console]))])


def _write_pid(path: str, pid: int) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        file.write(str(pid))
    os.replace(temporary, path)


def _follow(pid: int, console: int) -> int:
    """Wait for a program, hand it our signals and, with a terminal, carry its output."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, frame: os.kill(pid, received))
    if console >= 0:
        with contextlib.suppress(OSError):
            while data := os.read(console, 65536):
                os.write(1, data)
    _, status = os.waitpid(pid, _WALL)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _report(options: argparse.Namespace, message: str) -> None:
    print(f"corten-oci: {message}", file=sys.stderr)
    if options.log:
        with contextlib.suppress(OSError), open(options.log, "a") as file:
            if options.log_format == "json":
                now = datetime.datetime.now(datetime.UTC).isoformat()
                file.write(json.dumps({"level": "error", "msg": message, "time": now}) + "\n")
            else:
                file.write(f'level=error msg="{message}"\n')


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.systemd_cgroup:
            raise InvalidParameter("--systemd-cgroup is not supported: cgroups are made through cgroupfs")
        return Runtime(options).run()
    except (CommandNotFound, CommandNotExecutable) as error:
        _report(options, error.message)
        return 127 if isinstance(error, CommandNotFound) else 126
    except CortenError as error:
        _report(options, error.message)
    except OSError as error:
        _report(options, str(error))
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
