"""``RUN --mount=type=ssh`` with keys of files: ssh and git in a step reach a real server with them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox", "overlayfs", "ssh-agent", "sshd")

# the server's own /run: it wants a directory there that only its service makes
SERVER = """
mount -t tmpfs tmpfs /run && mkdir /run/sshd || exit 1
exec /usr/sbin/sshd -D -e -f "$1"
"""
OPTIONS = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -F /dev/null"


@dataclass
class Server:
    """keys: files by kind; log: what it says"""

    port: int
    keys: dict[str, Path]
    repository: Path
    log: Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    keys = {}
    for kind, options in (("ed25519", ()), ("ecdsa", ()), ("rsa", ("-b", "2048")), ("host", ("-t", "ed25519"))):
        keys[kind] = tmp_path / kind
        words = options if kind == "host" else ("-t", kind, *options)
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", keys[kind], *words], check=True)
    wanted = [Path(f"{keys[kind]}.pub").read_text() for kind in ("ed25519", "ecdsa", "rsa")]
    (tmp_path / "authorized").write_text("".join(wanted))
    repository = _repository(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys['host']}\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\nLogLevel VERBOSE\n"
    )
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", SERVER, "sshd", tmp_path / "config"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 15
        while "Server listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(port, keys, repository, log)
    finally:
        process.terminate()
        process.wait()


def _repository(directory: Path) -> Path:
    work = directory / "work"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
    subprocess.run(["git", "init", "-q", work], env=environment, check=True)
    (work / "file").write_text("over ssh\n")
    subprocess.run(["git", "-C", work, "add", "file"], env=environment, check=True)
    subprocess.run(["git", "-C", work, *who, "commit", "-qm", "one"], env=environment, check=True)
    return work


def build(daemon: Daemon, directory: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    place = directory / "context"
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text(text)
    options = ("--no-cache", "--progress=plain", "--allow", "network.host")
    return daemon.corten("build", *options, *words, str(place), check=False)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_of_a_file_opens_a_server(daemon: Daemon, server: Server, tmp_path: Path, kind: str) -> None:
    """The image ``host`` is this machine's root, with its ssh and git."""
    login = f"ssh {OPTIONS} -p {server.port} root@127.0.0.1"
    clone = f"git clone -q ssh://root@127.0.0.1:{server.port}{server.repository} /cloned"
    mount = "RUN --network=host --mount=type=ssh,required"
    text = f"""FROM host
{mount} ssh-add -l && {login} echo logged in as '$(id -u)'
{mount} GIT_SSH_COMMAND="ssh {OPTIONS}" {clone} && cat /cloned/file
"""
    with daemon.without_new_images():
        done = build(daemon, tmp_path, text, "--ssh", f"default={server.keys[kind]}")
        assert done.returncode == 0, done.stderr + server.log.read_text()
        assert "logged in as 0" in done.stderr
        assert "over ssh" in done.stderr
        fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", f"{server.keys[kind]}.pub"], capture_output=True, text=True, check=True
        ).stdout.split()[1]
        assert fingerprint in done.stderr
        # and nothing of it is in the image, nor left of the agent
        done = build(daemon, tmp_path, f"FROM host\n{mount} true\nRUN ls /run/buildkit 2>&1; ! ssh-add -l\n",
                     "--ssh", f"default={server.keys[kind]}")  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_without_the_key_the_server_stays_closed(daemon: Daemon, server: Server, tmp_path: Path) -> None:
    login = f"ssh {OPTIONS} -p {server.port} root@127.0.0.1 echo in"
    text = f"FROM host\nRUN --network=host --mount=type=ssh,id=other {login}\n"
    shutil.copy(server.keys["host"], tmp_path / "unknown")  # the server's own key is nobody's who may log in
    with daemon.without_new_images():
        for words in ((), ("--ssh", f"other={tmp_path}/unknown")):
            done = build(daemon, tmp_path, text, *words)
            assert done.returncode != 0
            assert "Permission denied" in done.stderr
        done = build(daemon, tmp_path, text, "--ssh", f"other={tmp_path}/unknown,{server.keys['ecdsa']}")
        assert done.returncode == 0, done.stderr
