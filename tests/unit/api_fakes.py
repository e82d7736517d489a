"""A small engine without containers, and a server for it on a unix socket: what the tests of the API edge talk to."""

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from corten.api.server import Server
from corten.buildkit.sessions import Sessions
from corten.dockerapi.network import filter_networks
from corten.engine.metrics import Metrics
from corten.engine.network_records import host_record
from corten.errors import CommandNotFound, Conflict, Forbidden, InvalidParameter, NotFound

STAT = {"name": "etc", "size": 4096, "mode": 2147484141, "mtime": "2024-05-01T10:00:00Z", "linkTarget": ""}


@dataclass
class FakeSession:
    tty: bool
    sock: socket.socket


@dataclass
class FakeLog:
    tty: bool
    chunks: Any


@dataclass
class Calls:
    """What the edge asked the engine for, in order."""

    seen: list[tuple[str, tuple, dict]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def note(self, name, *args, **kwargs):
        self.seen.append((name, args, kwargs))

    def last(self):
        return self.seen[-1]


def frame(stream: int, payload: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


class FakeContainers:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.views = self.files = self
        self.names = {"web": "a" * 64}
        self.tty = False
        self.program: socket.socket | None = None  # the far end of the last attach
        self.attached = threading.Event()
        self.release = asyncio.Event()
        self.entered = threading.Event()
        self.exit = asyncio.Event()
        self.log_chunks: list[bytes] = [frame(1, b"hello\n"), frame(2, b"oops\n")]

    def _id(self, reference):
        for name, container_id in self.names.items():
            if reference in (name, container_id, container_id[:12]):
                return container_id
        raise NotFound(f"No such container: {reference}")

    async def summaries(self, *, all=False, limit=0, size=False, filters=None):
        self.calls.note("list", all=all, limit=limit, size=size, filters=filters)
        return [
            {"Id": value, "Names": [f"/{key}"], "Image": "host", "HostConfig": {"NetworkMode": "none"}}
            for key, value in self.names.items()
        ]

    async def create(self, request, name, platform=""):
        self.calls.note("create", request, name, platform)
        if name in self.names:
            raise Conflict(f'Conflict. The container name "/{name}" is already in use')
        self.names[name] = hashlib.sha256(name.encode()).hexdigest()
        return {"Id": self.names[name], "Warnings": []}

    async def inspect(self, reference, size=False):
        self.calls.note("inspect", reference, size)
        container_id = self._id(reference)
        return {
            "Id": container_id,
            "Name": f"/{reference}",
            "State": {"Status": "running", "Running": True},
            "Config": {"Tty": self.tty, "Labels": {}},
            "HostConfig": {"LogConfig": {"Type": "json-file"}},
            "NetworkSettings": {"IPAddress": "", "Networks": {}},
        }

    async def top(self, reference, ps_args=""):
        self.calls.note("top", reference, ps_args)
        self._id(reference)
        return {"Titles": ["PID", "CMD"], "Processes": [["1", "sh"]]}

    async def xray(self, reference):
        self._id(reference)
        return {"Id": reference, "Processes": []}

    async def changes(self, reference):
        self._id(reference)
        return [{"Path": "/tmp/x", "Kind": 1}]

    async def start(self, reference, detach_keys=""):
        self.calls.note("start", reference, detach_keys)
        self._id(reference)
        return reference != "web"

    async def stop(self, reference, signal="", timeout_s=None):
        self.calls.note("stop", reference, signal, timeout_s)
        self._id(reference)
        self.entered.set()
        if timeout_s == 99:
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.calls.cancelled.append("stop")
                raise
            self.calls.finished.append("stop")
        return True

    async def restart(self, reference, signal="", timeout_s=None):
        self.calls.note("restart", reference, signal, timeout_s)
        self._id(reference)

    async def kill(self, reference, signal="SIGKILL"):
        self.calls.note("kill", reference, signal)
        self._id(reference)

    async def pause(self, reference):
        self._id(reference)

    async def unpause(self, reference):
        self._id(reference)

    async def rename(self, reference, name):
        self.calls.note("rename", reference, name)

    async def connect(self, reference, network, settings):
        self.calls.note("connect", reference, network, settings)

    async def disconnect(self, reference, network, *, force=False):
        self.calls.note("disconnect", reference, network, force=force)

    async def update(self, reference, request):
        self.calls.note("update", reference, request)
        return {"Warnings": None}

    async def wait(self, reference, condition="not-running"):
        self.calls.note("wait", reference, condition)
        self._id(reference)
        if condition not in ("", "not-running", "next-exit", "removed"):
            raise InvalidParameter(f'invalid condition: "{condition}"')
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self.calls.cancelled.append("wait") if done.cancelled() else None)
        self.waiting = future
        self.entered.set()
        return future

    async def remove(self, reference, *, force=False, volumes=False, link=False):
        self.calls.note("remove", reference, force=force, volumes=volumes, link=link)
        container_id = self._id(reference)
        self.names = {key: value for key, value in self.names.items() if value != container_id}

    async def prune(self, filters):
        self.calls.note("prune", filters)
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}

    async def resize(self, reference, height, width):
        self.calls.note("resize", reference, height, width)

    async def logs(self, reference, query):
        self.calls.note("logs", reference, query)
        self._id(reference)
        return FakeLog(self.tty, self._log(query.follow))

    async def _log(self, follow):
        try:
            for chunk in self.log_chunks:
                yield chunk
            if follow:
                self.entered.set()
                await self.release.wait()
        finally:
            self.calls.finished.append("logs")

    async def attach(self, reference, query):
        self.calls.note("attach", reference, query)
        self._id(reference)
        ours, self.program = socket.socketpair()
        ours.setblocking(False)
        self.attached.set()
        return FakeSession(self.tty, ours)

    async def stats(self, reference, *, stream=True, one_shot=False):
        self._id(reference)
        self.calls.note("stats", stream=stream, one_shot=one_shot)
        number = 0
        try:
            while True:
                yield {"read": number}
                number += 1
                if not stream:
                    return
                if number == 3:
                    self.entered.set()
                    await self.release.wait()
        finally:
            self.calls.finished.append("stats")

    async def export(self, reference):
        self._id(reference)

        async def chunks():
            for _ in range(8):
                yield b"tar" * 100_000

        return chunks()

    async def stat(self, reference, path):
        self._id(reference)
        if path == "/missing":
            raise NotFound(f"Could not find the file {path} in container {reference}")
        return STAT

    async def get(self, reference, path):
        stat = await self.stat(reference, path)

        async def chunks():
            yield b"archive"

        return stat, chunks()

    async def put(self, reference, path, body, *, no_overwrite_dir_non_dir=False, copy_uid_gid=False):
        self._id(reference)
        if path == "/refused":
            raise InvalidParameter("not a directory")
        size, digest = 0, hashlib.sha256()
        self.entered.set()
        if path == "/slow":
            await self.release.wait()
        try:
            async for chunk in body:
                size += len(chunk)
                digest.update(chunk)
        except Exception as error:
            self.calls.note("archive_put_failed", str(error))
            raise
        except asyncio.CancelledError:
            self.calls.cancelled.append("archive_put")
            raise
        self.calls.note("archive_put", path, size, digest.hexdigest(), no_overwrite_dir_non_dir, copy_uid_gid)


class FakeExecs:
    def __init__(self, calls: Calls, containers: FakeContainers) -> None:
        self.calls = calls
        self.containers = containers
        self.tty = False

    async def create(self, reference, request):
        self.calls.note("exec_create", reference, request)
        if not request.cmd:
            raise InvalidParameter("No exec command specified")
        return "e" * 64 if request.cmd[0] != "missing" else "f" * 64

    async def start(self, exec_id, options):
        self.calls.note("exec_start", exec_id, options)
        if exec_id.startswith("f"):
            raise CommandNotFound('exec: "missing": executable file not found in $PATH')
        if not exec_id.startswith("e"):
            raise NotFound(f"No such exec instance: {exec_id}")
        if options.detach:
            return None
        ours, self.containers.program = socket.socketpair()
        ours.setblocking(False)
        self.containers.attached.set()
        return FakeSession(self.tty, ours)

    async def inspect(self, exec_id):
        return {"ID": exec_id, "Running": False, "ExitCode": 0, "ProcessConfig": {"tty": self.tty}}

    async def resize(self, exec_id, height, width):
        self.calls.note("exec_resize", exec_id, height, width)


class FakeImages:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def _document(self, name):
        if name not in ("host", "busybox:latest", "registry.example/team/app:1"):
            raise NotFound(f"No such image: {name}")
        return {
            "Id": "sha256:" + "b" * 64,
            "RepoTags": [name],
            "Size": 5,
            "Config": {},
            "Created": "2024-05-01T10:00:00Z",
        }

    async def list(self, *, all=False, digests=False, filters=None, shared_size=False):
        self.calls.note("images", all=all, digests=digests, filters=filters)
        return [{"Id": "sha256:" + "b" * 64, "RepoTags": ["host"], "RepoDigests": [], "Size": 5, "Containers": 0}]

    def check_platform(self, name, wanted):
        self.calls.note("check_platform", name, wanted)
        if wanted != "linux/amd64":
            raise NotFound(f"image with reference {name} was found but does not provide the specified platform")

    async def inspect(self, name):
        self.calls.note("image_inspect", name)
        return self._document(name)

    async def history(self, name):
        self._document(name)
        return [{"Id": "x", "Created": 0, "CreatedBy": "", "Tags": None, "Size": 5, "Comment": ""}]

    async def tag(self, name, repo, tag):
        self.calls.note("tag", name, repo, tag)

    async def remove(self, name, *, force=False, no_prune=False):
        self.calls.note("image_remove", name, force=force, no_prune=no_prune)
        return [{"Untagged": name}]

    async def prune(self, filters):
        return {"ImagesDeleted": None, "SpaceReclaimed": 0}

    async def load(self, body, *, quiet=True, platform=""):
        self.calls.note("load", platform)
        size = 0
        async for chunk in body:
            size += len(chunk)
        if not size:
            raise InvalidParameter("unexpected EOF")
        yield {"stream": f"Loaded {size}\n"}
        if size == 13:
            raise InvalidParameter("archive is broken")

    async def save(self, names, format="docker"):
        self.calls.note("save", tuple(names), format)
        for name in names:
            self._document(name)
            yield b"image" * 10

    async def import_(self, body, query):
        self.calls.note("import", query)
        size = 0
        async for chunk in body:
            size += len(chunk)
        yield {"status": "sha256:" + "c" * 64}

    async def commit(self, query, config):
        self.calls.note("commit", query, config)
        return {"Id": "sha256:" + "d" * 64}


class FakeVolumes:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def list(self, filters):
        return {"Volumes": [], "Warnings": None}

    async def create(self, request):
        self.calls.note("volume_create", request)
        return {"Name": request.name, "Driver": request.driver, "Mountpoint": "/x", "Labels": request.labels}

    async def inspect(self, name):
        raise NotFound(f"get {name}: no such volume")

    async def remove(self, name, force):
        self.calls.note("volume_remove", name, force)

    async def prune(self, filters):
        self.calls.note("volume_prune", filters)
        return {"VolumesDeleted": [], "SpaceReclaimed": 0}


class FakeEvents:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def subscribe(self, since, until, filters):
        self.calls.note("events", since, until, filters)
        yield {"Type": "container", "Action": "start", "time": 1, "timeNano": 1_000_000_000}
        if until is None:
            await asyncio.Event().wait()


class FakeSystem:
    async def version(self):
        return {"Version": "0.1.0", "ApiVersion": "1.56", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}

    async def info(self):
        raise RuntimeError("secret detail")

    async def disk_usage(self, types):
        return {"LayersSize": 0, "Types": types}

    async def xray(self):
        return {"Kernel": "6.1", "Features": []}

    async def security(self):
        return {"Checks": [], "Counts": {"pass": 0, "warn": 0, "info": 0}}


class FakeNetworks:
    """``host`` and ``none``; what is asked for is noted."""

    def __init__(self, calls):
        self.calls = calls
        self.documents = [host_record(name).document({}) for name in ("none", "host")]

    async def list(self, filters):
        return filter_networks(self.documents, filters)

    async def inspect(self, reference, scope=""):
        for document in self.documents:
            if reference in (document["Name"], document["Id"], document["Id"][:12]):
                return document
        raise NotFound(f"network {reference} not found")

    async def create(self, request):
        self.calls.note("network_create", request)
        return {"Id": "n" * 64, "Warning": ""}

    async def remove(self, reference):
        name = (await self.inspect(reference))["Name"]
        raise Forbidden(f"{name} is a pre-defined network and cannot be removed")

    async def prune(self, filters):
        return {"NetworksDeleted": None}


class FakeRegistries:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def pull(self, image, tag, platform, auth):
        self.calls.note("pull", image, tag, platform, auth)
        if image == "secret":
            raise NotFound("pull access denied for secret, repository does not exist or may require 'docker login'")
        yield {"status": f"Pulling from library/{image}", "id": tag}
        if image == "broken":
            raise Conflict("the registry went away")
        yield {"status": f"Status: Downloaded newer image for {image}:{tag}"}

    async def push(self, image, tag, auth):
        self.calls.note("push", image, tag, auth)
        yield {"status": f"The push refers to repository [docker.io/{image}]"}

    async def login(self, auth):
        self.calls.note("login", auth)
        return {"Status": "Login Succeeded", "IdentityToken": ""}

    async def distribution(self, image, auth):
        self.calls.note("distribution", image, auth)
        return {"Descriptor": {"mediaType": "m", "digest": "sha256:0", "size": 1}, "Platforms": []}

    async def search(self, term, limit, filters, auth):
        self.calls.note("search", term, limit, filters, auth)
        return [{"name": term, "description": "", "star_count": 1, "is_official": False, "is_automated": False}]


class FakeHistory:
    def all(self):
        return []

    def get(self, ref):
        raise NotFound(f"no record found for build {ref}")

    log = remove = get


class FakeBuilds:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.history = FakeHistory()

    async def build(self, query, body, credentials):
        content = b"".join([chunk async for chunk in body])
        self.calls.note("build", query, content, credentials)
        if query.target == "absent":
            raise InvalidParameter("failed to reach build target absent in Dockerfile")
        yield {"stream": "Step 1/1 : FROM x"}
        if query.target == "late":
            raise Conflict("too late")

    def cancel(self, build_id):
        self.calls.note("cancel_build", build_id)

    async def prune(self, *, everything, space, wanted):
        self.calls.note("prune_builds", everything, space, wanted)
        return {"CachesDeleted": None, "SpaceReclaimed": 0}


class FakeChecks:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def run(self, options, credentials):
        self.calls.note("check", options, credentials)
        yield {"Kind": "layer", "Id": "x", "Problem": "it is missing", "Images": [], "Repaired": False, "Repair": ""}
        yield {"Checked": {}, "Problems": 1, "Repaired": 0}


class FakeEngine:
    facts = SimpleNamespace(cgroup_v2=False)

    def __init__(self) -> None:
        self.calls = Calls()
        self.containers = FakeContainers(self.calls)
        self.networks = FakeNetworks(self.calls)
        self.execs = FakeExecs(self.calls, self.containers)
        self.images = FakeImages(self.calls)
        self.volumes = FakeVolumes(self.calls)
        self.registries = FakeRegistries(self.calls)
        self.builds = FakeBuilds(self.calls)
        self.checks = FakeChecks(self.calls)
        self.mirrors = ["https://mirror.example"]
        self.events = FakeEvents(self.calls)
        self.system = FakeSystem()
        self.metrics = Metrics()
        self.sessions = Sessions()

    def set_mirrors(self, urls):
        self.mirrors = urls


class ApiServer:
    """The real server with a fake engine, on a loop in a thread of its own."""

    def __init__(self, *, hosts=(), **options) -> None:
        self.hosts = list(hosts)
        self.directory = Path(tempfile.mkdtemp(prefix="corten-test-api-"))
        self.path = self.directory / "api.sock"
        self.options = options
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self):
        self.thread.start()

        async def start():
            self.engine = FakeEngine()
            self.server = Server(self.engine, [f"unix://{self.path}", *self.hosts], **self.options)
            self.server.describe(self.engine.metrics)
            await self.server.start()

        try:
            self.run(start())
        except BaseException:
            self._stop()
            raise
        return self

    def run(self, coroutine, timeout=10):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def call(self, function, *args):
        async def work():
            return function(*args)

        return self.run(work())

    def __exit__(self, *exc):
        try:
            self.run(self.server.close(1))
        finally:
            self._stop()

    def _stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
        shutil.rmtree(self.directory)

    def connect(self) -> "Client":
        return Client(self.path)

    def ask(self, method, path, body=None, headers=None) -> "Answer":
        with self.connect() as client:
            return client.ask(method, path, body, headers)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def message(self):
        return self.json["message"]


class Client:
    """A client that sees every byte."""

    def __init__(self, path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(str(path))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        data = self.sock.recv(65536)
        self.buffer += data
        return data

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self.receive():
                raise EOFError(self.buffer)
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self.receive():
                raise EOFError(self.buffer)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_all(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            while self.receive():
                pass
        data, self.buffer = self.buffer, b""
        return data

    def read_head(self) -> tuple[int, dict[str, str]]:
        lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"duplicate {name}"
            headers[name.lower()] = value
        return int(lines[0].split(" ")[1]), headers

    def read_chunk(self) -> bytes:
        size = int(self.read_until(b"\r\n"), 16)
        data = self.read_exactly(size)
        assert self.read_exactly(2) == b"\r\n"
        return data

    def read_answer(self, method="GET") -> Answer:
        status, headers = self.read_head()
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while chunk := self.read_chunk():
                body += chunk
            return Answer(status, headers, body)
        return Answer(status, headers, self.read_exactly(int(headers["content-length"])))

    def request(self, method, path, body=None, headers=None) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: docker"]
        fields = dict(headers or {})
        if body is not None:
            fields.setdefault("Content-Type", "application/json")
            fields["Content-Length"] = str(len(body))
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    def ask(self, method, path, body=None, headers=None) -> Answer:
        self.request(method, path, body, headers)
        return self.read_answer(method)


def flood(sock: socket.socket, block: bytes, limit: int) -> int:
    """Send until nothing is taken any more, or ``limit`` bytes; returns how many were taken."""
    sent = 0
    with contextlib.suppress(BlockingIOError, TimeoutError):
        while sent < limit:
            sent += sock.send(block)
    return sent


def path_stat(answer: Answer) -> Any:
    return json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
