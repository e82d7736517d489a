"""Registries on the loopback to measure with: Debian's docker-registry, and Corten's own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """A server with a store of its own in ``directory``."""

    name = ""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.netloc = f"127.0.0.1:{self.port}"
        with open(directory / "registry.log", "wb") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not start")

    def _command(self) -> list[str]:
        raise NotImplementedError

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> str:
        connection = http.client.HTTPConnection(self.netloc, timeout=300)
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:200]!r}")
        return response.headers.get("location", "")

    def put_blob(self, repository: str, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        location = self.request("POST", f"/v2/{repository}/blobs/uploads/").split(self.netloc, 1)[-1]
        self.request("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", content)
        return {"digest": digest, "size": len(content)}

    def put_image(self, repository: str, layers: Iterator[bytes]) -> None:
        descriptors, diff_ids = [], []
        for layer in layers:
            diff_ids.append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
            packer = zlib.compressobj(6, wbits=31)
            packed = packer.compress(layer) + packer.flush()
            descriptors.append({"mediaType": GZIP, **self.put_blob(repository, packed)})
        config = {
            "architecture": "amd64", "os": "linux", "config": {}, "created": "2024-01-01T00:00:00Z",
            "history": [{"created_by": "bench"} for _ in diff_ids],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }  # fmt: skip
        config_blob = {"mediaType": CONFIG, **self.put_blob(repository, json.dumps(config).encode())}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config_blob, "layers": descriptors}
        self.request("PUT", f"/v2/{repository}/manifests/1", json.dumps(document).encode(), MANIFEST)


class DockerRegistry(Registry):
    """Debian's docker-registry, without an access log."""

    name = "docker-registry"

    def _command(self) -> list[str]:
        file = self.directory / "registry.yml"
        file.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.directory}/store}}, delete: {{enabled: true}}}}\n"
            f'http: {{addr: "{self.netloc}"}}\n'
        )
        return ["docker-registry", "serve", str(file)]


class CortenRegistry(Registry):
    """``corten registry serve``."""

    name = "Corten"

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "corten", "registry", "serve",
            "--root", str(self.directory / "store"), "--listen", self.netloc,
        ]  # fmt: skip
