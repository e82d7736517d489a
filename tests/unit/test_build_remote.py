"""ADD of URLs, contexts from the net and from git: what is fetched, and what a stranger's address cannot reach."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from build_place import Workplace, archive

from corten.build import fetch, git
from corten.build.context import Context
from corten.build.remote import remote_context
from corten.build.small_files import read
from corten.build.workshop import Cancellation, Cancelled
from corten.errors import Forbidden, InvalidParameter, Unavailable


class Site(http.server.BaseHTTPRequestHandler):
    """pages: path -> (status, headers, body)"""

    pages: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, headers, body = self.pages.get(self.path, (404, {}, b"no"))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            if self.path == "/slow":
                time.sleep(30)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def site() -> Iterator[Any]:
    handler = type("Handler", (Site,), {"pages": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    yield made
    assert not list(made.scratch.iterdir()), "scratch files stay"
    made.close()


def test_add_of_a_url(place: Workplace, site: Any) -> None:
    modified = {"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
    site.pages["/d/file.bin?x=1"] = (200, modified, b"from afar")
    site.pages["/pack.tar"] = (200, {}, archive({"in": "side"}))
    text = (
        f"FROM base\nADD {site.url}/d/file.bin?x=1 /n/\nADD {site.url}/d/file.bin?x=1 /as\nADD {site.url}/pack.tar /\n"
    )
    run = place.build(text, network="host")
    tree = place.tree(run.image)
    assert (tree["n/file.bin"], tree["as"]) == ("from afar", "from afar")
    assert "in" not in tree, "archives from URLs are not unpacked"
    assert place.stat(run.image, "as")[::3] == (0o600, 1_577_836_800)
    assert place.build(text, network="host").cached == 3
    site.pages["/d/file.bin?x=1"] = (200, {}, b"changed")
    assert place.build(text, network="host").cached == 0


def test_checksums_of_urls(place: Workplace, site: Any) -> None:
    site.pages["/f"] = (200, {}, b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    place.build(f"FROM base\nADD --checksum=sha256:{digest} {site.url}/f /f\n", network="host")
    with pytest.raises(InvalidParameter, match="digest mismatch"):
        place.build(f"FROM base\nADD --checksum=sha256:{'0' * 64} {site.url}/f /f\n", network="host")


def test_addresses_of_this_machine_are_refused_without_the_host_s_network(place: Workplace, site: Any) -> None:
    site.pages["/f"] = (200, {}, b"secret")
    port = site.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"):
        with pytest.raises(Forbidden, match="an address of this machine or its link"):
            place.build(f"FROM base\nADD http://{host}:{port}/f /f\n")
    assert site.asked == []


def test_redirects_are_followed_and_change_no_rule(site: Any) -> None:
    site.pages["/a"] = (302, {"Location": "/b"}, b"")
    site.pages["/b"] = (200, {}, b"there")
    site.pages["/loop"] = (302, {"Location": "/loop"}, b"")
    site.pages["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    found = fetch.fetch(f"{site.url}/a", Cancellation(), host_network=True)
    assert b"".join(found.chunks) == b"there"
    for path, kind in (("/loop", Unavailable), ("/file", Forbidden), ("/none", InvalidParameter)):
        with pytest.raises(kind):
            fetch.fetch(site.url + path, Cancellation(), host_network=True)


def test_a_body_that_is_cut_short_is_no_file(site: Any) -> None:
    site.pages["/f"] = (200, {"Content-Length": "100", "Connection": "close"}, b"short")
    with pytest.raises(Unavailable):
        b"".join(fetch.fetch(f"{site.url}/f", Cancellation(), host_network=True).chunks)


def test_a_silent_host_does_not_hold_a_cancelled_build() -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # its queue is full: what comes now has no answer
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        cancellation = Cancellation()
        threading.Timer(0.3, cancellation.cancel).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            fetch.fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/x", cancellation, host_network=True)
        assert time.monotonic() - began < 5


def test_a_slow_server_does_not_hold_a_cancelled_build(site: Any) -> None:
    site.pages["/slow"] = (200, {"Content-Length": "100"}, b"some")
    cancellation = Cancellation()
    found = fetch.fetch(f"{site.url}/slow", cancellation, host_network=True)
    threading.Timer(0.1, cancellation.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        b"".join(found.chunks)
    assert time.monotonic() - begun < 20, "the server says nothing for 30 seconds"


@pytest.mark.parametrize(("url", "name"), [("http://h/a/b.txt?x=/y#z", "b.txt"), ("http://h/a%20b", "a b")])
def test_names_of_files(url: str, name: str) -> None:
    assert fetch.file_name(url) == name
    for bad in ("http://h/", "http://h", "http://h/a/"):
        with pytest.raises(InvalidParameter, match="cannot determine filename"):
            fetch.file_name(bad)


# -- contexts ---------------------------------------------------------------------------------------------------------


def fetched(
    tmp_path: Path, address: str, *, host_network: bool = True, secrets: Mapping[str, bytes] | None = None
) -> dict[str, bytes | None]:
    context = Context(tmp_path)
    try:
        remote_context(
            context, address, tmp_path, Cancellation(), host_network=host_network, dockerfile="Dockerfile",
            secrets=secrets or {},
        )  # fmt: skip
        return {path: read(context, path) for path in sorted(context.paths())}
    finally:
        context.close()


def test_an_archive_or_a_dockerfile_from_a_url(tmp_path: Path, site: Any) -> None:
    packed = archive({"Dockerfile": "FROM base\n", "a": "A"})
    site.pages["/c.tar"] = (200, {}, packed)
    site.pages["/c.tar.gz"] = (200, {}, gzip.compress(packed))
    site.pages["/File"] = (200, {"Content-Type": "text/plain"}, b"FROM x\n")
    for path in ("/c.tar", "/c.tar.gz"):
        assert fetched(tmp_path, site.url + path) == {"Dockerfile": b"FROM base\n", "a": b"A"}
    assert fetched(tmp_path, f"{site.url}/File") == {"Dockerfile": b"FROM x\n"}
    for address, kind in (
        ("ftp://x/y", InvalidParameter),
        ("/etc", InvalidParameter),
        (f"{site.url}/x", InvalidParameter),
    ):
        with pytest.raises(kind):
            fetched(tmp_path, address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/r.git", ("https://h/r.git", "", "")),
        ("https://h/r.git#main", ("https://h/r.git", "main", "")),
        ("https://h/r.git#v1.2:/sub/dir", ("https://h/r.git", "v1.2", "sub/dir")),
        ("git@h:o/r.git#:sub", ("git@h:o/r.git", "", "sub")),
        ("github.com/o/r", ("https://github.com/o/r", "", "")),
        ("https://h/r.git?branch=main&subdir=/a/b", ("https://h/r.git", "main", "a/b")),
        ("git://h/r?tag=v1", ("git://h/r", "v1", "")),
    ],
)
def test_git_addresses(address: str, expected: tuple[str, str, str]) -> None:
    assert git.is_git(address)
    assert git.split_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "git://h/r.git#--upload-pack=touch /tmp/x", "git://h/r#-x", "https://h/r.git#a..b", "https://h/r.git#main:../up",
        "https://h/r.git#main:a/../../up", "file:///etc", "ext::sh -c x", "-oProxyCommand=x", "git://h/r with space",
        "ssh://-oProxyCommand=x/r\nb", "https://h/r.git?subdir=../up", "https://h/r.git?ref=--upload-pack=x",
        "https://h/r.git?ref=a&tag=b", "https://h/r.git?other=x", "https://h/r.git?ref=a#b",
    ],
)  # fmt: skip
def test_hostile_git_addresses(address: str) -> None:
    with pytest.raises(InvalidParameter):
        git.split_address(address)


def run_git(*words: str, cwd: Path) -> None:
    identity = {"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x", "GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **identity}
    subprocess.run(["git", *words], cwd=cwd, env=environment, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """The address of a repository with a branch, a subdirectory and a link that leads out."""
    if shutil.which("git") is None or not Path("/usr/lib/git-core/git-daemon").exists():
        pytest.skip("this machine lacks: git")
    work = tmp_path / "served" / "r.git"
    work.mkdir(parents=True)
    run_git("init", "-q", "-b", "main", cwd=work)
    (work / "Dockerfile").write_text("FROM base\n")
    (work / "sub").mkdir()
    (work / "sub/Dockerfile").write_text("FROM sub\n")
    (work / "out").symlink_to("/etc")
    run_git("add", "-A", cwd=work)
    run_git("commit", "-q", "-m", "one", cwd=work)
    run_git("checkout", "-q", "-b", "other", cwd=work)
    (work / "Dockerfile").write_text("FROM other\n")
    run_git("commit", "-q", "-am", "two", cwd=work)
    run_git("checkout", "-q", "main", cwd=work)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={tmp_path}/served"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
    yield f"git://127.0.0.1:{port}/r.git"
    os.killpg(daemon.pid, 15)
    daemon.wait(10)


def test_contexts_from_git(tmp_path: Path, repository: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = fetched(scratch, repository)
    assert found["Dockerfile"] == b"FROM base\n"
    assert found["out"] is None, "a link of the checkout means nothing outside of it"
    assert not any(path.startswith(".git/") for path in found)
    assert fetched(scratch, f"{repository}#other")["Dockerfile"] == b"FROM other\n"
    assert fetched(scratch, f"{repository}#main:sub") == {"Dockerfile": b"FROM sub\n"}
    for fragment, kind in (("#absent", Unavailable), ("#main:none", InvalidParameter), ("#main:out", InvalidParameter)):
        with pytest.raises(kind):
            fetched(scratch, repository + fragment)
    with pytest.raises(Forbidden):
        fetched(scratch, repository, host_network=False)
    assert not list(scratch.iterdir())


def test_submodules_with_relative_addresses(tmp_path: Path, repository: str) -> None:
    work = tmp_path / "served" / "r.git"
    library = work.with_name("library")
    library.mkdir()
    run_git("init", "-q", "-b", "main", cwd=library)
    (library / "code").write_text("of the library\n")
    run_git("add", "-A", cwd=library)
    run_git("commit", "-q", "-m", "one", cwd=library)
    run_git("-c", "protocol.file.allow=always", "submodule", "add", "-q", "../library", "lib", cwd=work)
    run_git("commit", "-q", "-m", "with a submodule", cwd=work)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert fetched(scratch, repository)["lib/code"] == b"of the library\n"


def test_repositories_of_plain_web_servers(tmp_path: Path, repository: str) -> None:
    """Files alone: there no part of a history can be asked for."""
    served = tmp_path / "served"
    run_git("clone", "-q", "--bare", str(served / "r.git"), str(served / "bare.git"), cwd=served)
    run_git("update-server-info", cwd=served / "bare.git")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    try:
        address = f"http://127.0.0.1:{server.server_port}/bare.git"
        assert fetched(scratch, f"{address}#other")["Dockerfile"] == b"FROM other\n"
        with pytest.raises(Unavailable, match="absent"):
            fetched(scratch, f"{address}#absent")
    finally:
        server.shutdown()
        server.server_close()


class _LockedGit(http.server.BaseHTTPRequestHandler):
    """git's own HTTP service, for who says the right word."""

    root = ""
    word = ""

    def do_GET(self) -> None:
        said = self.headers.get("Authorization", "")
        if said != self.word:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": self.root, "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("secrets", "word"),
    [
        ({"GIT_AUTH_TOKEN": b"t0ken\n"}, "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="),
        ({"GIT_AUTH_HEADER": b"Bearer abc", "GIT_AUTH_TOKEN": b"other"}, "Bearer abc"),
        ({"GIT_AUTH_TOKEN.HOST": b"t0ken", "GIT_AUTH_HEADER": b"other"}, "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="),
    ],
)
def test_a_repository_that_wants_a_secret(
    tmp_path: Path, repository: str, secrets: dict[str, bytes], word: str
) -> None:
    _LockedGit.root, _LockedGit.word = str(tmp_path / "served"), word
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _LockedGit) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        netloc = f"127.0.0.1:{server.server_port}"
        given = {name.replace("HOST", netloc): content for name, content in secrets.items()}
        found = fetched(scratch, f"http://{netloc}/r.git", secrets=given)
        assert found["Dockerfile"] == b"FROM base\n"
        for wrong in ({}, {"GIT_AUTH_TOKEN.elsewhere": b"t0ken"}):
            with pytest.raises(Unavailable, match="failed to fetch the git context"):
                fetched(scratch, f"http://{netloc}/r.git", secrets=wrong)
        server.shutdown()
    assert not git.authorization("ssh://h/r.git", {"GIT_AUTH_TOKEN": b"t0ken"})
    with pytest.raises(InvalidParameter, match="GIT_AUTH_HEADER is no header"):
        git.authorization("https://h/r.git", {"GIT_AUTH_HEADER": b"a\nb"})


def test_add_of_a_repository(place: Workplace, repository: str) -> None:
    text = f"FROM base\nADD {repository}#other /r\nADD --keep-git-dir=true {repository}#main:sub /s\n"
    run = place.build(text, network="host")
    tree = place.tree(run.image)
    assert tree["r/Dockerfile"] == "FROM other\n"
    assert not any(path.startswith("r/.git/") for path in tree)
    assert tree["s/Dockerfile"] == "FROM sub\n"
    (commit,) = {digest for address, digest in run.build.images.materials.items() if address.endswith("#other")}
    assert commit.startswith("sha1:")
    assert place.build(text, network="host").cached == 2
    short = commit.removeprefix("sha1:")[:12]
    assert place.build(f"FROM base\nADD --checksum={short} {repository}#other /r\n", network="host").image
    with pytest.raises(InvalidParameter, match="digest mismatch"):
        place.build(f"FROM base\nADD --checksum=0123456789ab {repository}#other /r\n", network="host")
    with pytest.raises(Forbidden):
        place.build(f"FROM base\nADD {repository} /r\n")
