"""D-Bus messages, and what systemd is asked with them, against a peer that plays back and remembers."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.cgroup import systemd
from corten.errors import Conflict, InvalidParameter, SystemFailure
from corten.linux.dbus import CallFailed, Connection, Reader, complete_types, marshal

BUS = "org.freedesktop.systemd1"


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", []),
        ("su", ["s", "u"]),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("aau", ["aau"]),
        ("a{sv}b", ["a{sv}", "b"]),
    ],
)
def test_complete_types(signature: str, types: list[str]) -> None:
    assert list(complete_types(signature)) == types


@pytest.mark.parametrize("signature", ["a", "(s", "a(sv", "a{s"])
def test_signatures_that_are_cut_short(signature: str) -> None:
    with pytest.raises(ValueError, match="cut short"):
        list(complete_types(signature))


def test_the_bytes_of_values() -> None:
    """The examples of the specification's "Marshalling": padding before each value, lengths without it."""
    out = bytearray()
    marshal(out, "y", 1)
    marshal(out, "s", "foo")
    marshal(out, "at", [5])
    assert out == b"\1\0\0\0" + struct.pack("=I", 3) + b"foo\0" + struct.pack("=I", 8) + struct.pack("=Q", 5)
    out = bytearray()
    marshal(out, "at", [5])  # 4 bytes of length, 4 of padding that the length does not count
    assert out == struct.pack("=I4xQ", 8, 5)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("a(sv)", [("A", ("t", 5)), ("B", ("as", ["x", "y"]))], [("A", 5), ("B", ["x", "y"])]),
        ("(yqut)", (1, 2, 3, 4), (1, 2, 3, 4)),
        ("ab", [True, False], [True, False]),
        ("aay", [b"ab", b""], [[97, 98], []]),
        ("a(sa(sv))", [], []),
        ("d", 0.5, 0.5),
        ("g", "a(sv)", "a(sv)"),
    ],
)
def test_what_is_written_is_read(kind: str, value: Any, read: Any) -> None:
    out = bytearray(b"\0")  # what comes first moves the padding
    marshal(out, kind, value)
    reader = Reader(bytes(out))
    reader.place = 1
    assert reader.take(kind) == read
    assert reader.place == len(out)


# -- a peer -----------------------------------------------------------------------------------------------------------


class Peer:
    """systemd's end of its private socket: answers calls as the test says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.calls: list[tuple[str, list[Any]]] = []
        self.answers: dict[str, tuple[str, Any]] = {}
        self.signals_before_answers: dict[str, list[tuple[str, str, tuple[Any, ...]]]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(ConnectionError):
                assert peer.recv(200).startswith(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode())
                peer.sendall(b"OK 0123\r\n")
                self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        data = b""
        while True:
            more = peer.recv(65536)
            if not more:
                return
            data = (data + more).removeprefix(b"BEGIN\r\n")
            while len(data) >= 16:
                _, _, _, _, body, serial, fields = struct.unpack_from("=cBBBIII", data)
                begin = (16 + fields + 7) // 8 * 8
                if len(data) < begin + body:
                    break
                self._answer(peer, data[: begin + body], begin, serial)
                data = data[begin + body :]

    def _answer(self, peer: socket.socket, message: bytes, begin: int, serial: int) -> None:
        reader = Reader(message[:begin])
        reader.place = 12
        fields = dict(reader.take("a(yv)"))
        body = Reader(message[begin:])
        name = fields[3]
        self.calls.append((name, [body.take(kind) for kind in complete_types(fields.get(8, ""))]))
        for member, signature, values in self.signals_before_answers.get(name, []):
            self._send(peer, 4, {1: ("o", "/"), 2: ("s", f"{BUS}.Manager"), 3: ("s", member)}, signature, values)
        signature, values = self.answers.get(name, ("", ()))
        if signature == "error":
            self._send(peer, 3, {4: ("s", values[0]), 5: ("u", serial)}, "s", values[1:])
        else:
            self._send(peer, 2, {5: ("u", serial)}, signature, values)

    def _send(self, peer: socket.socket, kind: int, fields: dict[int, Any], signature: str, values: Any) -> None:
        body = bytearray()
        for one, value in zip(complete_types(signature), values, strict=True):
            marshal(body, one, value)
        message = bytearray(struct.pack("=cBBBII", b"l", kind, 0, 1, len(body), 7))
        marshal(message, "a(yv)", [*({**fields, 8: ("g", signature)} if signature else fields).items()])
        peer.sendall(message + bytes(-len(message) % 8) + body)


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    made = Peer(tmp_path / "private")
    monkeypatch.setattr(systemd, "_SOCKETS", (str(tmp_path / "no-bus"), made.path))
    yield made
    made.close()


def test_a_call_and_its_errors(peer: Peer) -> None:
    peer.answers = {"Get": ("su", ("text", 5)), "Fail": ("error", ("org.example.Bad", "it is bad"))}
    with Connection(peer.path) as connection:
        assert connection.call(BUS, "/x", BUS, "Get", "s", "name") == ["text", 5]
        assert connection.call(BUS, "/x", BUS, "Nothing") == []
        with pytest.raises(CallFailed, match="it is bad") as caught:
            connection.call(BUS, "/x", BUS, "Fail")
    assert caught.value.name == "org.example.Bad"
    assert peer.calls == [("Get", ["name"]), ("Nothing", []), ("Fail", [])]


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        with pytest.raises(TimeoutError):
            Connection(str(tmp_path / "silent"), timeout_s=0.05)


def test_what_is_no_message(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Peer, "_answer", lambda self, connection, *_: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")
    )
    with Connection(peer.path) as connection, pytest.raises(ConnectionAbortedError, match="no message of D-Bus"):
        connection.call(BUS, "/x", BUS, "Get")


# -- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroups_path", "path"),
    [
        ("system.slice:corten:abc", "/system.slice/corten-abc.scope"),
        (":docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("-.slice:p:n", "/p-n.scope"),
        ("system.slice::n", "/system.slice/n.scope"),
    ],
)
def test_paths_of_scopes(cgroups_path: str, path: str) -> None:
    assert systemd.path_of(cgroups_path) == path
    assert systemd.path_of(systemd.cgroups_path_of(path)) == path


@pytest.mark.parametrize(
    "path", ["/a/b", "a:b", "system.slice:p:", "system:p:n", "a--b.slice:p:n", "x/y.slice:p:n", "a.slice:p:../n"]
)
def test_paths_that_are_no_scopes(path: str) -> None:
    with pytest.raises(InvalidParameter):
        systemd.path_of(path)


def test_limits_become_properties() -> None:
    resources = {
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 25_500, "period": 100_000, "cpus": "0-1,9"},
        "pids": {"limit": -1},
    }
    assert systemd.properties(resources) == [
        ("MemoryMax", ("t", 64 << 20)),
        ("MemoryLow", ("t", 32 << 20)),
        ("MemorySwapMax", ("t", 32 << 20)),
        ("CPUWeight", ("t", 20)),
        ("CPUQuotaPerSecUSec", ("t", 260_000)),
        ("TasksMax", ("t", (1 << 64) - 1)),
        ("AllowedCPUs", ("ay", b"\x03\x02")),
    ]
    assert systemd.properties({}) == []


def test_a_scope_is_started_and_waited_for(peer: Peer) -> None:
    peer.answers = {"StartTransientUnit": ("o", ("/job/5",))}
    peer.signals_before_answers = {
        "StartTransientUnit": [
            ("JobRemoved", "uoss", (4, "/job/4", "other.scope", "failed")),
            ("JobRemoved", "uoss", (5, "/job/5", "corten-x.scope", "done")),
        ]
    }
    systemd.start_scope("/system.slice/corten-x.scope", {"pids": {"limit": 7}}, 4711)
    name, (unit, mode, settings, auxiliary) = peer.calls[-1]
    assert (name, unit, mode, auxiliary) == ("StartTransientUnit", "corten-x.scope", "fail", [])
    given = dict(settings)
    assert (given["Slice"], given["PIDs"], given["Delegate"], given["TasksMax"]) == ("system.slice", [4711], True, 7)


@pytest.mark.parametrize(
    ("answer", "result", "kind", "text"),
    [
        (("error", (f"{BUS}.UnitExists", "exists")), "", Conflict, "the unit corten-x.scope exists"),
        (("error", (f"{BUS}.NoProcess", "it is gone")), "", SystemFailure, "cannot start corten-x.scope: it is gone"),
        (("o", ("/job/5",)), "failed", SystemFailure, "could not start corten-x.scope: failed"),
    ],
)  # fmt: skip
def test_scopes_that_do_not_start(peer: Peer, answer: Any, result: str, kind: type[Exception], text: str) -> None:
    peer.answers = {"StartTransientUnit": answer}
    ended = ("JobRemoved", "uoss", (5, "/job/5", "corten-x.scope", result))
    peer.signals_before_answers = {"StartTransientUnit": [ended]}
    with pytest.raises(kind, match=text):
        systemd.start_scope("/system.slice/corten-x.scope", {}, 4711)


def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_SOCKETS", (str(tmp_path / "no"), str(tmp_path / "none")))
    with pytest.raises(SystemFailure, match="cannot reach systemd"):
        systemd.start_scope("/system.slice/corten-x.scope", {}, 1)


def test_changed_limits_are_told(peer: Peer) -> None:
    systemd.set_properties("/system.slice/corten-x.scope", {"memory": {"limit": -1}})
    assert peer.calls[-1] == ("SetUnitProperties", ["corten-x.scope", True, [("MemoryMax", (1 << 64) - 1)]])
    count = len(peer.calls)
    systemd.set_properties("/system.slice/corten-x.scope", {"blockIO": {}})
    assert len(peer.calls) == count


def test_a_placeholder_ends_once() -> None:
    placeholder = systemd.Placeholder()
    assert Path(f"/proc/{placeholder.pid}").exists()
    pid = placeholder.pid
    placeholder.end()
    placeholder.end()
    assert not Path(f"/proc/{pid}").exists()
