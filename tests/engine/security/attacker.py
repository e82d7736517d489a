"""What the attacks share: hostile images, the canaries that nobody may touch, and programs that need no compiler.

An attack is a function that tries one row of the table of docs/security.md on an engine through its API.  It returns
how it was stopped, raises ``Escaped`` when it succeeded, and asserts its own marker: that it really was carried out.
The same functions run against cortend in the tests and against dockerd for the table (bench/attacks).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corten
from daemons import Daemon, Engine

PYTHON = os.path.realpath(sys.executable)
SECRET = "untouched"
# values of the host that an attack aims at
_SYSCTLS = (
    "kernel/core_pattern", "kernel/msgmax", "kernel/domainname", "vm/overcommit_memory",
    "net/ipv4/ip_forward",
)  # fmt: skip


class Escaped(AssertionError):
    """The attack succeeded."""


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of an image that is a symbolic link."""

    target: str


@dataclass(frozen=True, slots=True)
class Fifo:
    """An entry of an image that nobody ever writes to."""


Entry = str | bytes | Link | Fifo


@dataclass(frozen=True, slots=True)
class Attack:
    row: str
    what: str
    run: Callable[[Target], str]


ATTACKS: list[Attack] = []


def attack(row: str, what: str) -> Callable[[Callable[[Target], str]], Callable[[Target], str]]:
    """A row of the table."""

    def add(run: Callable[[Target], str]) -> Callable[[Target], str]:
        ATTACKS.append(Attack(row, what, run))
        return run

    return add


class Target:
    """An engine under attack, and the canaries beside it.

    flags: further options of every ``docker run`` (another runtime)
    """

    def __init__(self, engine: Engine, directory: Path, busybox: Path, *flags: str) -> None:
        self.engine = engine
        self.flags = flags
        self._busybox = busybox
        self.canary = directory / "canary"
        self.canary.mkdir(parents=True)
        self.canary.chmod(0o755)
        (self.canary / "file").write_text(SECRET)
        self._images: list[str] = []
        self._before = self.state()

    # -- canaries -----------------------------------------------------------------------------------------------------

    @property
    def upwards(self) -> str:
        """The canaries' directory as a path that leaves any root, if it is not held."""
        return "/" + "../" * 20 + str(self.canary).lstrip("/")

    def programs(self) -> list[Path]:
        """The files that the engine consists of."""
        if isinstance(self.engine, Daemon):
            return [Path(PYTHON), *sorted(Path(corten.__file__).parent.rglob("*.py"))]
        names = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "crun")
        return [path for path in (Path("/usr/sbin") / name for name in names) if path.exists()] + [
            path for path in (Path("/usr/bin") / name for name in names) if path.exists()
        ]

    def state(self) -> dict[str, str]:
        """What must be the same after every attack."""
        found = {name: Path(f"/proc/sys/{name}").read_text() for name in _SYSCTLS}
        for path in sorted(self.canary.rglob("*")):
            status = path.lstat()
            content = path.read_text() if path.is_file() else ""
            found[str(path)] = f"{status.st_mode:o} {status.st_uid} {content}"
        found["canary"] = f"{self.canary.stat().st_mode:o} {self.canary.stat().st_uid}"
        for path in ("/etc/passwd", "/etc/hosts", "/etc/hostname"):
            status = os.stat(path)
            found[path] = f"{status.st_mode:o} {status.st_mtime_ns} {status.st_size}"
        for path in self.programs():
            status = path.stat()
            # nobody can set the time of the last change of an inode back
            found[str(path)] = f"{status.st_ino} {status.st_size} {status.st_ctime_ns}"
        return found

    def check(self) -> None:
        """Errors: Escaped when a canary has changed, or the engine does not answer any more."""
        now = self.state()
        changed = sorted(key for key in {*now, *self._before} if now.get(key) != self._before.get(key))
        if changed:
            raise Escaped(f"changed on the host: {', '.join(changed)}")
        if not self.engine.answers():
            raise Escaped("the engine does not answer any more")

    # -- images and containers ----------------------------------------------------------------------------------------

    def image(self, entries: dict[str, Entry], *changes: str) -> str:
        """A busybox image with further entries; what lies at or below their paths in the original is not in it."""
        name = f"hostile{len(self._images)}-{abs(hash((self.canary, len(self._images)))) % 10**8}"
        buffer = io.BytesIO()
        with tarfile.open(self._busybox) as source, tarfile.open(fileobj=buffer, mode="w") as made:
            for member in source:
                path = member.name.removeprefix("./")
                if not any(path == taken or path.startswith(f"{taken}/") for taken in entries):
                    made.addfile(member, source.extractfile(member) if member.isreg() else None)
            for path, entry in entries.items():
                add_entry(made, path, entry)
        options = [word for change in ('CMD ["sh"]', "ENV PATH=/bin", *changes) for word in ("-c", change)]
        self.engine.run(["docker", "import", *options, "-", name], input=buffer.getvalue().decode("latin-1"),
                        encoding="latin-1")  # fmt: skip
        self._images.append(name)
        return name

    def docker(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("check", False)
        return self.engine.docker(*words, **options)

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """``docker run --rm``; never checked: to be refused is a good end."""
        return self.docker("run", "--rm", *self.flags, *words, **options)

    def sh(self, script: str, *flags: str, image: str = "busybox", **options: Any) -> str:
        """What a script prints in a container of its own."""
        done = self.run(*flags, image, "sh", "-c", script, **options)
        return done.stdout + done.stderr

    def python(self, program: str, *flags: str, image: str = "busybox") -> str:
        """What a Python program prints in a container: the host's interpreter, read-only."""
        done = self.run(*self.library(), *flags, image, PYTHON, "-S", "-c", program)
        return done.stdout + done.stderr

    @staticmethod
    def library() -> list[str]:
        """Mounts that bring an interpreter into a container."""
        places = ["/usr", *(path for path in ("/lib", "/lib64") if os.path.exists(path))]
        if not os.path.realpath(sys.base_prefix).startswith("/usr"):
            places.append(os.path.realpath(sys.base_prefix))
        return [word for place in places for word in ("-v", f"{place}:{place}:ro")]

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[str]:
        """The name of a container in the background, removed at the end."""
        name = f"attacker{time.monotonic_ns()}"
        done = self.docker("run", "-d", "--name", name, *self.flags, *words)
        assert done.returncode == 0, done.stderr
        try:
            yield name
        finally:
            self.docker("rm", "-f", "-v", name)

    def wait_for(self, name: str, word: str, timeout_s: float = 20) -> str:
        """What a container has printed, once a word is in it."""
        deadline = time.monotonic() + timeout_s
        while word not in (text := self.docker("logs", name).stdout):
            assert time.monotonic() < deadline, f"{name} has not printed {word!r}: {text[-500:]}"
            time.sleep(0.05)
        return text

    def processes(self) -> list[int]:
        """The engine's own processes on the host: those that were started for its directory."""
        marker = str(self.engine.directory).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marker in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, bytes]:
        return self.engine.request(method, path, body, **options)

    def close(self) -> None:
        for name in self._images:
            self.docker("rmi", "-f", name)


def add_entry(archive: tarfile.TarFile, path: str, entry: Entry) -> None:
    info = tarfile.TarInfo(path)
    info.mode = 0o755
    data = b""
    if isinstance(entry, Link):
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
    elif isinstance(entry, Fifo):
        info.type = tarfile.FIFOTYPE
    elif path.endswith("/"):
        info.type = tarfile.DIRTYPE
    else:
        data = entry.encode() if isinstance(entry, str) else entry
        info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for info, data in members:
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def escaped_if(condition: object, how: str) -> None:
    if condition:
        raise Escaped(how)
