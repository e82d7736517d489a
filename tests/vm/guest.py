"""Virtual machines for tests: disks made of this checkout, QEMU, and an agent inside that runs what is asked for."""

from __future__ import annotations

import compileall
import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
TOP = HERE.parent.parent
CACHE = Path(os.environ.get("CORTEN_VM_CACHE") or TOP / ".cache" / "vm")
BOOT_S = 300  # without hardware virtualisation and with a busy machine
_PYTHON = (3, 11)  # Debian 12's, in the guest
_NOT_IN_THE_GUEST = ("corten[", "moto", "mypy", "ruff", "testcontainers")
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux1_x86_64")


class GuestFailure(Exception):
    """The guest cannot be built or does not answer."""


@functools.cache
def lacking() -> str:
    """Why no guest can run on this machine; "" when one can."""
    if platform.machine() != "x86_64":
        return f"a guest for {platform.machine()}"
    for program in ("qemu-system-x86_64", "mke2fs", "setpriv"):
        if shutil.which(program) is None:
            return program
    if not (CACHE / "version").exists() and (shutil.which("debootstrap") is None or os.geteuid() != 0):
        return "a guest, or root and debootstrap to build it"
    return ""


def _accelerator() -> str:
    """KVM only where the processor has virtualisation: elsewhere /dev/kvm may be there and not work."""
    flags = Path("/proc/cpuinfo").read_text().split()
    works = os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)
    return os.environ.get("CORTEN_VM_ACCEL") or ("kvm" if works else "tcg,thread=multi")


# -- disks ---------------------------------------------------------------------


def build() -> None:
    """The kernel and the root disk; nothing when they are there.  Errors: GuestFailure."""
    done = subprocess.run([HERE / "build-guest", CACHE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestFailure(f"the guest cannot be built: {done.stderr[-3000:]}")


def _requirements() -> list[str]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [line for line in wanted if not line.startswith(_NOT_IN_THE_GUEST)]


def _packages() -> Path:
    """A directory with the Python packages of the guest, kept until the requirements change."""
    wanted = _requirements()
    target = CACHE / f"packages-{hashlib.sha256(json.dumps([wanted, _PYTHON]).encode()).hexdigest()[:16]}"
    if target.exists():
        return target
    part = Path(f"{target}.part")
    shutil.rmtree(part, ignore_errors=True)
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(part),
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", ".".join(map(str, _PYTHON)),
        *(f"--platform={name}" for name in _PLATFORMS), *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestFailure(f"the guest's Python packages cannot be fetched: {done.stderr[-3000:]}")
    _compile(part)
    for old in CACHE.glob("packages-*"):
        if old != part:
            shutil.rmtree(old)
    part.rename(target)
    return target


def _compile(directory: Path) -> None:
    """Spare the slow processor of the guest the work, where this interpreter makes the same code."""
    if sys.version_info[:2] == _PYTHON:
        from py_compile import PycInvalidationMode

        compileall.compile_dir(directory, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


def make_project_disk(image: Path, work: Path) -> None:
    """The checkout, and beside it a virtual environment that runs it.  Errors: GuestFailure."""
    tree = work / "project"
    tree.mkdir()
    for name in ("src", "tests"):
        shutil.copytree(TOP / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(TOP / name, tree / name)
    _compile(tree / "src")
    environment = tree / "venv"
    site = environment / f"lib/python{_PYTHON[0]}.{_PYTHON[1]}/site-packages"
    site.parent.mkdir(parents=True)
    shutil.copytree(_packages(), site, symlinks=True)
    (site / "corten.pth").write_text("/corten/src\n")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    programs = environment / "bin"
    programs.mkdir()
    for name in ("python", "python3"):
        (programs / name).symlink_to("/usr/bin/python3")
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        script = programs / name
        script.write_text(
            f"#!/corten/venv/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        script.chmod(0o755)
    make_disk(image, "1G", tree)
    shutil.rmtree(tree)


def make_disk(image: Path, size: str, content: Path | None = None) -> None:
    """A sparse file with ext4.  Errors: GuestFailure."""
    with open(image, "wb") as file:
        file.truncate(_bytes(size))
    options = ["-O", "^has_journal", "-d", str(content)] if content else []
    command = ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0", *options, str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestFailure(f"mke2fs: {done.stderr[-1000:]}")


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]


# -- machines ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ran inside."""

    code: int
    output: str
    timed_out: bool = False


class Guest:
    """One virtual machine.  Its disks are in ``directory``: what is written to /state outlives a boot, nothing else.

    init:    the guest's PID 1: our own tiny one, or systemd
    options: of the kernel's command line
    """

    OWN_INIT = "/corten/tests/vm/inside/init"
    SYSTEMD = "/sbin/init"

    def __init__(
        self, directory: Path, *, init: str = OWN_INIT, memory_mb: int = 3072, processors: int = 2, options: str = ""
    ) -> None:
        self.directory = directory
        self.init = init
        self._options = options
        self._memory_mb = memory_mb
        self._processors = processors
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._wire: socket.socket | None = None
        self._pending = b""
        self.facts: dict[str, str] = {}

    def __enter__(self) -> Self:
        build()
        self.directory.mkdir(parents=True, exist_ok=True)
        make_project_disk(self.directory / "project.img", self.directory)
        make_disk(self.directory / "state.img", "6G")
        with open(self.directory / "swap.img", "wb") as file:
            file.truncate(_bytes("512M"))
        try:
            self.boot()
        except BaseException:
            self.power_cut()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()
        for name in ("project.img", "state.img", "swap.img"):
            (self.directory / name).unlink(missing_ok=True)

    @property
    def console(self) -> str:
        """What the kernel and init have said."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "console.log").read_text(errors="replace")
        return ""

    def boot(self) -> None:
        """Returns when the agent answers.  Errors: GuestFailure."""
        self._listener = socket.socket(socket.AF_UNIX)
        address = self.directory / "agent.sock"
        address.unlink(missing_ok=True)
        self._listener.bind(str(address))
        self._listener.listen(1)
        self._listener.settimeout(BOOT_S)
        self._pending = b""
        with open(self.directory / "qemu.log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(address),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.directory)},
            )
        try:
            self._wire, _ = self._listener.accept()
            self.facts = self._receive(time.monotonic() + BOOT_S)["ready"]
        except OSError as error:
            raise GuestFailure(f"the guest does not start: {error}\n{self._last_words()}") from error

    def _command(self, address: Path) -> list[str]:
        disks = [
            (CACHE / "root.img", "snapshot=on"),
            (self.directory / "project.img", "snapshot=on"),
            (self.directory / "state.img", "cache=writeback"),
            (self.directory / "swap.img", "snapshot=on"),
        ]
        return [
            # never without the tests that asked for it
            "setpriv", "--pdeathsig", "KILL", "--",
            "qemu-system-x86_64", "-accel", _accelerator(), "-cpu", "max", "-nodefaults",
            "-smp", str(self._processors), "-m", str(self._memory_mb), "-display", "none", "-no-reboot", "-net", "none",
            "-kernel", str(CACHE / "kernel"), "-initrd", str(CACHE / "initrd"),
            "-append", f"console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off init={self.init} {self._options}",
            "-serial", f"file:{self.directory / 'console.log'}",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={address}",
            "-device", "virtserialport,chardev=agent,name=corten.agent",
            *(
                argument
                for place, how in disks
                for argument in ("-drive", f"file={place},format=raw,if=virtio,{how}")
            ),
        ]  # fmt: skip

    def _last_words(self) -> str:
        log = self.directory / "qemu.log"
        return f"{log.read_text(errors='replace')[-1000:] if log.exists() else ''}\n{self.console[-3000:]}"

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self._wire is not None
        while b"\n" not in self._pending:
            self._wire.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                piece = self._wire.recv(65536)
            except TimeoutError as error:
                raise GuestFailure(f"the guest does not answer\n{self._last_words()}") from error
            if not piece:
                raise GuestFailure(f"the guest has ended\n{self._last_words()}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def run(
        self,
        *command: str,
        cwd: str = "/",
        env: dict[str, str] | None = None,
        timeout: float = 60,
        stdin: str = "",
        check: bool = True,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Done:
        """Run a command inside to its end.  report: gets what it reports.  Errors: GuestFailure, AssertionError."""
        assert self._wire is not None
        order = {"run": command, "cwd": cwd, "env": env or {}, "timeout": timeout, "input": stdin}
        self._wire.settimeout(30)
        self._wire.sendall(json.dumps(order).encode() + b"\n")
        output = ""
        deadline = time.monotonic() + timeout + 30
        while "exit" not in (message := self._receive(deadline)):
            output += message.get("output", "")
            if "report" in message:
                report(message["report"])
        done = Done(message["exit"], output, message["timed_out"])
        if check:
            assert done.code == 0, f"{' '.join(command)}: {done.code}\n{output}"
        return done

    def sh(self, script: str, **options: Any) -> Done:
        return self.run("/bin/sh", "-euc", script, **options)

    def power_cut(self) -> None:
        """The machine is off from one moment to the next; what it had not written is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for end in (self._wire, self._listener):
            if end is not None:
                end.close()
        self._wire = self._listener = None

    def shut_down(self) -> None:
        """As an administrator does it.  Errors: GuestFailure when the machine stays on."""
        assert self._process is not None
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self._process.wait(BOOT_S)
        except subprocess.TimeoutExpired as error:
            raise GuestFailure(f"the guest does not go down\n{self._last_words()}") from error
        self.power_cut()

    def pytest(self, tests: Sequence[str], *, timeout: float, report: Callable[[dict[str, Any]], None]) -> Done:
        """Run tests of the checkout inside."""
        emulated = {"CORTEN_EMULATED": "1"} if _accelerator().startswith("tcg") else {}
        options = ("-q", "-p", "no:cacheprovider", "-p", "report", "-o", "timeout=300", "--basetemp=/state/pytest")
        return self.run(
            "/corten/venv/bin/python", "-m", "pytest", *options, *tests,
            cwd="/corten", env={"PYTHONPATH": "/corten/tests/vm/inside", **emulated}, timeout=timeout, check=False,
            report=report,
        )  # fmt: skip
