"""Commands that speak of registries, against a scripted daemon."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from scripted_server import answering, ok, read_request, serving
from test_cli_main import run

LINES = b"".join(
    json.dumps(document).encode() + b"\r\n"
    for document in (
        {"status": "Pulling from library/x", "id": "latest"},
        {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "abc"},
        {"status": "Pull complete", "progressDetail": {}, "id": "abc"},
        {"status": "Digest: sha256:0"},
    )
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "config"
    directory.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    return directory / "config.json"


def header(head: bytes) -> dict:
    line = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"x-registry-auth: "))
    return json.loads(base64.urlsafe_b64decode(line.partition(b": ")[2]))


def test_pull_shows_what_happens_and_sends_what_the_file_has(tmp_path: Path, config: Path) -> None:
    config.write_text('{"auths": {"r.io": {"auth": "bWU6eA=="}}}')
    with serving(tmp_path, answering(ok(LINES))) as server:
        done = run("pull", "x", host=server.host)
        assert done.stdout == (
            "Using default tag: latest\nlatest: Pulling from library/x\nabc: Pull complete\nDigest: sha256:0\n"
            "docker.io/library/x:latest\n"
        )
        assert b"POST /images/create?fromImage=x&tag=latest HTTP/1.1" in server.heads[0]
        assert header(server.heads[0]) == {}
        done = run("image", "pull", "-q", "--platform", "linux/arm64", "r.io/a:1", host=server.host)
        assert done.stdout == "r.io/a:1\n"
        assert b"fromImage=r.io%2Fa&tag=1&platform=linux%2Farm64" in server.heads[1]
        assert header(server.heads[1]) == {"username": "me", "password": "x", "serveraddress": "r.io"}
        assert run("pull", "-a", "r.io/a", host=server.host).stdout.endswith("r.io/a\n")
        assert b"?fromImage=r.io%2Fa HTTP/1.1" in server.heads[2]


def test_push(tmp_path: Path) -> None:
    with serving(tmp_path, answering(ok(LINES))) as server:
        assert "Using default tag: latest" in run("push", "r.io/a", host=server.host).stdout
        assert b"POST /images/r.io/a/push?tag=latest HTTP/1.1" in server.heads[0]
        assert run("push", "-q", "r.io/a:2", host=server.host).stdout == "r.io/a:2\n"
        assert b"push?tag=2 HTTP/1.1" in server.heads[1]
        run("push", "-a", "r.io/a", host=server.host)
        assert b"POST /images/r.io/a/push HTTP/1.1" in server.heads[2]


@pytest.mark.parametrize("command", ["pull", "push"])
def test_a_tag_and_all_tags_do_not_go_together(tmp_path: Path, command: str) -> None:
    done = run(command, "-a", "x:1", host=f"unix://{tmp_path}/nobody")
    assert done.returncode != 0
    assert "tag can't be used with --all-tags/-a" in done.stderr


def test_an_error_in_the_stream_is_the_end(tmp_path: Path) -> None:
    failed = LINES + b'{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}\r\n'
    with serving(tmp_path, answering(ok(failed))) as server:
        done = run("pull", "x", host=server.host)
        assert done.returncode == 1
        assert "unexpected EOF" in done.stderr


def test_run_always_pulls_first(tmp_path: Path) -> None:
    missing = ok(b'{"message": "No such image: x:latest"}', status="404 Not Found")
    with serving(tmp_path, answering(ok(LINES)), answering(missing)) as server:
        done = run("create", "--pull", "always", "x", host=server.host)
        assert done.returncode == 1
        assert [head.split(b" ")[1].partition(b"?")[0] for head in server.heads] == [
            b"/images/create",
            b"/containers/create",
        ]


def test_login_keeps_what_the_daemon_found_good(tmp_path: Path, config: Path) -> None:
    bodies = []

    def handle(connection, data):
        bodies.append(json.loads(read_request(connection, data)[1]))
        connection.sendall(ok(b'{"Status": "Login Succeeded", "IdentityToken": ""}'))

    with serving(tmp_path, handle) as server:
        done = run("login", "-u", "me", "--password-stdin", "r.io", host=server.host, input="word\n")
        assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
        assert "stored unencrypted" in done.stderr
        assert bodies == [{"username": "me", "password": "word", "serveraddress": "r.io"}]
        assert json.loads(config.read_text())["auths"]["r.io"]["auth"] == base64.b64encode(b"me:word").decode()
        again = run("login", "r.io", host=server.host)
        assert again.stdout == "Authenticating with existing credentials...\nLogin Succeeded\n"
        assert bodies[1] == bodies[0]
        assert run("logout", "r.io", host=server.host).stdout == "Removing login credentials for r.io\n"
        assert run("logout", "r.io", host=server.host).stdout == "Not logged in to r.io\n"
        assert run("logout", host=server.host).stdout == "Not logged in to docker.io\n"


def test_a_login_that_fails_keeps_nothing(tmp_path: Path, config: Path) -> None:
    wrong = ok(b'{"message": "unauthorized: incorrect username or password"}', status="401 Unauthorized")
    with serving(tmp_path, answering(wrong)) as server:
        done = run("login", "-u", "me", "-p", "no", "r.io", host=server.host)
        assert done.returncode == 1
        assert "unauthorized: incorrect username or password" in done.stderr
        assert "insecure" in done.stderr
        assert not config.exists()


def test_login_needs_somebody_who_types(tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/nobody"
    assert "non TTY device" in run("login", "r.io", host=nobody, input="").stderr
    assert "Must provide --username" in run("login", "--password-stdin", host=nobody).stderr
    both = run("login", "-u", "a", "-p", "b", "--password-stdin", host=nobody)
    assert "mutually exclusive" in both.stderr
    assert "password is empty" in run("login", "-u", "a", "--password-stdin", host=nobody, input="").stderr


def test_search(tmp_path: Path) -> None:
    rows = [
        {"name": "few", "description": "x" * 60, "star_count": 1, "is_official": False, "is_automated": False},
        {"name": "many", "description": "a\nb", "star_count": 90, "is_official": True, "is_automated": False},
    ]
    with serving(tmp_path, answering(ok(json.dumps(rows).encode()))) as server:
        done = run("search", "--limit", "5", "--filter", "stars=1", "x", host=server.host)
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
        assert lines[1].split() == ["many", "a", "b", "90", "[OK]"]
        assert lines[2].split()[-1] == "1"
        assert "…" in lines[2]
        assert b"GET /images/search?term=x&limit=5&filters=" in server.heads[0]
        done = run("search", "--no-trunc", "--format", "{{.Name}} {{.Description}}", "x", host=server.host)
        assert done.stdout == "many a b\nfew " + "x" * 60 + "\n"
