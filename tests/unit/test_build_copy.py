"""COPY and ADD into layers: where files land, whose they are, what hostile contexts and images can make of it."""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import io
import itertools
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_place import Workplace, archive

from corten.build.context import Context
from corten.build.owners import read_mode
from corten.build.selection import MissingSource
from corten.build.small_files import read
from corten.build.tree import Node, RootTree, cleaned, resolve
from corten.build.workshop import Cancelled
from corten.errors import Conflict, CortenError, DataLoss, InvalidParameter
from corten.image import tarheader as header
from corten.image.pipes import iterated

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    yield made
    assert not list(made.scratch.iterdir()), "scratch files stay"
    made.close()


FILES = {
    "a": "A", "b": ("B", 0o755), "dir": (None, 0o700), "dir/f": "f", "dir/sub": (None, 0o750),
    "dir/sub/g": ("g", 0o600),
    "dir/link": "-> f", "flink": "-> a", "dlink": "-> dir", "abs": "-> /etc/passwd", "up": "-> ../../../etc/passwd",
    "deep": None, "deep/er": None, "deep/er/x.txt": "x", "deep/er/y.log": "y",
}  # fmt: skip


def added(
    place: Workplace, instruction: str, files: dict[str, object] | None = None, **options: object
) -> dict[str, object]:
    """What an instruction adds to the base, without directories."""
    before = place.tree("base")
    run = place.build(f"FROM base\n{instruction}\n", {**FILES, **(files or {})}, **options)
    return {
        name: value
        for name, value in place.tree(run.image).items()
        if before.get(name) != value and not isinstance(value, tuple)
    }


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("COPY a /new/deep/x", {"new/deep/x": "A"}),
        ("COPY a /", {"a": "A"}),
        ("COPY a /srv", {"srv/a": "A"}),
        ("COPY a /srv/", {"srv/a": "A"}),
        ("COPY a /n/", {"n/a": "A"}),
        ("COPY a rel", {"rel": "A"}),
        ("WORKDIR /w\nCOPY a .", {"w/a": "A"}),
        ("WORKDIR /w\nCOPY a ./x", {"w/x": "A"}),
        ("COPY ./a /x", {"x": "A"}),
        ("COPY /a /x", {"x": "A"}),
        ("COPY /../a /x", {"x": "A"}),
        ("COPY dir/../a /x", {"x": "A"}),
        ("COPY dir /d", {"d/f": "f", "d/sub/g": "g", "d/link": "-> f"}),
        ("COPY dir/ /d/", {"d/f": "f", "d/sub/g": "g", "d/link": "-> f"}),
        ("COPY dir/sub deep/er /d/", {"d/g": "g", "d/x.txt": "x", "d/y.log": "y"}),
        ("COPY flink /x", {"x": "A"}),
        ("COPY flink /d/", {"d/flink": "A"}),
        ("COPY dlink /d", {"d/f": "f", "d/sub/g": "g", "d/link": "-> f"}),
        ("COPY dlink/f /x", {"x": "f"}),
        ("COPY a lib/x", {"usr/lib/x": "A"}),
        ("COPY a /lib/", {"usr/lib/a": "A"}),
        ("COPY dir /lib", {"usr/lib/f": "f", "usr/lib/sub/g": "g", "usr/lib/link": "-> f"}),
        ("COPY a /out/x", {"etc/x": "A"}),
        ("COPY [ab] /n/", {"n/a": "A", "n/b": "B"}),
        ("COPY deep/*/*.txt /n/", {"n/x.txt": "x"}),
        ("COPY deep/**/*.log /n/", {"n/y.log": "y"}),
        ("COPY d?r/f /x", {"x": "f"}),
        ('COPY ["a", "/with space"]', {"with space": "A"}),
        ("COPY --parents deep/er/x.txt /p/", {"p/deep/er/x.txt": "x"}),
        ("COPY --parents deep/./er/*.txt /p/", {"p/er/x.txt": "x"}),
        ("COPY --parents deep/er /p/", {"p/deep/er/x.txt": "x", "p/deep/er/y.log": "y"}),
        ("COPY --parents deep /p/", {"p/deep/er/x.txt": "x", "p/deep/er/y.log": "y"}),
        ("COPY --parents ./deep/./er /p/", {"p/er/x.txt": "x", "p/er/y.log": "y"}),
        ("COPY --exclude=*.log deep/er /p/", {"p/x.txt": "x"}),
        ("COPY --exclude=sub --exclude=link dir /p/", {"p/f": "f"}),
        ("COPY <<EOF <<'RAW' /h/\n=$PATH\nEOF\n=$PATH\nRAW", {"h/EOF": "=/bin\n", "h/RAW": "=$PATH\n"}),
        ("COPY <<EOF /h\nx\nEOF", {"h": "x\n"}),
        ("ENV t=/tt\nCOPY a ${t}/x", {"tt/x": "A"}),
        ("COPY a /etc/passwd", {"etc/passwd": "A"}),
        ("ADD a /x", {"x": "A"}),
    ],
)  # fmt: skip
def test_where_files_land(place: Workplace, instruction: str, expected: dict[str, str]) -> None:
    assert added(place, instruction) == expected


@pytest.mark.parametrize(
    ("instruction", "kind", "message"),
    [
        ("COPY ../a /", InvalidParameter, r"COPY failed: forbidden path outside the build context: ../a \(\)"),
        ("COPY dir/../../a /", InvalidParameter, "forbidden path outside"),
        ("COPY nofile /", MissingSource, "COPY failed: file not found in build context or .* stat nofile"),
        ("COPY abs /x", MissingSource, "file does not exist"),
        ("COPY up /x", MissingSource, "file does not exist"),
        ("COPY deep/err/x.txt /", MissingSource, r"did you mean deep/er\?"),
        ("COPY *.none /x/", InvalidParameter, "COPY failed: no source files were specified"),
        ("COPY a b /x", InvalidParameter, "the destination must be a directory and end with a /"),
        ("COPY a /etc/passwd/x", Conflict, "is not a directory"),
        ("COPY dir /etc/passwd", Conflict, "cannot copy to non-directory"),
        ("COPY a /loop/x", InvalidParameter, "too many links"),
        ("COPY http://example.com/x /", InvalidParameter, "source can't be a URL for COPY"),
        ("COPY --chown=nobody a /", InvalidParameter, "can't find uid for user nobody"),
        ("COPY --chown=bob:nogroup a /", InvalidParameter, "can't find gid for group nogroup"),
        ("COPY --chmod=999 a /", InvalidParameter, "invalid chmod parameter"),
        ("COPY [a /", InvalidParameter, "syntax error in pattern"),
        ("ADD --checksum=md5:00 a /", InvalidParameter, "invalid checksum"),
        ("ADD --checksum=sha256:00 a /", InvalidParameter, "digest mismatch"),
    ],
)  # fmt: skip
def test_refused(place: Workplace, instruction: str, kind: type[CortenError], message: str) -> None:
    with pytest.raises(kind, match=message):
        added(place, instruction, classic=True)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("COPY ../a /x", {"x": "A"}),
        ("COPY dir/../../a /x", {"x": "A"}),
        ("COPY ../deep/*/x.txt /d/", {"d/x.txt": "x"}),
        ("COPY .. /d", {"d/a": "A"}),
        ("COPY *.none other* /d/", {}),
        ("COPY a *.none /d/", {"d/a": "A"}),
    ],
)
def test_what_the_reference_allows_and_the_classic_builder_does_not(
    place: Workplace, instruction: str, expected: dict[str, str]
) -> None:
    assert expected.items() <= added(place, instruction).items()


def test_here_documents_beside_files_of_a_stage_have_today_s_variables(place: Workplace) -> None:
    text = "FROM base AS o\nRUN write f x\nFROM base\nARG V\nCOPY --from=o /f <<made /d/\n$V\nmade\n"
    for value in ("one", "two"):
        image = place.build(text, arguments={"V": value}).image
        assert place.tree(image)["d/made"] == f"{value}\n"


def test_a_checksum_may_be_an_argument(place: Workplace) -> None:
    digest = hashlib.sha256(b"A").hexdigest()
    assert added(place, f"ARG S=sha256:{digest}\nADD --checksum=$S a /x") == {"x": "A"}
    with pytest.raises(InvalidParameter, match=r"digest mismatch sha256:.*: sha256:00 was expected"):
        added(place, "ARG S=sha256:00\nADD --checksum=${S} a /x")


@needs_root
def test_a_user_without_a_group_of_that_name_has_his_own(place: Workplace) -> None:
    passwd = "root:x:0:0::/:/bin/sh\nzed:x:77:50::/:/bin/sh\n"
    image = place.build("FROM base\nCOPY passwd /etc/\nCOPY --chown=zed a /x\n", {**FILES, "passwd": passwd}).image
    assert place.stat(image, "x")[1:3] == (77, 50)


@needs_root
def test_owners_modes_and_times(place: Workplace) -> None:
    text = """FROM base
COPY dir /plain
COPY --chown=bob:extra a /own/deep/x
COPY --chown=7 dir /seven
COPY --chown=bob --chmod=u=rwX,go=rX dir /sym
COPY --chmod=0711 b /octal
COPY a /srv/a
"""
    image = place.build(text, FILES).image
    assert place.stat(image, "plain")[:3] == (0o755, 0, 0)  # a directory that is made is made new
    assert place.stat(image, "plain/f") == (0o644, 0, 0, 1_600_000_000)  # the client's owner means nothing
    assert place.stat(image, "plain/sub") == (0o750, 0, 0, 1_600_000_000)
    assert place.stat(image, "own")[:3] == (0o755, 1000, 50)
    assert place.stat(image, "own/deep/x")[:3] == (0o644, 1000, 50)
    assert place.stat(image, "seven/sub/g")[:3] == (0o600, 7, 7)
    assert place.stat(image, "sym/sub")[:3] == (0o755, 1000, 1001)
    assert place.stat(image, "sym/sub/g")[:3] == (0o644, 1000, 1001)
    assert place.stat(image, "octal")[:2] == (0o711, 0)
    assert place.stat(image, "srv")[:2] == (0o700, 1000)  # what was there stays as it was


@needs_root
def test_files_of_a_stage_keep_their_owner(place: Workplace) -> None:
    text = "FROM base AS one\nCOPY --chown=5:6 dir /d\nFROM base\nCOPY --from=one /d /e\nCOPY --from=0 d/f /\n"
    image = place.build(text, FILES).image
    assert place.stat(image, "e/sub/g")[:3] == (0o600, 5, 6)
    assert place.stat(image, "f")[1:3] == (5, 6)


def test_copies_out_of_a_stage_hit_the_cache_when_the_stage_was_built_anew_with_the_same_files(
    place: Workplace,
) -> None:
    text = "FROM base AS one\nARG A\nRUN write f same\nFROM base\nCOPY --from=one /f /g\n"
    place.build(text, arguments={"A": "1"})
    run = place.build(text, arguments={"A": "2"})
    assert place.workshop.ran == ["write f same"] * 2
    assert "COPY --from=one /f /g\n ---> Using cache" in run.text


def test_a_cancelled_copy_leaves_no_file_of_the_stage_open(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "FROM base AS o\nCOPY large /large\nFROM base\nCOPY --from=o /large /y\n"
    run = place.start(text, {"large": os.urandom(8 << 20)})
    read, opened = RootTree.chunks, itertools.count()

    def chunks(tree: RootTree, path: str, node: Node) -> Iterator[bytes]:
        is_copy = path == "large" and next(opened) > 0  # the first time its digest is made
        for number, chunk in enumerate(read(tree, path, node)):
            if number == 2 and is_copy:
                run.cancellation.cancel()
            yield chunk

    monkeypatch.setattr(RootTree, "chunks", chunks)
    gc.disable()
    try:
        with pytest.raises(Cancelled) as kept:  # with all that its frames hold
            run.finish()
        names = [
            os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if name.isdigit() and os.path.islink(f"/proc/self/fd/{name}")
        ]
        assert not [name for name in names if name.endswith("/large")]
        del kept
    finally:
        gc.enable()


# -- archives ---------------------------------------------------------------------------------------------------------

INNER = archive({"in": (None, 0o750), "in/f": "unpacked", "in/l": "-> f", "lib/x": "through a link"})


@pytest.mark.parametrize(
    "packed", [INNER, gzip.compress(INNER), bz2.compress(INNER), lzma.compress(INNER)], ids=["tar", "gz", "bz2", "xz"]
)
def test_add_unpacks_local_archives_and_copy_does_not(place: Workplace, packed: bytes) -> None:
    found = added(place, "ADD x.bin /un/", {"x.bin": packed})
    assert found == {"un/in/f": "unpacked", "un/in/l": "-> f", "un/lib/x": "through a link"}
    image = place.build("FROM scratch\nCOPY x.bin /un/\n", {"x.bin": packed}).image
    top = place.snapshotter.diff_path(place.store.get(image).layers[-1])
    assert (top / "un/x.bin").read_bytes() == packed
    assert added(place, "ADD --unpack=false x.bin /un", {"x.bin": INNER}).keys() == {"un"}


def test_an_archive_at_the_root_follows_the_image_s_links(place: Workplace) -> None:
    assert added(place, "ADD x.tar /", {"x.tar": INNER})["usr/lib/x"] == "through a link"


def hostile(*members: tuple[str, str, bytes]) -> bytes:
    """Members of an archive: (name, link or "", content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, link, content in members:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_archives_cannot_leave_the_image(place: Workplace, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    through_link = hostile(("l", str(tmp_path), b""), ("l/canary", "", b"dead"))
    with pytest.raises(CortenError, match="not a directory"):
        place.build("FROM scratch\nADD x.tar /\n", {"x.tar": through_link})
    assert canary.read_text() == "alive"
    through_own = hostile(("d/x", "", b"1"), ("l", "/d", b""), ("l/y", "", b"2"))
    image = place.build("FROM scratch\nADD x.tar /\n", {"x.tar": through_own}).image
    assert (place.tree(image)["d/y"], place.tree(image)["l"]) == ("2", "-> /d")
    for name in ("../canary", "a/../../canary"):
        with pytest.raises(DataLoss):
            place.build("FROM base\nADD x.tar /d/\n", {"x.tar": hostile((name, "", b"x"))})


def test_names_that_mean_removal_are_refused(place: Workplace) -> None:
    for instruction in ("COPY d /", "ADD x.tar /"):
        files = {"d": None, "d/.wh.etc": "x", "x.tar": hostile((".wh.etc", "", b""))}
        with pytest.raises(InvalidParameter, match="means a removed file"):
            place.build(f"FROM base\n{instruction}\n", files)


# -- contexts ---------------------------------------------------------------------------------------------------------


def test_contexts_cannot_leave_themselves(tmp_path: Path) -> None:
    for name in ("../x", "a/../../x"):
        context = Context(tmp_path)
        with pytest.raises(DataLoss):
            context.read_tar(iterated([hostile((name, "", b"x"))]))
        context.close()
    context = Context(tmp_path)
    with pytest.raises(InvalidParameter):
        context.read_tar(iterated([b"this is no archive" * 100]))
    context.close()


def test_a_dockerfile_behind_a_link_is_read_inside_the_context(place: Workplace) -> None:
    with pytest.raises(InvalidParameter, match="Cannot locate specified Dockerfile"):
        place.start("-> /etc/passwd")
    run = place.start("-> sub/File", {"sub": None, "sub/File": "FROM base\nENV a=b\n"})
    run.finish()
    assert run.image


def test_later_members_replace_earlier_ones(tmp_path: Path) -> None:
    context = Context(tmp_path)
    stream = hostile(("d/a", "", b"1"), ("d", "", b"now a file"), ("x", "", b"old"), ("x", "", b"new"))
    context.read_tar(iterated([stream]))
    assert (read(context, "d"), read(context, "x"), context.node("d/a")) == (b"now a file", b"new", None)
    assert sorted(context.paths()) == ["d", "x"]
    context.close()


def test_hard_links_and_sparse_files(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("a")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("b")
        link.type, link.linkname = tarfile.LNKTYPE, "a"
        tar.addfile(link)
    context = Context(tmp_path)
    context.read_tar(iterated([stream.getvalue()]))
    assert read(context, "b") == b"abc"
    context.close()


def test_the_ignore_file_of_the_dockerfile_comes_first(place: Workplace) -> None:
    files = {".dockerignore": "a\n", "Dockerfile.dockerignore": "b\n", "a": "A", "b": "B"}
    image = place.build("FROM scratch\nCOPY . /\n", files).image
    assert "a" in place.tree(image)
    assert "b" not in place.tree(image)
    files.pop("Dockerfile.dockerignore")
    image = place.build("FROM scratch\nCOPY . /\n", files).image
    assert "b" in place.tree(image)
    assert "a" not in place.tree(image)


def test_an_ignored_dockerfile_is_read_and_not_copied(place: Workplace) -> None:
    for pattern in ("Dockerfile", "*\n!a"):
        image = place.build("FROM scratch\nCOPY . /\n", {".dockerignore": pattern, "a": "A"}).image
        assert "a" in place.tree(image)
        assert "Dockerfile" not in place.tree(image)


def test_exceptions_keep_what_is_below_an_ignored_directory(place: Workplace) -> None:
    files = {".dockerignore": "*\n!deep/er/x.txt\n!Dockerfile\n", **FILES}
    image = place.build("FROM scratch\nCOPY . /\n", files).image
    assert [name for name, value in place.tree(image).items() if isinstance(value, str)] == [
        "Dockerfile",
        "deep/er/x.txt",
    ]


@pytest.mark.parametrize(("path", "clean"), [("", ""), ("/a//b/./c/", "a/b/c"), ("a/../b", "b")])
def test_clean_paths(path: str, clean: str) -> None:
    assert cleaned(path) == clean


def test_links_are_followed_inside_the_tree(tmp_path: Path) -> None:
    context = Context(tmp_path)
    context.read_tar(iterated([archive({"d": None, "d/f": "x", "l": "-> d", "abs": "-> /d/f", "up": "-> ../../d/f"})]))
    for path in ("l/f", "abs", "up", "l/../d/f", "../d/f"):
        found = resolve(context, path)
        assert found is not None
        assert found[0] == "d/f"
    assert resolve(context, "d/f/x") is None
    context.close()


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "result"),
    [
        ("755", 0o644, False, 0o755),
        ("04755", 0, False, 0o4755),
        ("u+x", 0o644, False, 0o744),
        ("go-r", 0o644, False, 0o600),
        ("a=rX", 0o600, False, 0o444),
        ("a=rX", 0o700, False, 0o555),
        ("+X", 0o644, True, 0o755),
        ("u=rw,go=", 0o777, False, 0o600),
        ("u+s,+t", 0o755, False, 0o5755),
    ],
)
def test_modes(text: str, mode: int, is_directory: bool, result: int) -> None:
    kind = header.DIRECTORY if is_directory else header.REGULAR
    assert read_mode(text)(Node(kind, mode)) == result


@pytest.mark.parametrize("text", ["", "8", "77777", "u", "u+y", "x=r", "u=r,"])
def test_bad_modes(text: str) -> None:
    with pytest.raises(InvalidParameter):
        read_mode(text)
