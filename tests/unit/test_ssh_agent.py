"""``corten build --ssh ID=KEY``: keys of files behind an agent that OpenSSH's own programs can use."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.cli import build_contexts
from corten.cli.ssh_agent import answer, serving
from corten.cli.ssh_keys import read_key, string
from corten.errors import CortenError, InvalidParameter, NotFound

pytestmark = pytest.mark.needs("ssh-agent")
KINDS = {
    "rsa": ("-t", "rsa", "-b", "2048"),
    "rsa-pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    "rsa-pkcs8": ("-t", "rsa", "-b", "2048", "-m", "PKCS8"),
    "ed25519": ("-t", "ed25519"),
    "ecdsa256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa384": ("-t", "ecdsa", "-b", "384", "-m", "PKCS8"),
    "ecdsa521": ("-t", "ecdsa", "-b", "521"),
}


def make_key(path: Path, *options: str, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", passphrase, "-C", "someone", "-f", path, *options], check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("keys")
    return {name: make_key(top / name, *options) for name, options in KINDS.items()}


@contextlib.contextmanager
def agent(*paths: Path) -> Iterator[dict[str, str]]:
    """The environment of a program that uses it."""
    with serving([read_key(str(path)) for path in paths]) as place:
        yield {**os.environ, "SSH_AUTH_SOCK": place}
    assert not os.path.exists(os.path.dirname(place))


def test_it_lists_its_keys(keys: dict[str, Path]) -> None:
    with agent(*keys.values()) as environment:
        listed = subprocess.run(["ssh-add", "-l"], env=environment, capture_output=True, text=True, check=True).stdout
    expected = [
        subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], capture_output=True, text=True, check=True).stdout
        for path in keys.values()
    ]
    assert [line.split()[1] for line in listed.splitlines()] == [line.split()[1] for line in expected]
    assert [line.split()[2] for line in listed.splitlines()] == list(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_its_signatures_are_good(keys: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """ssh-keygen asks the agent, since it gets the public key alone, and verifies."""
    public = tmp_path / "key.pub"
    public.write_bytes(Path(f"{keys[kind]}.pub").read_bytes())
    (tmp_path / "text").write_text("signed")
    with agent(keys["ed25519"], keys[kind]) as environment:
        words = ["ssh-keygen", "-Y", "sign", "-f", str(public), "-n", "test", str(tmp_path / "text")]
        subprocess.run(words, env=environment, check=True, capture_output=True)
    (tmp_path / "allowed").write_text(f"me {public.read_text()}")
    check = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "allowed"), "-I", "me", "-n", "test"]
    signature = ["-s", str(tmp_path / "text.sig")]
    for text, code in ((b"signed", 0), (b"other", 255)):
        assert subprocess.run([*check, *signature], input=text, capture_output=True, check=False).returncode == code


def test_it_does_nothing_else(keys: dict[str, Path]) -> None:
    before = [read_key(str(keys["rsa"]))]
    blob = before[0].blob
    refused = [
        b"", b"\x0b\x00", b"\x0d", b"\x0d" + b"\xff" * 9, b"\x0d" + string(blob) + string(b"x"),
        b"\x0d" + string(b"unknown") + string(b"x") + bytes(4),
        b"\x0d" + string(blob) + string(b"x") + bytes(4),  # RSA with SHA-1
        b"\x11" + string(b"ssh-ed25519"), b"\x13", b"\x16" + string(b"lock"), b"\x1b" + string(b"session-bind"),
    ]  # fmt: skip
    for message in refused:
        assert answer(before, message) == b"\x05", message
    with agent(keys["rsa"]) as environment:
        for words in (["ssh-add", "-D"], ["ssh-add", str(keys["ed25519"])]):
            assert subprocess.run(words, env=environment, capture_output=True, check=False).returncode
        listed = subprocess.run(["ssh-add", "-l"], env=environment, capture_output=True, text=True, check=True)
        assert len(listed.stdout.splitlines()) == 1


def test_messages_that_are_no_messages_end_their_connection_alone(keys: dict[str, Path]) -> None:
    with agent(keys["ed25519"]) as environment:
        for sent in (b"\xff\xff\xff\xff", bytes(4), b"\0\0\0\x05\x0b"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(environment["SSH_AUTH_SOCK"])
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
        subprocess.run(["ssh-add", "-l"], env=environment, check=True, capture_output=True)
    assert not [thread for thread in threading.enumerate() if thread.name == "ssh-agent" and _stays(thread)]


def _stays(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("locked", InvalidParameter, "protected by a passphrase"),
        ("locked-pem", InvalidParameter, "protected by a passphrase"),
        ("locked-pkcs8", InvalidParameter, "protected by a passphrase"),
        ("text", InvalidParameter, "neither an agent's socket nor a private key"),
        ("cut", InvalidParameter, "neither an agent's socket nor a private key"),
        ("key.pub", InvalidParameter, "neither an agent's socket nor a private key"),
        ("other", InvalidParameter, "of a kind that is not supported"),
        ("nosuch", NotFound, "no such file"),
        ("", NotFound, "is a directory"),
    ],
)
def test_files_that_are_no_keys_for_it(
    keys: dict[str, Path], tmp_path: Path, name: str, kind: type[CortenError], told: str
) -> None:
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    make_key(tmp_path / "locked", "-t", "ed25519", passphrase="secret")
    make_key(tmp_path / "locked-pem", *KINDS["rsa-pem"], passphrase="secret")
    make_key(tmp_path / "locked-pkcs8", *KINDS["rsa-pkcs8"], passphrase="secret")
    (tmp_path / "text").write_text("-----BEGIN SOMETHING-----\n")
    (tmp_path / "cut").write_bytes(keys["ed25519"].read_bytes()[:150])
    (tmp_path / "key.pub").write_bytes(Path(f"{keys['rsa']}.pub").read_bytes())
    other = x25519.X25519PrivateKey.generate()
    (tmp_path / "other").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(kind, match=told) as caught:
        read_key(str(tmp_path / name))
    assert str(tmp_path / name) in caught.value.message


def test_sockets_and_keys_of_the_command_line(
    keys: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "agent")
        listener.bind(path)
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        found = build_contexts.agents(["default", f"mine={keys['rsa']},{keys['ed25519']}"], stack)
        assert found["default"] == path
        environment = {**os.environ, "SSH_AUTH_SOCK": found["mine"]}
        listed = subprocess.run(["ssh-add", "-l"], env=environment, capture_output=True, text=True, check=True).stdout
        assert len(listed.splitlines()) == 2
        assert os.stat(os.path.dirname(found["mine"])).st_mode & 0o077 == 0
        for words, told in (
            ([f"a={path},{keys['rsa']}"], "either one agent's socket or files of keys"),
            (["a", "a"], "given twice"),
            (["a=,"], "invalid empty ssh agent socket"),
        ):
            with pytest.raises(InvalidParameter, match=told):
                build_contexts.agents(words, stack)
        with pytest.raises(NotFound, match="nosuch cannot be used"):
            build_contexts.agents([f"a={keys['rsa']},{tmp_path}/nosuch"], stack)


def test_without_the_library_it_says_so(keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("cryptography.hazmat.primitives.asymmetric")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(CortenError, match=r"pip install 'corten\[ssh\]'"):
        read_key(str(keys["rsa"]))


def test_integers_of_signatures_stay_positive() -> None:
    from corten.cli.ssh_keys import _mpint

    assert [_mpint(number)[4:] for number in (0x7F, 0x80, 0xFF00)] == [b"\x7f", b"\x00\x80", b"\x00\xff\x00"]
