"""Packages of rpm in an SBOM: databases that rpm itself has written, and such as nobody should believe."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.build.berkeley_db import HashTable
from corten.build.rpm_database import headers
from corten.build.rpm_header import RpmHeader, read_header
from corten.build.sbom import document
from corten.build.tree import RootTree

COUNT = 40
SPEC = f"""
Name: sample
Version: 1.2
Release: 3
Epoch: 4
Summary: words
License: MIT
URL: https://example.com
Vendor: Some Vendor
BuildArch: noarch
%description
{"many words " * 2000}
%files
{{}}
"""
PART = "%package -n part{0}\nSummary: s\n%description -n part{0}\n{1}\n%files -n part{0}\n"
KEY = "%package -n gpg-pubkey\nSummary: s\n%description -n gpg-pubkey\na key of rpm\n%files -n gpg-pubkey\n"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with rpm's own database: one package with a large header, and many."""
    top = tmp_path_factory.mktemp("rpm")
    (top / "sample.spec").write_text(SPEC.format("".join(PART.format(n, "x " * n * 40) for n in range(COUNT)) + KEY))
    define = ["--define", f"_topdir {top}/top", "--define", f"_rpmdir {top}/out"]
    subprocess.run(["rpmbuild", "-bb", "--quiet", *define, str(top / "sample.spec")], check=True, capture_output=True)
    packages = sorted(str(path) for path in (top / "out").rglob("*.rpm"))
    base = ["rpm", "--dbpath", str(top / "db"), "--define", "_db_backend sqlite"]
    subprocess.run([*base, "--initdb"], check=True, capture_output=True)
    subprocess.run([*base, "--justdb", "--nodeps", "-i", *packages], check=True, capture_output=True)
    return top / "db"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, RootTree]]:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    tree = RootTree(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
    yield tmp_path / "var/lib/rpm", tree
    tree.close()


def blobs(database: Path) -> list[tuple[int, bytes]]:
    with sqlite3.connect(database / "rpmdb.sqlite") as connection:
        return list(connection.execute("SELECT hnum, blob FROM Packages"))


def as_berkeley_db(target: Path, items: list[tuple[bytes, bytes]], *, page: int = 4096, order: int = 1234) -> None:
    """By Berkeley DB's own program."""
    lines = [f" {key.hex()}\n {value.hex()}\n" for key, value in items]
    head = f"VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize={page}\ndb_lorder={order}\nHEADER=END\n"
    subprocess.run(["db5.3_load", str(target)], input=f"{head}{''.join(lines)}DATA=END\n", text=True, check=True)


EXPECTED = {
    "sample": RpmHeader(
        "sample", "1.2", "3", "4", "Some Vendor", "MIT", "", "https://example.com", "noarch", "sample-1.2-3.src.rpm"
    ),
    **{f"part{number}": None for number in range(COUNT)},
    "gpg-pubkey": None,
}


def check(found: list[RpmHeader]) -> None:
    assert len(found) == len(EXPECTED)
    by_name = {header.name: header for header in found}
    assert set(by_name) == set(EXPECTED)
    assert by_name["sample"] == EXPECTED["sample"]


@pytest.mark.needs("rpmbuild")
def test_sqlite(database: Path, root: tuple[Path, RootTree]) -> None:
    place, tree = root
    (place / "rpmdb.sqlite").write_bytes((database / "rpmdb.sqlite").read_bytes())
    check(list(headers(tree)))
    (place.parents[2] / "etc").mkdir()
    (place.parents[2] / "etc/os-release").write_text('ID="fedora"\nVERSION_ID=41\n')
    made = document(tree, "app", 0)
    found = {item["name"]: item for item in made["packages"]}
    assert set(found) == {*EXPECTED, "app"} - {"gpg-pubkey"}
    assert found["sample"]["versionInfo"] == "4:1.2-3"
    assert found["sample"]["supplier"] == "Organization: Some Vendor"
    assert found["sample"]["licenseDeclared"] == "MIT"
    assert found["sample"]["externalRefs"][0]["referenceLocator"] == (
        "pkg:rpm/fedora/sample@1.2-3?arch=noarch&distro=fedora-41&epoch=4&upstream=sample-1.2-3.src.rpm"
    )


@pytest.mark.needs("rpmbuild")
def test_what_is_in_the_journal_alone(database: Path, root: tuple[Path, RootTree]) -> None:
    place, tree = root
    (place / "rpmdb.sqlite").write_bytes((database / "rpmdb.sqlite").read_bytes())
    connection = sqlite3.connect(place / "rpmdb.sqlite")
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.execute("DELETE FROM Packages WHERE hnum > 1")
    connection.commit()
    assert (place / "rpmdb.sqlite-wal").stat().st_size
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert len(list(headers(tree))) == 1
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    connection.close()


@pytest.mark.needs("rpmbuild", "db5.3_load")
@pytest.mark.parametrize(("page", "order"), [(4096, 1234), (4096, 4321), (512, 1234), (65536, 1234)])
def test_berkeley_db(database: Path, root: tuple[Path, RootTree], page: int, order: int) -> None:
    place, tree = root
    items = [(bytes(4), (COUNT + 3).to_bytes(4, "little"))]
    items += [(number.to_bytes(4, "little"), blob) for number, blob in blobs(database)]
    as_berkeley_db(place / "Packages", items, page=page, order=order)
    check(list(headers(tree)))


@pytest.mark.needs("rpmbuild")
def test_places_may_be_links_to_each_other(database: Path, root: tuple[Path, RootTree]) -> None:
    place, tree = root
    real = place.parents[2] / "usr/lib/sysimage/rpm"
    real.mkdir(parents=True)
    place.rmdir()
    place.symlink_to("../../usr/lib/sysimage/rpm")
    (real / "rpmdb.sqlite").write_bytes((database / "rpmdb.sqlite").read_bytes())
    check(list(headers(tree)))


@pytest.mark.needs("rpmbuild", "db5.3_load")
def test_broken_files_are_told_and_nothing_else(database: Path, root: tuple[Path, RootTree]) -> None:
    """Bits that flip, and ends that are missing: packages or a ValueError, in a short time."""
    place, tree = root
    as_berkeley_db(place / "Packages", [(number.to_bytes(4, "little"), blob) for number, blob in blobs(database)])
    berkeley = (place / "Packages").read_bytes()
    (place / "Packages").unlink()
    dice = random.Random(7)
    for name, content in (("Packages", berkeley), ("rpmdb.sqlite", (database / "rpmdb.sqlite").read_bytes())):
        for _ in range(60):
            broken = bytearray(content)
            for _ in range(dice.choice((1, 4, 64))):
                broken[dice.randrange(dice.choice((128, 8192, len(broken))))] = dice.randrange(256)
            cut = dice.choice((len(broken), dice.randrange(len(broken))))
            (place / name).write_bytes(broken[:cut])
            began = time.monotonic()
            with contextlib.suppress(ValueError):
                list(headers(tree))
            assert time.monotonic() - began < 5
        (place / name).unlink()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("CREATE TABLE Other (blob)", "no table of packages"),
        ("CREATE VIEW Packages AS SELECT 1 AS blob", "no table of packages"),
        ("CREATE TABLE Packages (blob); INSERT INTO Packages VALUES ('text')", "no header"),
        ("CREATE TABLE Packages (blob); INSERT INTO Packages VALUES (x'00')", "cut off"),
        ("CREATE TABLE Packages (blob); INSERT INTO Packages VALUES (zeroblob(9))", "names no package"),
        ("CREATE TABLE Packages (a, blob AS (a || a)); INSERT INTO Packages (a) VALUES (1)", "computed"),
        ("CREATE TABLE Packages (name)", "no such column"),
        (
            "CREATE TABLE Packages (a, blob AS (hex(zeroblob(1000000)))); INSERT INTO Packages (a) VALUES (1)",
            "computed",
        ),
    ],
)
def test_a_database_that_wants_to_compute(root: tuple[Path, RootTree], script: str, told: str) -> None:
    place, tree = root
    connection = sqlite3.connect(place / "rpmdb.sqlite")
    connection.executescript(script)
    connection.close()
    with pytest.raises(ValueError, match=told):
        list(headers(tree))
    assert told in document(tree, "app", 0)["packages"][0]["comment"]


def as_ndb(target: Path, items: list[tuple[int, bytes]], pages: int = 1) -> None:
    """As rpm lays it out; Debian's has no such format to write it with."""
    slots, bodies, block = [], [], pages * 256
    for number, blob in items:
        count = -(-(16 + len(blob) + 12) // 16)
        slots.append(struct.pack("<4sIII", b"Slot", number, block, count))
        body = struct.pack("<4sIII", b"BlbS", number, 1, len(blob)) + blob
        tail = struct.pack("<II4s", zlib.adler32(body), len(blob), b"BlbE")
        bodies.append(body.ljust(count * 16 - 12, b"\0") + tail)
        block += count
    head = struct.pack("<4sIII16x", b"RpmP", 0, 1, pages) + b"".join(slots)
    empty = struct.pack("<4sIII", b"Slot", 0, 0, 0) * ((pages * 4096 - len(head)) // 16)
    target.write_bytes(head + empty + b"".join(bodies))


@pytest.mark.needs("rpmbuild")
@pytest.mark.parametrize("pages", [1, 3])
def test_rpm_s_own_format(database: Path, root: tuple[Path, RootTree], pages: int) -> None:
    place, tree = root
    as_ndb(place / "Packages.db", blobs(database), pages)
    check(list(headers(tree)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((0, b"RpmX"), "no database of rpm's own format"),
        ((4, b"\1"), "no database of rpm's own format"),
        ((12, b"\xff\xff\xff\xff"), "no database of rpm's own format"),
        ((12, b"\2"), "cut off"),
        ((48, b"Slut"), "a slot"),
        ((36, b"\7"), "a package of rpm's own format is broken"),
        ((40, b"\1\0"), "a package of rpm's own format is broken"),
        ((40, b"\xff\xff\xff\xff"), "cut off"),
        ((4096 + 12, b"\xff"), "a package of rpm's own format is broken"),
        ((56, (256).to_bytes(4, "little")), "a package of rpm's own format is broken"),  # the same place twice
    ],
)
def test_a_broken_file_of_it_is_told(root: tuple[Path, RootTree], change: tuple[int, bytes], told: str) -> None:
    place, tree = root
    blob = b"\0\0\0\1\0\0\0\2" + b"\0\0\x03\xe8\0\0\0\6\0\0\0\0\0\0\0\1" + b"a\0"
    as_ndb(place / "Packages.db", [(1, blob), (2, blob)])
    assert [header.name for header in headers(tree)] == ["a", "a"]
    content = bytearray((place / "Packages.db").read_bytes())
    content[change[0] : change[0] + len(change[1])] = change[1]
    (place / "Packages.db").write_bytes(content)
    assert told in document(tree, "app", 0)["packages"][0]["comment"]


@pytest.mark.parametrize(
    ("blob", "told"),
    [
        (b"", "cut off"),
        (b"\xff" * 8, "does not fit"),
        (bytes(8), "names no package"),
        (b"\0\0\0\1\0\0\0\4" + b"\0\0\x03\xe8\0\0\0\6\0\0\0\0\0\0\0\1" + b"abcd", "not there"),
        (b"\0\0\0\1\0\0\0\4" + b"\0\0\x03\xe8\0\0\0\6\0\0\0\x09\0\0\0\1" + b"abc\0", "not there"),
        (b"\0\0\0\1\0\0\0\4" + b"\0\0\x03\xe8\0\0\0\7\0\0\0\0\0\0\0\1" + b"abc\0", "not there"),
    ],
)
def test_headers_that_are_none(blob: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_header(blob)


@pytest.mark.needs("db5.3_load")
def test_a_chain_that_bites_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "Packages"
    as_berkeley_db(path, [(b"\1\0\0\0", b"x" * 20_000)])
    content = bytearray(path.read_bytes())
    pages = [number for number in range(len(content) // 4096) if content[number * 4096 + 25] == 7]
    assert len(pages) == 5
    for number in pages:  # each page goes on with itself, and the whole is as long as it likes
        content[number * 4096 + 16 : number * 4096 + 20] = number.to_bytes(4, "little")
    at = bytes(content).index((20_000).to_bytes(4, "little"))
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with open(path, "rb") as file, pytest.raises(ValueError, match="chain"):
        list(HashTable(file).items())
