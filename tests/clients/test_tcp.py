"""Clients on TCP with mutual TLS: the unmodified docker client, docker-py and our own; and who is not served."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from certificates import HAS_OPENSSL, make_certificates
from daemons import BIN, Daemon

pytestmark = [
    pytest.mark.needs("docker", "busybox"),
    pytest.mark.skipif(not HAS_OPENSSL, reason="openssl is not installed"),
]

CLIENTS = ("docker", "corten")
PAYLOAD = "".join(f"line {number}\n" for number in range(50_000))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Remote:
    """A daemon on TCP and the certificates of its clients."""

    daemon: Daemon
    port: int
    pki: Path

    @property
    def host(self) -> str:
        return f"tcp://localhost:{self.port}"

    def flags(self, pki: Path | None = None) -> list[str]:
        pki = pki or self.pki
        return [
            "-H", self.host, "--tlsverify", "--tlscacert", str(pki / "ca.pem"), "--tlscert", str(pki / "cert.pem"),
            "--tlskey", str(pki / "key.pem"),
        ]  # fmt: skip

    def run(self, client: str, *arguments: str, pki: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
        program = {"docker": "docker", "corten": str(BIN / "corten")}[client]
        return self.daemon.run([program, *self.flags(pki), *arguments], **options)


@pytest.fixture(scope="module")
def remote(tmp_path_factory, busybox_tar, cgroup_parent) -> Iterator[Remote]:
    directory = tmp_path_factory.mktemp("remote")
    pki = make_certificates(directory / "pki")
    port = free_port()
    daemon = Daemon(
        directory / "d", "-H", f"tcp://localhost:{port}", "--tlsverify", "--tlscacert", str(pki / "ca.pem"),
        "--tlscert", str(pki / "server-cert.pem"), "--tlskey", str(pki / "server-key.pem"),
    )  # fmt: skip
    daemon.start()
    daemon.import_busybox(busybox_tar)
    daemon.docker("run", "--rm", "busybox", "true")  # the default network is made with the first container
    yield Remote(daemon, port, pki)
    daemon.remove_containers()
    daemon.stop()


@pytest.mark.parametrize("client", CLIENTS)
def test_input_and_its_end_reach_the_program_and_all_output_comes_back(remote: Remote, client: str) -> None:
    done = remote.run(client, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end; exit 7",
                      input=PAYLOAD, check=False)  # fmt: skip
    assert done.stdout == PAYLOAD + "end\n"
    assert done.returncode == 7


@pytest.mark.parametrize("client", CLIENTS)
def test_exec_logs_and_copy(remote: Remote, client: str, tmp_path: Path) -> None:
    name = f"tcp-{client}"
    remote.run(client, "run", "-d", "--name", name, "busybox", "sh", "-c", "echo started; sleep 300")
    try:
        done = remote.run(client, "exec", "-i", name, "sh", "-c", "cat >/tmp/x; wc -c </tmp/x; echo oops >&2",
                          input=PAYLOAD)  # fmt: skip
        assert (int(done.stdout), done.stderr) == (len(PAYLOAD), "oops\n")
        assert remote.run(client, "logs", name).stdout == "started\n"
        remote.run(client, "cp", f"{name}:/tmp/x", str(tmp_path / "x"))
        assert (tmp_path / "x").read_text() == PAYLOAD
        remote.run(client, "cp", str(tmp_path / "x"), f"{name}:/root/y")
        assert remote.run(client, "exec", name, "wc", "-c", "/root/y").stdout.split()[0] == str(len(PAYLOAD))
    finally:
        remote.run(client, "rm", "-f", name)


def test_docker_py(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    import docker

    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they go before what the client is told
        monkeypatch.delenv(name, raising=False)
    files = {name: str(remote.pki / name) for name in ("ca.pem", "cert.pem", "key.pem")}
    tls = docker.tls.TLSConfig(client_cert=(files["cert.pem"], files["key.pem"]), ca_cert=files["ca.pem"], verify=True)
    client = docker.DockerClient(base_url=remote.host.replace("tcp", "https"), tls=tls, timeout=30)
    assert client.ping()
    assert client.containers.run("busybox", ["echo", "over TLS"], remove=True) == b"over TLS\n"
    container = client.containers.run("busybox", ["sleep", "300"], detach=True)
    try:
        assert container.exec_run(["sh", "-c", "echo x; echo y >&2"], demux=True) == (0, (b"x\n", b"y\n"))
    finally:
        container.remove(force=True)
    client.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_of_another_authority_is_not_served(remote: Remote, client: str, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other")
    (other / "ca.pem").write_bytes((remote.pki / "ca.pem").read_bytes())
    done = remote.run(client, "ps", pki=other, check=False)
    assert done.returncode != 0
    assert "tls" in done.stderr.lower()


def test_environment_of_our_client(remote: Remote) -> None:
    environment = {
        **os.environ, "CORTEN_HOST": remote.host, "CORTEN_TLS_VERIFY": "1", "CORTEN_CERT_PATH": str(remote.pki),
    }  # fmt: skip
    done = subprocess.run([BIN / "corten", "version"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_a_daemon_does_not_start_on_plain_tcp(tmp_path: Path, cgroup_parent: str) -> None:
    daemon = Daemon(tmp_path / "d", "-H", f"tcp://127.0.0.1:{free_port()}")
    daemon.start(check=False)
    assert daemon.process is not None
    assert daemon.process.wait(10) == 1
    assert "refusing to listen on tcp://127.0.0.1" in daemon.log.read_text()
    assert not daemon.socket.exists()
