"""Ordinary users with daemons of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from daemons import BIN, Engine

HERE = Path(__file__).parent


class User(Engine):
    """A user whom nobody else on the machine knows; its daemon is started by its first command.

    subids: (first, count) of its subordinate ids, None without
    """

    def __init__(self, directory: Path, uid: int, subids: tuple[int, int] | None) -> None:
        super().__init__(directory)
        self.uid = uid
        self.subids = subids
        self.name = f"corten-test-{uid}"
        self.home = directory / "home"
        self.runtime = directory / "runtime"
        for place in (self.home, self.runtime):
            place.mkdir(mode=0o700)
            os.chown(place, uid, uid)
        directory.chmod(0o755)
        self.exec_root = self.runtime / "corten"
        self.data_root = self.home / ".local/share/corten"
        self.socket = self.exec_root / "corten.sock"

    def run(  # type: ignore[override]  # a user's command has an environment of its own
        self, command: list[str], *, check: bool = True, timeout: float = 60, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """A command of the user.  environment: additions; None takes a variable away"""
        done = subprocess.run(
            [*self._becoming(""), *command],
            env=self._environment(environment),
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, (
                f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}{self.log}"
            )
        return done

    def _becoming(self, group: str) -> list[str]:
        account = {
            "name": self.name,
            "uid": self.uid,
            "home": str(self.home),
            "subids": self.subids,
            "visible": [sys.base_prefix, sys.prefix, str(HERE.parent)],
            "group": group,
        }
        return [sys.executable, str(HERE / "as_user.py"), json.dumps(account)]

    def _environment(self, changes: dict[str, str | None]) -> dict[str, str]:
        variables = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "USER": self.name,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.home),
            **changes,
        }
        return {name: value for name, value in variables.items() if value is not None}

    def start(self, group: str = "") -> None:
        """Start the daemon by hand.  group: the control group that it is started in"""
        with open(self.directory / "log", "ab") as log:
            subprocess.Popen(
                [*self._becoming(group), "cortend"],
                env=self._environment({}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until(self.answers)

    def corten(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(["corten", *arguments], **options)

    @property
    def log(self) -> str:
        """What the daemon has said."""
        files = (self.data_root / "cortend.log", self.directory / "log")
        return "".join(file.read_text() for file in files if file.exists())

    def give(self, source: Path, name: str) -> Path:
        """A file of the user's own with the content of another."""
        target = self.home / name
        shutil.copyfile(source, target)
        os.chown(target, self.uid, self.uid)
        return target

    def processes(self) -> dict[int, str]:
        """Every process with an id of the user's, by number: its name."""
        first, count = self.subids or (0, 0)
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                owner = directory.stat().st_uid
                state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and (owner == self.uid or first <= owner < first + count):
                    found[int(directory.name)] = (directory / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def named(self, name: str) -> int:
        """The one process of that name."""
        (pid,) = (pid for pid, found in self.processes().items() if found == name)
        return pid

    @property
    def outer(self) -> int:
        """The daemon's process outside of the namespaces: the parent of the other one, which listens."""
        return int(Path(f"/proc/{self.inner}/stat").read_text().rpartition(")")[2].split()[1])

    @property
    def inner(self) -> int:
        """The daemon itself: who listens on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("3i", credentials)[0]

    def end_daemon(self, number: int = signal.SIGTERM) -> None:
        """End it and wait until both of its processes have gone."""
        pids = {self.outer, self.inner}
        os.kill(self.outer, number)
        self.wait_until(lambda: not pids & set(self.processes()))

    def wait_until(self, condition: Any, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"still: {self.processes()}\n{self.log}"
            time.sleep(0.02)

    def leave(self) -> None:
        """Nothing of the user stays: neither a container nor a process."""
        if self.answers():
            if ids := self.corten("ps", "-aq", "--no-trunc").stdout.split():
                self.corten("rm", "-f", "-v", *ids)
            self.end_daemon()
        self.wait_until(lambda: not self.processes())
