"""Where credentials of registries are kept."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from corten.client.credentials import CredentialFile, server_key
from corten.client.references import complete, domain_of
from corten.dockerapi.registry_auth import HUB_SERVER, RegistryAuth
from corten.errors import InvalidParameter, Unavailable

HELPER = """#!/bin/sh
# keeps one secret for each server in files beside itself
here=$(dirname "$0")
name() { printf %s "$1" | tr -c 'a-z0-9\\n' _; }
case $1 in
    get)
        read -r server
        if ! cat "$here/$(name "$server")" 2>/dev/null; then
            echo "credentials not found in native keychain"
            exit 1
        fi ;;
    store)
        document=$(cat)
        server=$(printf %s "$document" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/')
        printf %s "$document" > "$here/$(name "$server")" ;;
    erase)
        read -r server
        rm "$here/$(name "$server")" ;;
esac
"""


@pytest.fixture
def file(tmp_path: Path) -> CredentialFile:
    return CredentialFile(tmp_path / "config")


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "docker-credential-box"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent


def content(file: CredentialFile) -> dict:
    return json.loads(file.path.read_text())


def test_stored_and_found_again_by_every_spelling(file: CredentialFile) -> None:
    file.store(RegistryAuth(username="me", password="a:b", server="https://r.io:5000/v2/"))
    for name in ("r.io:5000", "http://r.io:5000", "https://r.io:5000/v1/"):
        assert file.get(name) == RegistryAuth(username="me", password="a:b", server="r.io:5000")
    assert file.for_image("r.io:5000/team/app:1").username == "me"
    assert file.get("r.io") == RegistryAuth()
    assert content(file) == {"auths": {"r.io:5000": {"auth": base64.b64encode(b"me:a:b").decode()}}}


def test_only_the_owner_may_read_it(file: CredentialFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text("{}")
    file.path.chmod(0o644)
    file.store(RegistryAuth(username="me", password="x", server="r.io"))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert os.listdir(file.path.parent) == ["config.json"]


def test_docker_hub_has_one_name(file: CredentialFile) -> None:
    for name in ("", "docker.io", "index.docker.io", HUB_SERVER, "https://registry-1.docker.io"):
        assert server_key(name) == HUB_SERVER
    file.store(RegistryAuth(username="me", password="x", server="docker.io"))
    assert list(content(file)["auths"]) == [HUB_SERVER]
    assert file.for_image("debian").username == "me"
    assert file.for_image("localhost:5000/debian").username == ""


def test_other_settings_stay_and_a_link_stays_a_link(file: CredentialFile, tmp_path: Path) -> None:
    file.path.parent.mkdir()
    real = tmp_path / "elsewhere.json"
    real.write_text('{"psFormat": "x", "auths": {"https://other.io/": {"auth": "bWU6eA=="}}}')
    file.path.symlink_to(real)
    file.store(RegistryAuth(username="me", password="x", server="r.io"))
    assert file.path.is_symlink()
    assert json.loads(real.read_text())["psFormat"] == "x"
    assert file.get("other.io").password == "x"
    assert file.erase("other.io")
    assert not file.erase("other.io")
    assert list(content(file)["auths"]) == ["r.io"]


def test_an_identity_token_is_kept_instead_of_a_password(file: CredentialFile) -> None:
    file.store(RegistryAuth(username="me", password="secret", identity_token="token", server="r.io"))
    assert "secret" not in base64.b64decode(content(file)["auths"]["r.io"]["auth"]).decode()
    assert file.get("r.io").identity_token == "token"


def test_a_store_keeps_everything_and_the_file_nothing(file: CredentialFile, helper: Path) -> None:
    file.path.parent.mkdir()
    file.path.write_text('{"credsStore": "box"}')
    assert file.get("r.io") == RegistryAuth()
    assert not file.is_plain("r.io")
    file.store(RegistryAuth(username="me", password="x", server="r.io"))
    assert content(file) == {"credsStore": "box", "auths": {"r.io": {}}}
    assert file.get("r.io") == RegistryAuth(username="me", password="x", server="r.io")
    file.store(RegistryAuth(username="me", identity_token="token", server="r.io"))
    assert file.get("r.io") == RegistryAuth(identity_token="token", server="r.io")
    assert file.erase("r.io")
    assert not file.has("r.io")
    assert sorted(os.listdir(helper)) == ["docker-credential-box"]


def test_a_helper_is_for_one_registry(file: CredentialFile, helper: Path) -> None:
    file.path.parent.mkdir()
    file.path.write_text('{"credHelpers": {"r.io": "box"}}')
    file.store(RegistryAuth(username="me", password="x", server="r.io"))
    file.store(RegistryAuth(username="you", password="y", server="other.io"))
    assert "auth" not in content(file)["auths"]["r.io"]
    assert (file.get("r.io").password, file.get("other.io").password) == ("x", "y")
    assert file.is_plain("other.io")


def test_helpers_that_are_missing_fail_or_babble(file: CredentialFile, helper: Path) -> None:
    file.path.parent.mkdir()
    file.path.write_text('{"credsStore": "nowhere"}')
    with pytest.raises(Unavailable, match="docker-credential-nowhere: executable file not found"):
        file.get("r.io")
    program = helper / "docker-credential-bad"
    for script, words in (("echo locked; exit 2", "locked"), ("echo babble", "without JSON")):
        program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
        program.chmod(0o755)
        file.path.write_text('{"credsStore": "bad"}')
        with pytest.raises(Unavailable, match=words):
            file.get("r.io")


@pytest.mark.parametrize("text", ["[]", "{", '{"auths": []}', '{"credsStore": "../../evil"}', '{"credsStore": 3}'])
def test_bad_files_are_named(file: CredentialFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)
    with pytest.raises(InvalidParameter, match=r"config\.json"):
        file.get("r.io")


@pytest.mark.parametrize(
    ("text", "domain", "whole"),
    [
        ("debian", "docker.io", "docker.io/library/debian:latest"),
        ("a/b:1", "docker.io", "docker.io/a/b:1"),
        ("docker.io/debian", "docker.io", "docker.io/library/debian:latest"),
        ("index.docker.io/a/b", "docker.io", "docker.io/a/b:latest"),
        ("localhost/a", "localhost", "localhost/a:latest"),
        ("r.io:5000/a@sha256:0", "r.io:5000", "r.io:5000/a@sha256:0"),
    ],
)
def test_domains(text: str, domain: str, whole: str) -> None:
    assert domain_of(text) == domain
    assert complete(text) == whole
