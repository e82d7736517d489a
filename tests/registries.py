"""Registries on the loopback, each with a store of its own: Debian's docker-registry, and Corten's."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


class Registry:
    """``start`` and ``stop``; what it keeps stays in ``directory``."""

    name = ""

    def __init__(self, directory: Path, *, password: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._password = password
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.netloc = f"127.0.0.1:{self.port}"
        if password:
            (directory / "htpasswd").write_text(_htpasswd("me", password))

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def store(self) -> Path:
        """What the layout of the distribution project's registry begins at."""
        return self.directory / "store"

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"{self.name} did not start:\n{(self.directory / 'log').read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def manifest(self, repository: str, reference: str) -> tuple[str, dict]:
        """(digest, document) of what a reference names there."""
        connection = http.client.HTTPConnection(self.netloc, timeout=10)
        headers = {"Accept": ACCEPT}
        if self._password:
            headers["Authorization"] = "Basic " + base64.b64encode(f"me:{self._password}".encode()).decode()
        connection.request("GET", f"/v2/{repository}/manifests/{reference}", headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status == 200, body
        return response.headers["docker-content-digest"], json.loads(body)


class DockerRegistry(Registry):
    """Debian's docker-registry."""

    name = "docker-registry"

    def command(self) -> list[str]:
        auth = f"auth: {{htpasswd: {{realm: test, path: {self.directory}/htpasswd}}}}\n" if self._password else ""
        file = self.directory / "config.yml"
        file.write_text(
            "version: 0.1\nlog: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.store}}}, delete: {{enabled: true}}}}\n"
            f'http: {{addr: "{self.netloc}"}}\n{auth}'
        )
        return ["docker-registry", "serve", str(file)]


class CortenRegistry(Registry):
    """``corten registry serve``.  options: further ones"""

    name = "corten registry serve"

    def __init__(self, directory: Path, *options: str, password: str = "") -> None:
        super().__init__(directory, password=password)
        self.options = options

    def command(self) -> list[str]:
        auth = ["--htpasswd", str(self.directory / "htpasswd")] if self._password else []
        return [
            sys.executable, "-m", "corten", "registry", "serve", "--root", str(self.store), "-l", self.netloc,
            *auth, *self.options,
        ]  # fmt: skip


def _htpasswd(user: str, password: str) -> str:
    """A line with a bcrypt hash, made by crypt(3)."""
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    made = library.crypt(password.encode(), b"$2y$05$abcdefghijklmnopqrstuu")
    assert made is not None
    assert made.startswith(b"$2y$")
    return f"{user}:{made.decode()}\n"
