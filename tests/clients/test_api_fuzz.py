# ruff: noqa: E501  # tables of what is wrong read better in long lines
"""Thousands of broken requests against a real daemon: each gets a 4xx that says what is wrong, and the daemon stays as it is.

The requests are made of the published description by a generator with a fixed seed, so that a failure comes again.
What is declared to be left to others answers 501 and 503; every other 5xx is a defect.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_table import Operation, read_table
from test_engine_api import BODIES, QUERIES, SWARM, documented_as_left

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox")]

SEED = int(os.environ.get("CORTEN_FUZZ_SEED", "20240501"))
REQUESTS = int(os.environ.get("CORTEN_FUZZ_REQUESTS", "5000"))
RAW_REQUESTS = 600
# they ask a registry or read until the client leaves, and are asked elsewhere
NOT_HERE = frozenset(("POST /auth", "GET /distribution/{name}/json", "GET /images/search", "POST /images/{name}/push"))

NAMES = (
    "no-such", "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "%00", "a%00b", "%", "%zz", "%f0%28%8c%28",
    "a" * 3000, "-rf", "$(id)", "`id`", "'", "%22", "%0d%0aX-Evil:%201", "sha256:" + "f" * 64, "sha256:zz", "@", ":", "a:b:c",
    "a@sha256:0", "%ef%bb%bf", "%e2%80%ae", "0", "00000000000000000000", "con", ".", "...", "~", "a%2fb%2fc", "A%20B", "*",
    "host", "none", "bridge", "json", "create", "prune", "%C0%AE%C0%AE",
)  # fmt: skip
VALUES = (
    "", "0", "1", "-1", "true", "false", "x", "9" * 30, "-" + "9" * 30, "9223372036854775807", "-9223372036854775808",
    "1e400", "NaN", "0x10", "%00", "%", "%zz", "..%2f..", "a" * 5000, "%7B", "%7B%22label%22%3A%5B", "[]", "%7B%7D", "null",
    "%7B%22a%22%3A%7B%22b%22%3Atrue%7D%7D", "%7B%22dangling%22%3A%5B%22x%22%5D%7D", "%5B" * 200, "%7B%22until%22%3A%5B%22x%22%5D%7D",
    "%7B%22label%22%3A%5B%22a%22%5D%7D", "%7B%22os%22%3A1%7D", "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22z%22%7D",
    "%f0%28", "10m", "2024-13-45", "2024-01-01T00:00:00Z", "ctrl-p,ctrl-q", "ctrl-%00", "/", "//etc", "/proc/self/root",
)  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**200, 1.5, 1e308, "", "x", "\0", "a\0b", "../../etc",
    "a" * 20000, "\ud7ff", "é", [], {}, [None], [[]], [{}], [1, "x"], {"": ""}, {"a": None}, {"a": {"b": {"c": []}}},
    {"x": "\0"}, ["\0"], ["a" * 5000], "-1", "unconfined", "host", "container:no-such", "/", "//", "/proc/self/exe",
)  # fmt: skip
DOCUMENTS: dict[str, dict[str, Any]] = {
    "POST /containers/create": {
        "Image": "busybox", "Cmd": ["true"], "Env": ["A=1"], "Labels": {"a": "b"}, "User": "0", "WorkingDir": "/",
        "Entrypoint": None, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGTERM", "StopTimeout": 1,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000, "Retries": 1}, "Tty": False, "Hostname": "h",
        "HostConfig": {
            "NetworkMode": "none", "Binds": ["vol:/data"], "Memory": 0, "NanoCpus": 0, "PidsLimit": 0, "CapAdd": ["CHOWN"],
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "LogConfig": {"Type": "json-file", "Config": {}},
            "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 511}}],
            "Tmpfs": {"/x": "size=1m"}, "Sysctls": {"net.ipv4.ip_forward": "0"}, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}],
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}], "ShmSize": 65536,
            "SecurityOpt": ["no-new-privileges"], "ExtraHosts": ["a:127.0.0.1"], "Dns": ["127.0.0.1"], "IpcMode": "private",
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}, "GroupAdd": ["0"], "OomScoreAdj": 0,
            "BlkioWeight": 0, "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}], "StorageOpt": {}, "Runtime": "",
            "CpusetCpus": "", "ConsoleSize": [1, 1], "Annotations": {"a": "b"}, "MaskedPaths": ["/proc/x"],
        },
        "NetworkingConfig": {"EndpointsConfig": {"none": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.0.0.1"}}}},
    },
    "POST /containers/{id}/exec": {"Cmd": ["true"], "Env": ["A=1"], "User": "0", "Tty": False, "ConsoleSize": [1, 1],
                                   "DetachKeys": "ctrl-p", "WorkingDir": "/"},
    "POST /containers/{id}/update": {"Memory": 1, "CpuShares": 2, "RestartPolicy": {"Name": "no"}, "PidsLimit": 1,
                                     "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}]},
    "POST /volumes/create": {"Name": "vol", "Driver": "local", "DriverOpts": {"type": "tmpfs"}, "Labels": {"a": "b"}},
    "POST /networks/create": {"Name": "net", "Driver": "bridge", "Internal": False, "Options": {"a": "b"}, "Labels": {},
                              "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.99.0.0/24", "Gateway": "10.99.0.1"}]}},
    "POST /networks/{id}/connect": {"Container": "web", "EndpointConfig": {"Aliases": ["a"], "IPAMConfig": {}}},
    "POST /networks/{id}/disconnect": {"Container": "web", "Force": True},
    "POST /exec/{id}/start": {"Detach": False, "Tty": False, "ConsoleSize": [1, 1]},
    "POST /commit": {"Cmd": ["true"], "Labels": {"a": "b"}},
}  # fmt: skip
THERE = {"containers": "web", "images": "busybox", "networks": "none", "volumes": "vol"}
ENDS_IT = frozenset(("DELETE /images/{name}", "DELETE /containers/{id}", "POST /containers/{id}/rename"))
CONTENT_TYPES = ("application/x-tar", "text/plain", "", "application/json; charset=x", "a" * 300)
VERSIONS = (
    "",
    "",
    "",
    "/v1.24",
    "/v1.40",
    "/v1.44",
    "/v1.56",
    "/v1.99",
    "/v0",
    "/v1",
    "/v1.",
    "/v1.41.1",
    "/v99999999999",
    "/vx",
)


@pytest.fixture(scope="module")
def target(tmp_path_factory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    """A daemon that may be filled and emptied, without networks of its own."""
    made = Daemon(tmp_path_factory.mktemp("fuzzed"), "--bridge", "none")
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


class Client:
    """Keeps its connection while the daemon does."""

    def __init__(self, daemon: Daemon) -> None:
        self._path = str(daemon.socket)
        self._sock: socket.socket | None = None

    def exchange(self, request: bytes, *, end: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body; status 0 when the daemon closes without a word.  ``end``: nothing more is sent."""
        for fresh in (False, True):
            sock = self._open(fresh=fresh)
            try:
                sock.sendall(request)
                if end:
                    sock.shutdown(socket.SHUT_WR)
                answer = self._read(sock, has_body=not request.startswith(b"HEAD "))
            except (BrokenPipeError, ConnectionResetError):
                answer = None
            except TimeoutError:
                pytest.fail(f"no answer: {request[:1000]!r}")
            if answer is not None:
                if end:
                    self.close()
                return answer
            self.close()
        return 0, {}, b""

    def _open(self, *, fresh: bool) -> socket.socket:
        if self._sock is None or fresh:
            self.close()
            self._sock = socket.socket(socket.AF_UNIX)
            self._sock.settimeout(20)
            self._sock.connect(self._path)
        return self._sock

    def _read(self, sock: socket.socket, *, has_body: bool) -> tuple[int, dict[str, str], bytes] | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        status = int(lines[0].split(" ")[1])
        if not has_body:
            return status, headers, b""
        if "content-length" not in headers or headers.get("connection") == "close":
            if "content-length" in headers:
                while len(body) < int(headers["content-length"]) and (piece := sock.recv(65536)):
                    body += piece
                body = body[: int(headers["content-length"])]
            self.close()  # a stream, or the last answer
            return status, headers, body
        while len(body) < int(headers["content-length"]):
            piece = sock.recv(65536)
            assert piece, "an answer was cut short"
            body += piece
        length = int(headers["content-length"])
        if len(body) > length:
            self.close()  # the request was two
        return status, headers, body[:length]

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Generator:
    """Makes requests of rows."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def request(self, row: Operation) -> tuple[bytes, bool]:
        """(bytes, whether the body ends before it should)."""
        chance = self.random.random
        there = THERE.get(row.path.split("/")[1], "no-such")
        path = "/".join(
            (there if chance() < 0.4 and row.key not in ENDS_IT else self.random.choice(NAMES))
            if part.startswith("{")
            else part
            for part in row.path.split("/")
        )
        version = self.random.choice(VERSIONS) if chance() < 0.2 else ""
        fields = [
            f"{item.name}={self.random.choice(VALUES)}"
            for item in row.parameters
            if item.place == "query" and chance() < 0.15
        ]
        if QUERIES.get(row.key) and chance() < 0.5:
            fields.append(QUERIES[row.key])
        if row.key == "GET /events":
            fields.append("until=1")
        if row.key == "POST /images/create":
            fields = [field for field in fields if not field.startswith("fromImage")]
        self.random.shuffle(fields)
        target = version + path + ("?" + "&".join(fields) if fields else "")
        if chance() < 0.03:
            target += self.random.choice(("?", "#x", "&&", "?;", "?" + "a=1&" * 1200, "//", "/../..", "?%00=1"))
        body = self.body(row)
        headers = ["Host: docker"]
        cut = False
        if body is not None:
            content_type = self.random.choice(CONTENT_TYPES) if chance() < 0.08 else "application/json"
            if content_type:
                headers.append(f"Content-Type: {content_type}")
            if chance() < 0.1:
                return self.chunked(row, target, headers, body)
            length = len(body)
            if chance() < 0.03:
                cut, length = True, length + self.random.randint(1, 1000)
            headers.append(f"Content-Length: {length}")
        elif row.method in ("POST", "PUT"):
            headers.append("Content-Length: 0")
        if chance() < 0.02:
            headers.append("X-Long: " + "h" * self.random.choice((100, 8000, 70000)))
        if chance() < 0.05:
            headers += ["Connection: Upgrade", f"Upgrade: {self.random.choice(('tcp', 'websocket', 'h2c', 'x'))}"]
        if chance() < 0.05:
            headers.append("X-Registry-Auth: " + self.random.choice(("e30=", "%%", "A" * 999, "bnVsbA==")))
        head = "\r\n".join([f"{row.method} {target} HTTP/1.1", *headers])
        return head.encode() + b"\r\n\r\n" + (body or b""), cut

    def chunked(self, row: Operation, target: str, headers: list[str], body: bytes) -> tuple[bytes, bool]:
        head = "\r\n".join([f"{row.method} {target} HTTP/1.1", *headers, "Transfer-Encoding: chunked"]).encode()
        size = self.random.choice((b"%x" % len(body), b"%x" % len(body), b"zz", b"-1", b"ffffffffffffffffff"))
        broken = size != b"%x" % len(body)
        return head + b"\r\n\r\n" + size + b"\r\n" + body + b"\r\n0\r\n\r\n", broken

    def body(self, row: Operation) -> bytes | None:
        if not row.takes_body and self.random.random() < 0.9:
            return None
        if row.key not in DOCUMENTS or self.random.random() < 0.08:
            return self.random.choice((b"{}", b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 500, b"[" * 100_000, b'"x"', b"1" * 5000,
                                       b'{"Image":"busybox"}x', BODIES.get(row.key, b"\0")))  # fmt: skip
        document = self.part_of(copy.deepcopy(DOCUMENTS[row.key]))
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            self.mutate(document)
        text = json.dumps(document).encode()
        if self.random.random() < 0.05:
            text = text[: self.random.randrange(len(text))]
        return text

    def part_of(self, document: dict[str, Any]) -> dict[str, Any]:
        """Some of the fields, so that one that is refused does not hide the others; the first one always."""
        keep = self.random.choice((0.15, 0.5, 1.0))
        found = {}
        for number, (name, value) in enumerate(document.items()):
            if not number or self.random.random() < keep:
                found[name] = self.part_of(value) if isinstance(value, dict) and value else value
        return found

    def mutate(self, document: Any) -> None:
        """Replace, remove or add one thing somewhere."""
        while True:
            keys = list(document) if isinstance(document, dict) else list(range(len(document)))
            if not keys:
                return
            key = self.random.choice(keys)
            inner = document[key]
            if isinstance(inner, dict | list) and inner and self.random.random() < 0.7:
                document = inner
                continue
            what = self.random.random()
            if what < 0.75:
                document[key] = copy.deepcopy(self.random.choice(HOSTILE))
            elif what < 0.85 and isinstance(document, dict):
                del document[key]
            elif isinstance(document, dict):
                document[str(self.random.choice(HOSTILE))[:50]] = self.random.choice(HOSTILE)
            else:
                document.append(copy.deepcopy(self.random.choice(HOSTILE)))
            return


def allowed(row: Operation, status: int) -> bool:
    if status in (200, 201, 204, 304, 101):
        return True
    if 400 <= status < 500:
        return True
    noun = row.path.split("/")[1]
    if status == 501:
        return True  # a feature that is named, or a transfer encoding; the walk over the API knows which rows may
    return status == 503 and (noun in SWARM or row.key == "PUT /volumes/{name}")


def resources(daemon: Daemon) -> tuple[int, int]:
    """(descriptors, resident bytes) of the daemon."""
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(list((process / "fd").iterdir())), resident


def settled(daemon: Daemon, descriptors: int) -> int:
    """How many descriptors there are when what is still being closed is closed."""
    deadline = time.monotonic() + 10
    while (now := resources(daemon)[0]) > descriptors and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def test_broken_requests_are_refused_and_leave_nothing(target: Daemon) -> None:
    rows = [row for row in read_table() if row.key not in NOT_HERE]
    rows += [row for row in rows if row.key in DOCUMENTS] * 8  # where there is most to break
    generator = Generator(SEED)
    client = Client(target)

    def play(count: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        run_web(target)
        for number in range(count):
            row = generator.random.choice(rows)
            request, cut = generator.request(row)
            status, headers, answer = client.exchange(request, end=cut)
            what = (row.key, status, answer[:300], request[:600])
            assert status, what
            assert allowed(row, status), what
            if status >= 400 and row.method != "HEAD":
                document = json.loads(answer)
                assert set(document) == {"message"}, what
                assert isinstance(document["message"], str), what
                assert document["message"], what
                assert "internal error" not in document["message"], what
                assert headers["content-type"] == "application/json", what
            seen[status] += 1
            if number % 100 == 99:
                assert client.exchange(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")[2] == b"OK"
                run_web(target)
        client.close()
        clean(target)
        return seen

    play(REQUESTS // 4)  # what is loaded and made once
    before = resources(target)
    seen = play(REQUESTS - REQUESTS // 4)
    assert settled(target, before[0]) <= before[0]
    assert resources(target)[1] - before[1] < 24 << 20
    assert {200, 400, 404} <= set(seen)
    assert sum(seen[status] for status in seen if 400 <= status < 500) > REQUESTS // 3
    log = target.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    assert documented_as_left()  # the rows that may answer 501


def clean(daemon: Daemon) -> None:
    """Take away what requests made that were not broken enough."""
    daemon.remove_containers()
    daemon.docker("volume", "prune", "-af", check=False)
    daemon.docker("network", "prune", "-f", check=False)


def run_web(daemon: Daemon) -> None:
    """A running container for the requests that nearly mean something."""
    document = {
        "Image": "busybox", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL", "HostConfig": {"NetworkMode": "none"},
    }  # fmt: skip
    daemon.request("POST", "/containers/create?name=web", document)
    daemon.request("POST", "/containers/web/unpause")
    assert daemon.request("POST", "/containers/web/start")[0] in (204, 304)


PIECES = (
    b"GET ", b"POST ", b"/_ping", b"/containers/json", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"Host: d\r\n", b"\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"\0", b"\xff" * 20, b"\n", b"\r", b"a" * 9000, b"X: " + b"y" * 70000, b": no name\r\n",
    b"Expect: 100-continue\r\n", b"Expect: x\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01",
    b" folded\r\n", b"Connection: close\r\n", b"OPTIONS * HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"{}", b"\r\n\r\n",
)  # fmt: skip


def test_bytes_that_are_no_requests(target: Daemon) -> None:
    generator = random.Random(SEED)
    before = resources(target)[0]
    codes: Counter[str] = Counter()
    for _ in range(RAW_REQUESTS):
        data = b"".join(generator.choice(PIECES) for _ in range(generator.randint(1, 8)))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(target.socket))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                if generator.random() < 0.8:
                    sock.shutdown(socket.SHUT_WR)
                else:
                    continue  # it leaves in the middle
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    answer += piece
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                code = line.split(b" ")[1].decode()
                codes[code] += 1
                assert code in ("100", "200", "400", "403", "404", "405", "408", "413", "417", "431", "501", "505"), (
                    data[:300]
                )
    assert codes["400"] > 50
    assert settled(target, before) <= before
    assert target.request("GET", "/_ping") == (200, b"OK")
    assert "Traceback" not in target.log.read_text()
