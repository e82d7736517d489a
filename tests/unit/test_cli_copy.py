"""Where ``corten cp`` puts what, and archives of local files."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from corten.cli import copy_paths
from corten.cli.archive import pack, unpack
from corten.cli.copy_paths import Endpoint
from corten.errors import DataLoss, InvalidParameter, NotFound


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web:/etc/hosts", ("web", "/etc/hosts")),
        ("web:relative", ("web", "relative")),
        ("web:", ("web", "")),
        ("file", ("", "file")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        ("-", ("", "-")),
    ],
)
def test_arguments(text: str, parts: tuple[str, str]) -> None:
    assert copy_paths.split_argument(text) == parts


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/etc/hosts", ("/etc", "hosts")),
        ("/etc/", ("/", "etc")),
        ("/etc/.", ("/etc", ".")),
        ("/", ("/", "/")),
        ("file", (".", "file")),
        (".", (".", ".")),
    ],
)
def test_entries(path: str, entry: tuple[str, str]) -> None:
    assert copy_paths.split_entry(path) == entry


FILE = Endpoint("/src/file", exists=True)
DIRECTORY = Endpoint("/src/dir", exists=True, is_directory=True)
CONTENTS = Endpoint("/src/dir/.", exists=True, is_directory=True)


@pytest.mark.parametrize(
    ("source", "target", "directory", "names"),
    [
        # into a directory that exists: under its own name
        (FILE, Endpoint("/to", exists=True, is_directory=True), "/to", {"file": "file"}),
        (DIRECTORY, Endpoint("/to", exists=True, is_directory=True), "/to", {"dir/a": "dir/a"}),
        (CONTENTS, Endpoint("/to", exists=True, is_directory=True), "/to", {"./a": "./a"}),
        # in the place of something, or new: under the target's name
        (FILE, Endpoint("/to/old", exists=True), "/to", {"file": "old"}),
        (FILE, Endpoint("/to/new"), "/to", {"file": "new"}),
        (DIRECTORY, Endpoint("/to/new"), "/to", {"dir": "new", "dir/a": "new/a", "directory": "directory"}),
        (DIRECTORY, Endpoint("/to/new/"), "/to", {"dir/a": "new/a"}),
        (CONTENTS, Endpoint("/to/new"), "/to", {"./a": "new/a", ".": "new"}),
    ],
)
def test_places(source: Endpoint, target: Endpoint, directory: str, names: dict[str, str]) -> None:
    where, rename = copy_paths.prepare(source, target)
    assert where == directory
    assert {name: rename(name) if rename else name for name in names} == names


@pytest.mark.parametrize(
    ("source", "target", "kind", "message"),
    [
        (DIRECTORY, Endpoint("/to/old", exists=True), InvalidParameter, "cannot copy directory"),
        (FILE, Endpoint("/to/new/"), NotFound, "no such directory"),
        (FILE, Endpoint("/to/new/."), NotFound, "no such directory"),
    ],
)
def test_impossible_places(source: Endpoint, target: Endpoint, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        copy_paths.prepare(source, target)


def test_the_root_gets_the_target_s_name() -> None:
    _, rename = copy_paths.prepare(Endpoint("/", exists=True, is_directory=True), Endpoint("/to/new"))
    assert rename is not None
    assert rename("/etc/hosts") == "new/etc/hosts"


def test_local_sources(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("dir")
    plain = copy_paths.local_source(f"{tmp_path}/link", follow_link=False)
    assert (plain.path, plain.is_directory, plain.name) == (f"{tmp_path}/link", False, "")
    followed = copy_paths.local_source(f"{tmp_path}/link", follow_link=True)
    assert (followed.path, followed.is_directory, followed.name) == (f"{tmp_path}/dir", True, "link")
    contents = copy_paths.local_source(f"{tmp_path}/link/.", follow_link=False)
    assert (contents.path, contents.is_directory) == (f"{tmp_path}/dir/.", True)
    with pytest.raises(NotFound, match="no such file or directory"):
        copy_paths.local_source(f"{tmp_path}/nope", follow_link=False)
    with pytest.raises(InvalidParameter, match="not a directory"):
        copy_paths.local_source(f"{tmp_path}/file/", follow_link=False)


def test_local_targets(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("dir/made")
    os.mkfifo(tmp_path / "fifo")
    assert copy_paths.local_target(f"{tmp_path}/dir").is_directory
    assert copy_paths.local_target(f"{tmp_path}/link").path == f"{tmp_path}/dir"
    assert copy_paths.local_target(f"{tmp_path}/dangling").path == f"{tmp_path}/dir/made"
    assert not copy_paths.local_target(f"{tmp_path}/new").exists
    with pytest.raises(NotFound, match=r"invalid output path: directory .* does not exist"):
        copy_paths.local_target(f"{tmp_path}/nope/new")
    with pytest.raises(InvalidParameter, match="must be a directory or a regular file"):
        copy_paths.local_target(f"{tmp_path}/fifo")
    with pytest.raises(InvalidParameter, match="not a directory"):
        copy_paths.local_target(f"{tmp_path}/file/")


# -- archives -------------------------------------------------------------------------------------------------------


def listing(root: Path) -> list[tuple]:
    found = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        time_ns = status.st_mtime_ns // 10**9
        found.append(
            (
                str(path.relative_to(root)),
                stat.filemode(status.st_mode),
                content,
                time_ns,
                status.st_nlink if path.is_file() else 0,
            )
        )
    return found


def make_tree(root: Path) -> None:
    (root / "sub/deeper").mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 100_000)
    (root / "empty").touch()
    (root / "sub/tool").write_text("#!/bin/sh\n")
    (root / "sub/tool").chmod(0o4755)
    os.link(root / "sub/tool", root / "hard")
    (root / "link").symlink_to("sub/tool")
    (root / "dangling").symlink_to("/nowhere")
    (root / ("long" * 40)).write_text("l")
    (root / "ümläut").write_text("u")
    (root / os.fsdecode(b"not-utf8-\xff")).write_text("b")
    os.mkfifo(root / "pipe", 0o640)
    os.utime(root / "file", (1_000_000, 1_000_000))
    (root / "sub/deeper").chmod(0o700)
    os.utime(root / "sub", (2_000_000, 2_000_000))


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    (tmp_path / "b").mkdir()
    unpack(pack(str(tmp_path / "a"), "."), str(tmp_path / "b"))
    assert listing(tmp_path / "b") == listing(tmp_path / "a")


def test_other_tools_read_the_archive(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    data = b"".join(pack(str(tmp_path / "a"), "name"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert names[0] == "name"
        assert "name/sub/tool" in names
        member = archive.getmember("name/sub/tool")  # the second of two hard links
        assert (member.islnk(), member.linkname) == (True, "name/hard")


def test_sockets_are_left_out(tmp_path: Path) -> None:
    import socket

    (tmp_path / "a").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a/sock"))
        data = b"".join(pack(str(tmp_path / "a"), "."))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["."]


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1_000_000)
    pieces = pack(str(file), "file")
    next(pieces)
    file.write_bytes(b"")
    with pytest.raises(DataLoss, match="became shorter"):
        list(pieces)


def archive_of(*members: tuple[str, bytes, dict]) -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return [buffer.getvalue()]


LINK = {"type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", b"x", {})],
        [("a/../../evil", b"x", {})],
        [("out", b"", {**LINK, "linkname": ".."}), ("out/evil", b"x", {})],
        [("out", b"", {**LINK, "linkname": "/"}), ("out/tmp/evil", b"x", {})],
        [
            ("dir", b"", {"type": tarfile.DIRTYPE}),
            ("dir/out", b"", {**LINK, "linkname": "../.."}),
            ("dir/out/evil", b"x", {}),
        ],
        [("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "../outside"})],
        [("out", b"", {**LINK, "linkname": ".."}), ("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "out/outside"})],
    ],
)
def test_nothing_is_written_outside(tmp_path: Path, members: list[tuple[str, bytes, dict]]) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "root").mkdir()
    with pytest.raises((DataLoss, OSError)):
        unpack(archive_of(*members), str(tmp_path / "root"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").symlink_to("../outside")
    unpack(archive_of(("file", b"new", {"mode": 0o640})), str(tmp_path / "root"))
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "root/file").read_text() == "new"
    assert not (tmp_path / "root/file").is_symlink()


def test_directories_and_files_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(InvalidParameter, match="cannot overwrite directory"):
        unpack(archive_of(("name", b"x", {})), str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidParameter, match="cannot overwrite non-directory"):
        unpack(archive_of(("file", b"", {"type": tarfile.DIRTYPE})), str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"not a tar" * 100, None])
def test_what_is_no_archive(tmp_path: Path, data: bytes | None) -> None:
    whole = archive_of(("file", b"x" * 10_000, {}))[0]
    with pytest.raises(DataLoss, match="the archive cannot be read"):
        unpack([whole[:3000] if data is None else data], str(tmp_path))


def test_the_size_of_what_was_read_is_known(tmp_path: Path) -> None:
    pieces = archive_of(("file", b"x" * 10, {}))
    assert unpack(pieces, str(tmp_path), rename=lambda name: "other") == len(pieces[0])
    assert (tmp_path / "other").read_bytes() == b"x" * 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_are_kept_when_asked(tmp_path: Path) -> None:
    pieces = archive_of(("file", b"", {"uid": 1234, "gid": 56}))
    unpack(pieces, str(tmp_path))
    assert (tmp_path / "file").stat().st_uid == 0
    unpack(pieces, str(tmp_path), keep_owner=True)
    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "file").stat().st_gid) == (1234, 56)
