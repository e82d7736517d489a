"""The Python SDK against a scripted daemon; with a real one: tests/clients/test_sdk.py."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from scripted_server import answering, ok, read_request, serving

import corten
from corten.client import Client, ProgramFailed
from corten.client.options import create_document
from corten.dockerapi.frames import encode
from corten.errors import NotFound, SystemFailure


class Daemon:
    """Makes one container, runs it, forgets it."""

    def __init__(self, exit_code: int = 0) -> None:
        self.requests: list[str] = []
        self.documents: list[Any] = []
        self._exit_code = exit_code

    def handle(self, connection: socket.socket, data: bytes) -> None:
        line, body = read_request(connection, data)
        request = line.removesuffix(" HTTP/1.1")
        self.requests.append(request.partition("?")[0])
        if "/create" in request:
            self.documents.append(json.loads(body))
            connection.sendall(ok(b'{"Id": "abc"}', status="201 Created"))
        elif "/attach" in request:
            connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
            received = b""
            if "stdin=1" in request:
                while piece := connection.recv(65536):
                    received += piece
            connection.sendall(encode(1, b"out:" + received) + encode(2, b"first\nlast words\n"))
        elif "/wait" in request:
            connection.sendall(ok(b'{"StatusCode": %d}' % self._exit_code))
        else:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def test_run(tmp_path: Path) -> None:
    daemon = Daemon()
    with serving(tmp_path, daemon.handle) as server:
        client = Client(server.host)
        assert client.containers.run("image", ["cat"], stdin=b"typed", env={"A": "1"}) == b"out:typed"
    assert daemon.requests == [
        "POST /containers/create",
        "POST /containers/abc/attach",
        "POST /containers/abc/wait",
        "POST /containers/abc/start",
        "DELETE /containers/abc",
    ]
    document = daemon.documents[0]
    assert (document["Cmd"], document["Env"], document["OpenStdin"], document["StdinOnce"]) == (
        ["cat"],
        ["A=1"],
        True,
        True,
    )


def test_a_program_that_fails(tmp_path: Path) -> None:
    daemon = Daemon(exit_code=3)
    with serving(tmp_path, daemon.handle) as server, pytest.raises(ProgramFailed) as caught:
        Client(server.host).containers.run("image", ["job"])
    assert str(caught.value) == "['job'] ended with exit code 3: last words"
    assert (caught.value.exit_code, caught.value.output, caught.value.error) == (3, b"out:", b"first\nlast words\n")
    assert daemon.requests[-1] == "DELETE /containers/abc"


def test_what_is_kept_is_not_removed(tmp_path: Path) -> None:
    daemon = Daemon()
    with serving(tmp_path, daemon.handle) as server:
        Client(server.host).containers.run("image", keep=True)
    assert not [request for request in daemon.requests if request.startswith("DELETE")]


def test_what_cannot_be_started_is_removed(tmp_path: Path) -> None:
    created = ok(b'{"Id": "abc"}')
    refused = ok(b'{"message": "executable file not found"}', status="400 Bad Request")
    gone = ok(b'{"message": "No such container: abc"}', status="404 Not Found")
    with serving(tmp_path, answering(created), answering(refused), answering(gone)) as server:
        with pytest.raises(corten.client.failures.errors.InvalidParameter, match="executable file not found"):
            Client(server.host).containers.start("image")
        assert server.heads[-1].startswith(b"DELETE /containers/abc?force=1&v=1 ")


def test_options() -> None:
    document, query = create_document(
        "image",
        "program",
        {
            "name": "web",
            "platform": "linux/amd64",
            "labels": {"a": "b"},
            "entrypoint": ["/bin/sh", "-c"],
            "volumes": ["data:/data", "/anonymous"],
            "cpus": 0.1,
            "memory": 1 << 20,
            "restart": "on-failure:3",
            "network": "none",
            "host_config": {"OomScoreAdj": 5},
            "config": {"ExposedPorts": {"80/tcp": {}}},
        },
    )
    assert query == {"name": "web", "platform": "linux/amd64"}
    assert document == {
        "Image": "image",
        "AttachStdout": True,
        "AttachStderr": True,
        "Cmd": ["program"],
        "Labels": {"a": "b"},
        "Entrypoint": ["/bin/sh", "-c"],
        "Volumes": {"/anonymous": {}},
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "NetworkMode": "none",
            "Memory": 1 << 20,
            "NanoCpus": 100_000_000,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "Binds": ["data:/data"],
            "OomScoreAdj": 5,
        },
    }


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown option of a container: memori"):
        create_document("image", None, {"memori": 5})  # type: ignore[typeddict-unknown-key]


def test_loading_names_what_was_loaded(tmp_path: Path) -> None:
    lines = b'{"stream":"Loaded image: a:1\\n"}\n{"stream":"Loaded image ID: sha256:0\\n"}\n'
    with serving(tmp_path, answering(ok(lines))) as server:
        assert Client(server.host).images.load([b"archive"]) == ["a:1", "sha256:0"]
    (tmp_path / "s.sock").unlink()
    failed = b'{"status":"reading"}\n{"errorDetail":{"message":"bad"},"error":"bad archive"}\n'
    with serving(tmp_path, answering(ok(failed))) as server, pytest.raises(SystemFailure, match="bad archive"):
        Client(server.host).images.load(b"archive")


def test_events_end_when_nobody_listens_any_more(tmp_path: Path) -> None:
    def endless(connection: socket.socket, data: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b'{"Action": "start"}\n')

    with serving(tmp_path, endless) as server:
        events = Client(server.host).system.events()
        assert next(events)["Action"] == "start"
        events.close()


def test_errors_have_their_kind(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(b'{"message": "No such image: x"}', status="404 Not Found"))) as server:
        with pytest.raises(NotFound, match="No such image: x"):
            Client(server.host).images.get("x")


def test_names_of_the_package() -> None:
    assert corten.Client is Client
    for name in corten.client.__all__:
        assert getattr(corten.client, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        corten.client.nope  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        corten.nope  # noqa: B018


def test_connect_starts_nothing_at_a_chosen_host() -> None:
    assert corten.connect("unix:///nonexistent").api.host == "unix:///nonexistent"
