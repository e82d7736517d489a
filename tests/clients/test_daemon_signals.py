"""SIGTERM with streams open, SIGHUP with another configuration, the access log and the metrics of a real daemon."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from daemons import BIN, Daemon
from waiting import until

pytestmark = [pytest.mark.needs("docker", "busybox")]

ENDS_WITHIN_S = 15


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def configured(tmp_path: Path, busybox_tar: Path, cgroup_parent: str):
    """A daemon with a configuration file that a test may change, debug log and metrics."""
    (tmp_path / "daemon.json").write_text(json.dumps({"labels": ["a=1"], "debug": True}))
    port = free_port()
    made = Daemon(tmp_path / "d", "--config-file", str(tmp_path / "daemon.json"), "--metrics-addr", f"127.0.0.1:{port}")
    made.start()
    made.import_busybox(busybox_tar)
    yield made, tmp_path / "daemon.json", port
    if made.process is not None and made.process.poll() is not None:
        made.start()
    made.remove_containers()
    made.stop()


def open_stream(daemon: Daemon, request: bytes, *, head_only: bool = False) -> socket.socket:
    """A stream whose head has come."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(ENDS_WITHIN_S)
    sock.connect(str(daemon.socket))
    sock.sendall(request)
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    assert head.split(b" ")[1] in (b"200", b"101")
    return sock


def test_a_daemon_with_streams_open_ends_in_time_and_clients_see_the_end(configured) -> None:
    daemon, _, _ = configured
    daemon.docker("run", "-d", "-i", "--name", "web", "busybox", "sh", "-c", "while :; do echo x; sleep 0.05; done")
    exec_id = json.loads(
        daemon.request("POST", "/containers/web/exec", {"Cmd": ["sleep", "300"], "AttachStdout": True})[1]
    )["Id"]
    upgrade = b"Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    body = b'{"Detach":false}'
    streams = [
        open_stream(daemon, b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n"),
        open_stream(daemon, b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n"),
        open_stream(daemon, b"GET /containers/web/stats HTTP/1.1\r\nHost: d\r\n\r\n"),
        open_stream(daemon, b"POST /containers/web/wait HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"),
        open_stream(daemon, b"POST /containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n" + upgrade + b"\r\n"),
        open_stream(
            daemon,
            f"POST /exec/{exec_id}/start HTTP/1.1\r\n".encode()
            + upgrade
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
        ),
    ]
    clients = [
        subprocess.Popen([*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in (["docker", "-H", daemon.host], [str(BIN / "corten"), "-H", daemon.host])
        for words in (["events"], ["logs", "-f", "web"], ["attach", "--sig-proxy=false", "web"])
    ]
    idle = socket.socket(socket.AF_UNIX)
    idle.settimeout(ENDS_WITHIN_S)
    idle.connect(str(daemon.socket))
    streams.append(idle)
    assert daemon.process is not None
    until(lambda: b'kind="stream"} 4' in daemon.request("GET", "/metrics")[1])
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(ENDS_WITHIN_S) == 0
    for stream in streams:
        with stream:
            try:
                while stream.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    for client in clients:
        client.communicate(timeout=ENDS_WITHIN_S)
    # the program lives on, and the next daemon finds it
    daemon.start()
    assert daemon.inspect("web")["State"]["Running"] is True


def test_a_request_under_way_is_finished(configured) -> None:
    daemon, _, _ = configured
    daemon.docker(
        "run", "-d", "--name", "web", "busybox", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"
    )
    until(lambda: daemon.docker("logs", "web").stdout == "up\n")
    stop = subprocess.Popen(["docker", "-H", daemon.host, "stop", "-t", "2", "web"], stdout=subprocess.PIPE)
    until(lambda: daemon.docker("events", "--since", "5m", "--until", "0s", "--filter", "event=kill").stdout)
    assert daemon.process is not None
    daemon.process.terminate()
    assert daemon.process.wait(ENDS_WITHIN_S) == 0
    assert stop.communicate(timeout=10)[0] == b"web\n"
    assert stop.returncode == 0


def test_sighup_takes_what_may_change_and_names_what_may_not(configured) -> None:
    daemon, path, _ = configured
    assert daemon.process is not None

    def info() -> dict:
        return json.loads(daemon.request("GET", "/info")[1])

    assert info()["Labels"] == ["a=1"]
    assert info()["Debug"] is True
    events = subprocess.Popen(
        ["docker", "-H", daemon.host, "events", "--filter", "type=daemon", "--format", "{{json .}}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: info()["NEventsListener"] == 1)
    path.write_text(
        json.dumps(
            {"labels": ["a=2", "b=3"], "live-restore": False, "default-ipc-mode": "shareable", "log-level": "warn"}
        )
    )
    daemon.process.send_signal(signal.SIGHUP)
    assert events.stdout is not None
    event = json.loads(events.stdout.readline())
    events.terminate()
    events.communicate()
    assert event["Action"] == "reload"
    assert json.loads(event["Actor"]["Attributes"]["labels"]) == ["a=2", "b=3"]
    assert event["Actor"]["Attributes"]["debug"] == "false"
    changed = info()
    assert changed["Labels"] == ["a=2", "b=3"]
    assert changed["Debug"] is False
    assert changed["LiveRestoreEnabled"] is False
    log = daemon.log.read_text()
    assert "SIGHUP: default-ipc-mode changes only when the daemon is started again" in log
    # a file that cannot be used changes nothing
    path.write_text('{"nonsense": 1}')
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "the configuration stays as it is" in daemon.log.read_text())
    assert info()["Labels"] == ["a=2", "b=3"]
    path.write_text(json.dumps({"labels": ["a=1"]}))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: info()["Labels"] == ["a=1"])


def test_the_access_log_and_the_metrics(configured) -> None:
    daemon, _, port = configured
    daemon.docker("run", "--rm", "busybox", "true")
    daemon.request("GET", "/containers/nope/json?x=1")
    log = daemon.log.read_text()
    assert "unix GET /containers/nope/json?x=1 -> 404 in " in log
    for text in (
        daemon.request("GET", "/metrics")[1].decode(),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode(),
    ):
        assert 'engine_daemon_container_actions_seconds_count{action="start"} 1' in text
        assert 'engine_daemon_container_states_containers{state="running"} 0' in text
        assert "engine_daemon_engine_info{" in text
        assert 'corten_api_requests_total{method="GET",code="404"}' in text
        assert "engine_daemon_health_checks_total 0" in text
