"""The tar parser: formats, limits, truncation; compared with Python's tarfile."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from tar_builder import Tar, one_line

from corten.errors import CortenError, InvalidParameter
from corten.image import tarheader
from corten.image.pipes import chunks_of
from corten.image.tarstream import TarEntry, TarReader


def entries(raw: bytes, chunk: int = 1 << 20) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(chunks_of(io.BytesIO(raw), chunk))
    found = []
    while (entry := reader.next()) is not None:
        content = b""
        while view := reader.read_some():
            content += bytes(view)
        found.append((entry, content))
    return found


class Recording:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def raw(self, data: bytes) -> None:
        self.parts.append(data)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("chunk", [1 << 20, 512, 100, 7])
def test_reads_what_tarfile_wrote(format, chunk):
    raw = (
        Tar(format)
        .dir("dir/")
        .file("dir/empty")
        .file("dir/one", b"1")
        .file("dir/block", b"b" * 512, mode=0o4755, uid=1000, gid=2000, mtime=1_234_567_890)
        .file("x/" + "p" * 60 + "/" + "n" * 90, b"long" * 300)
        .symlink("dir/link", "../target")
        .hardlink("dir/hard", "dir/one")
        .bytes()
    )
    found = entries(raw, chunk)
    with tarfile.open(fileobj=io.BytesIO(raw)) as reference:
        expected = reference.getmembers()
        assert len(found) == len(expected)
        for (entry, content), other in zip(found, expected, strict=True):
            assert entry.name.rstrip(b"/").decode() == other.name
            assert (entry.mode, entry.uid, entry.gid) == (other.mode, other.uid, other.gid)
            assert entry.mtime_ns == int(other.mtime) * 10**9
            assert entry.linkname.decode() == other.linkname
            if other.isfile():
                assert content == reference.extractfile(other).read()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(format):
    names = ["n" * 300, "d/" * 200 + "f", "ä/ö ü/日本語", "with\nnewline"]
    tar = Tar(format)
    for name in names:
        tar.file(name, b"x")
    tar.symlink("l", "t" * 500)
    found = entries(tar.bytes())
    assert [entry.name.decode() for entry, _ in found[:-1]] == names
    assert found[-1][0].linkname == b"t" * 500


def test_pax_times_have_nanoseconds_and_may_lie_before_the_epoch():
    raw = (
        Tar().file("a", pax_headers={"mtime": "1700000000.123456789"}).file("b", pax_headers={"mtime": "-1.5"}).bytes()
    )
    assert [entry.mtime_ns for entry, _ in entries(raw)] == [1_700_000_000_123_456_789, -1_500_000_000]


def test_large_owners_in_pax_and_base_256():
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        raw = Tar(format).file("a", uid=3_000_000, gid=4_000_000_000).bytes()
        assert [(entry.uid, entry.gid) for entry, _ in entries(raw)] == [(3_000_000, 4_000_000_000)]


def test_xattrs_with_binary_values():
    raw = Tar().file("a", xattrs={"user.x": "y", "security.capability": "\x01\x00\x00\x02"}).bytes()
    (entry, _), *_ = entries(raw)
    assert entry.xattrs == {b"user.x": b"y", b"security.capability": b"\x01\x00\x00\x02"}


def test_global_records_are_ignored():
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil", "comment": "c"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("good"))
    assert [entry.name for entry, _ in entries(buffer.getvalue())] == [b"good"]


def test_v7_directories_are_known_by_their_slash():
    info = tarfile.TarInfo("dir/")
    info.type = tarfile.AREGTYPE
    raw = info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
    block = bytearray(raw[:512])
    block[:100] = b"dir/".ljust(100, b"\0")
    raw = resummed(block) + bytes(1024)
    assert [entry.kind for entry, _ in entries(raw)] == [tarheader.DIRECTORY]


def resummed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options):
    with open(tmp_path / "sparse", "wb") as file:
        for number in range(30):  # more pieces than fit into one old GNU header
            file.seek(number * 1_000_000)
            file.write(b"piece %d" % number)
        file.truncate(40_000_000)
    raw = subprocess.run(
        ["tar", "-S", *options, "-cf", "-", "-C", tmp_path, "sparse"], check=True, capture_output=True
    ).stdout
    assert len(raw) < 1 << 20
    ((entry, content),) = entries(raw)
    assert entry.name == b"sparse"
    assert entry.real_size == 40_000_000
    whole = bytearray(40_000_000)
    position = 0
    for offset, length in entry.sparse:
        whole[offset : offset + length] = content[position : position + length]
        position += length
    assert bytes(whole) == (tmp_path / "sparse").read_bytes()


def test_recorder_gets_every_byte_but_the_data():
    raw = Tar().dir("d").file("d/f", b"x" * 700).file("d/g", b"y").bytes() + b"trailing garbage"
    recording = Recording()
    reader = TarReader(chunks_of(io.BytesIO(raw), 333), recording)
    pieces = b""
    while (entry := reader.next()) is not None:
        while view := reader.read_some():
            recording.parts.append(bytes(view))
        pieces = b"".join(recording.parts)
        assert entry.size == 0 or entry.name in (b"d/f", b"d/g")
    assert b"".join(recording.parts) == raw
    assert len(pieces) < len(raw)


def test_the_end_may_come_without_a_mark():
    raw = Tar().file("a", b"x" * 600).bytes()
    assert [content for _, content in entries(raw[:512] + raw[512:1536])] == [b"x" * 600]
    assert [content for _, content in entries(raw[: 512 + 600])] == [b"x" * 600]
    assert entries(b"") == []
    assert entries(bytes(1024)) == []


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 800, 1100])
def test_truncated_archives_are_told(cut):
    raw = Tar().file("a", b"x" * 600).bytes()
    with pytest.raises(InvalidParameter, match="unexpected EOF"):
        entries(raw[:cut])


def header(**fields) -> bytearray:
    info = tarfile.TarInfo("name")
    for key, value in fields.items():
        setattr(info, key, value)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\xff" * 12),  # size -1
        (slice(124, 136), b"\x80" + b"\xff" * 11),  # size beyond 2^63
        (slice(124, 136), b"-0000000001\0"),
        (slice(124, 136), b"0o000000017\0"),
        (slice(124, 136), b"00000_00017\0"),
        (slice(124, 136), b"99999999999\0"),
        (slice(108, 116), b"\xff\xff\xff\xff\xff\xff\xff\xff"),  # owner -1: "leave as it is" to chown
        (slice(108, 116), b"\x80\x00\x00\x00\xff\xff\xff\xff"),
    ],
)
def test_absurd_numbers_are_refused(field, value):
    block = header()
    block[field] = value
    with pytest.raises(InvalidParameter):
        entries(resummed(block) + bytes(1024))


def test_wrong_checksum_is_refused_and_a_signed_one_is_not():
    block = header()
    good = resummed(block)
    broken = bytearray(good)
    broken[0] ^= 1
    with pytest.raises(InvalidParameter, match="checksum"):
        entries(good + bytes(broken) + bytes(1024))
    with pytest.raises(InvalidParameter, match="does not begin with a tar header"):
        entries(b"this is no archive" * 100)
    block[:4] = b"\xe4\xf6\xfc\xdf"
    block[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    assert entries(bytes(block) + bytes(1024))[0][0].name[:4] == b"\xe4\xf6\xfc\xdf"


def test_lone_zero_block_is_refused():
    with pytest.raises(InvalidParameter, match="lone zero block"):
        entries(bytes(512) + resummed(header()) + bytes(1024))


@pytest.mark.parametrize(
    "records",
    [
        b"100 path=x\n",
        b"11 path=xyz",
        b"x path=y\n",
        b"-9 path=y\n",
        b"9 =value\n",
        b"12 path=a\0b\n",
        b"30 size=99999999999999999999\n",
        b"11 size=-1\n",
        b"12 uid=1e3\n\n",
        b"18 mtime=nonsense\n",
        b"0 \n",
        b" ",
    ],
)
def test_malformed_pax_records_are_refused(records):
    block = header(type=b"x", size=len(records))
    raw = resummed(block) + records.ljust(512, b"\0") + resummed(header()) + bytes(1024)
    with pytest.raises(InvalidParameter):
        entries(raw)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_extended_headers_are_bounded(kind):
    block = header(type=kind, size=(1 << 20) + 1)
    endless = resummed(block) + bytes((1 << 20) + 512)
    with pytest.raises(InvalidParameter, match="limit"):
        entries(endless)


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        {"GNU.sparse.map": "0,5,3,5", "GNU.sparse.size": "10"},  # overlapping
        {"GNU.sparse.map": "0,5,8,5", "GNU.sparse.size": "10"},  # beyond the end
        {"GNU.sparse.map": "0,5,6", "GNU.sparse.size": "10"},
        {"GNU.sparse.map": "0,3", "GNU.sparse.size": "10"},  # less than the data
    ],
)
def test_bad_sparse_maps_are_refused(records):
    raw = Tar().file("s", b"9" * 10, pax_headers=records).bytes()
    with pytest.raises(InvalidParameter):
        entries(raw)


def test_a_sparse_map_without_end_is_refused():
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}
    raw = Tar().file("s", b"99999999\n" + b"1\n" * (2 << 20), pax_headers=records).bytes()
    with pytest.raises(InvalidParameter, match="sparse map"):
        entries(raw)


def test_random_damage_ends_in_an_error_or_an_archive():
    """Nothing but the project's own errors, and no endless loop (CVE-2025-8194)."""
    raw = Tar().dir("d").file("d/" + "f" * 120, b"content" * 200, xattrs={"user.a": "b"}).symlink("d/l", "x").bytes()
    dice = random.Random(1)
    for _ in range(1500):
        damaged = bytearray(raw)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            entries(bytes(damaged), dice.choice((512, 1000, 1 << 20)))
        except CortenError as error:
            one_line(error)


def test_shown_names_stay_on_one_line():
    assert "\n" not in tarheader.shown(b"a\nb\x1b[31m\xff" * 100)
    assert len(tarheader.shown(b"x" * 10_000)) < 300


def test_memory_stays_small_for_large_members():
    import tracemalloc

    block = header(size=300 << 20)
    parts = [resummed(block)] + [bytes(1 << 20)] * 300 + [bytes(1024)]
    source = iter(parts)
    reader = TarReader(lambda: next(source, b""))
    tracemalloc.start()
    assert reader.next() is not None
    reader.skip()
    assert reader.next() is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
