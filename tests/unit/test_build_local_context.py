"""A directory of this machine as a build's context."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.build.local_context import FileDigests, LocalContext, open_directory
from corten.build.tree import resolve, walk
from corten.errors import Conflict, InvalidParameter


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "context/src/deep").mkdir(parents=True)
    (tmp_path / "context/src/one").write_text("1")
    (tmp_path / "context/src/deep/two").write_text("2")
    (tmp_path / "context/Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "outside").write_text("outside")
    return tmp_path / "context"


@pytest.fixture
def opened(top: Path) -> Iterator[LocalContext]:
    context = LocalContext(os.open(top, os.O_PATH | os.O_DIRECTORY), FileDigests())
    yield context
    context.close()


def everything(context: LocalContext) -> list[str]:
    root = context.node("")
    assert root is not None
    return [path for path, _ in walk(context, "", root)]


def test_what_is_there(opened: LocalContext) -> None:
    assert everything(opened) == ["Dockerfile", "src", "src/deep", "src/deep/two", "src/one"]
    node = opened.node("src/one")
    assert node is not None
    assert (node.uid, node.gid, node.size) == (0, 0, 1)
    assert b"".join(opened.chunks("src/one", node)) == b"1"
    assert opened.find_dockerfile("Dockerfile") == b"FROM scratch\n"
    assert opened.node("nowhere") is None


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("src\n", [".dockerignore", "Dockerfile"]),
        ("src/*\n!src/deep/two\n", [".dockerignore", "Dockerfile", "src", "src/deep", "src/deep/two"]),
        ("**/two\nDockerfile\n.dockerignore\n", ["src", "src/deep", "src/one"]),
        ("src\n!src/nothing\n", [".dockerignore", "Dockerfile"]),
    ],
)
def test_what_is_ignored_is_not_there(top: Path, opened: LocalContext, patterns: str, left: list[str]) -> None:
    (top / ".dockerignore").write_text(patterns)
    opened.ignore("Dockerfile")
    assert everything(opened) == left
    assert opened.find_dockerfile("Dockerfile") == b"FROM scratch\n", "the build itself may read it"


def test_patterns_of_the_client_come_first(top: Path, opened: LocalContext) -> None:
    (top / ".dockerignore").write_text("Dockerfile\n")
    opened.ignore("Dockerfile", b"src\n")
    assert everything(opened) == [".dockerignore", "Dockerfile"]


def test_nothing_leads_out(top: Path, opened: LocalContext) -> None:
    (top / "link").symlink_to("../outside")
    (top / "absolute").symlink_to("/etc/passwd")
    (top / "up").symlink_to("..")
    assert resolve(opened, "link") is None
    assert resolve(opened, "absolute") is None
    found = resolve(opened, "up/outside")
    assert found is None


def test_a_file_has_one_meaning_during_a_build(top: Path, opened: LocalContext) -> None:
    node = opened.node("src/one")
    assert node is not None
    before = opened.digest("src/one", node)
    (top / "src/one").write_text("9")
    assert opened.node("src/one") is node
    with pytest.raises(Conflict, match="src/one was changed"):
        b"".join(opened.chunks("src/one", node))
    (top / "src/one").unlink()
    with pytest.raises(Conflict, match="src/one was changed"):
        b"".join(opened.chunks("src/one", node))
    assert before


def test_what_holds_a_reader_up_does_not(top: Path, opened: LocalContext) -> None:
    node = opened.node("src/one")
    assert node is not None
    (top / "src/one").unlink()
    os.mkfifo(top / "src/one")
    with pytest.raises(Conflict):
        b"".join(opened.chunks("src/one", node))


def test_digests_are_known_by_what_the_kernel_says(top: Path) -> None:
    digests = FileDigests()
    old = time.time() - 60
    for _ in range(2):
        context = LocalContext(os.open(top, os.O_PATH | os.O_DIRECTORY), digests)
        node = context.node("src/one")
        assert node is not None
        first = context.digest("src/one", node)
        context.close()
    status = (top / "src/one").stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert digests.get(identity) is None, "a file that has just been made may change within the same tick"
    aged = (*identity[:3], int(old * 1e9), int(old * 1e9))
    digests.put(aged, first)
    assert digests.get(aged) == first


def test_a_directory_that_is_seen_otherwise_is_not_opened(top: Path) -> None:
    status = top.stat()
    descriptor = open_directory(str(top), status.st_dev, status.st_ino)
    assert descriptor is not None
    os.close(descriptor)
    assert open_directory(str(top), status.st_dev, status.st_ino + 1) is None
    assert open_directory(str(top / "nowhere"), status.st_dev, status.st_ino) is None
    assert open_directory(str(top / "Dockerfile"), status.st_dev, status.st_ino) is None
    with pytest.raises(InvalidParameter):
        open_directory("relative", 1, 1)
