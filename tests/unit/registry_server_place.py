"""A registry server in this process, and a client that sends what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corten.oci import descriptor as media
from corten.registry.server import composition
from corten.registry.server.connection import Connection
from corten.registry.server.metrics import Metrics
from corten.registry.server.service import LIMITS, MetricsService, Service
from corten.registry.server.settings import Settings
from corten.tls import server_context

EMPTY = b"{}"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of the first error."""
        return str(self.document["errors"][0]["code"])


@dataclass
class Client:
    """Sends requests over one connection."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    connection: http.client.HTTPConnection | None = None

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.connection.request(method, path, body, sent)
        response = self.connection.getresponse()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
        if response.will_close:
            self.close()
        return answer

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # -- what many tests begin with -----------------------------------------------------------------------------------

    def push_blob(self, name: str, content: bytes) -> str:
        digest = sha256(content)
        answer = self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", content)
        assert answer.status == 201, answer
        return digest

    def push_manifest(self, name: str, reference: str = "", *, layers: tuple[bytes, ...] = (), **more: Any) -> str:
        """An OCI manifest with its blobs; its digest."""
        self.push_blob(name, EMPTY)
        for layer in layers:
            self.push_blob(name, layer)
        body = manifest(layers, **more)
        digest = sha256(body)
        answer = self("PUT", f"/v2/{name}/manifests/{reference or digest}", body, Content_Type=media.OCI_MANIFEST)
        assert answer.status == 201, answer
        return digest


def manifest(layers: tuple[bytes, ...] = (), **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": {"mediaType": media.OCI_CONFIG, "digest": sha256(EMPTY), "size": len(EMPTY)},
        "layers": [
            {"mediaType": media.OCI_LAYER + "+gzip", "digest": sha256(layer), "size": len(layer)} for layer in layers
        ],
        **more,
    }
    return json.dumps(document).encode()


@dataclass
class Place:
    """The server: its port, and its parts for what no request can show."""

    root: Path
    port: int
    metrics_port: int
    service: Service
    content: composition.Content
    loop: asyncio.AbstractEventLoop

    def client(self, **headers: str) -> Client:
        return Client(self.port, {name.replace("_", "-"): value for name, value in headers.items()})

    def run(self, coroutine: Any) -> Any:
        """A coroutine, in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def collect(self, **options: Any) -> Any:
        """Collect garbage, as the settings say but for ``options``."""
        content = replace(self.content, settings=replace(self.content.settings, **options))
        return self.run(content.collection().run())


@contextlib.contextmanager
def served(root: Path, *, limits: dict[str, Any] | None = None, **options: Any) -> Iterator[Place]:
    settings = Settings(root=root, **options)
    ready: Future[Place] = Future()
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(settings, limits or {}, ready, stop)))
    thread.start()
    try:
        yield ready.result(20)
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


async def _serve(settings: Settings, limits: dict[str, Any], ready: Future[Place], stop: threading.Event) -> None:
    try:
        metrics = Metrics(1)
        content = composition.content(settings, metrics)
        service = composition.service(settings, content, metrics)
        service.limits = replace(LIMITS, **limits)
        other = MetricsService(content.repositories, metrics=metrics)
        loop = asyncio.get_running_loop()
        context = server_context(*settings.tls) if settings.tls else None
        server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, ssl=context)
        beside = await loop.create_server(lambda: Connection(other), "127.0.0.1", 0)
        ports = [item.sockets[0].getsockname()[1] for item in (server, beside)]
        watch = asyncio.ensure_future(service.watch())
        ready.set_result(Place(settings.root, *ports, service, content, loop))
    except BaseException as error:
        ready.set_exception(error)
        return
    await asyncio.to_thread(stop.wait)
    server.close()
    beside.close()
    await service.close(5)
    await other.close(5)
    watch.cancel()
    await content.close()
