"""Archives that are cut, damaged, lie or attack, through the API: a clear error, nothing half-made, a living daemon."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from daemons import ApiConnection, Daemon

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
import image_archives as archives
from tar_builder import Tar

pytestmark = [pytest.mark.needs("docker", "busybox")]

LAYER = Tar().dir("etc").file("etc/name", b"content" * 1000).bytes()
GOOD = archives.tar(archives.docker_members([LAYER], tags=["good:1"]))


def lying(layer: bytes, instead: bytes) -> bytes:
    """An archive whose layer is not the one that its config names."""
    return archives.tar(
        [
            (name, instead if name.endswith("layer.tar") else content)
            for name, content in archives.docker_members([layer], tags=["liar:1"])
        ]
    )


def with_manifest(manifest: bytes) -> bytes:
    members = [pair for pair in archives.docker_members([LAYER]) if pair[0] != "manifest.json"]
    return archives.tar([*members, ("manifest.json", manifest)])


def of_layer(layer: bytes) -> bytes:
    return archives.tar(archives.docker_members([layer], tags=["evil:1"]))


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


BAD_LOADS = {
    "empty": b"",
    "no archive": b"this is no archive" * 100,
    "cut in a layer": GOOD[: len(GOOD) // 2],
    "cut in a header": GOOD[:700],
    "cut gzip": gzip.compress(GOOD)[:-100],
    "damaged gzip": (lambda packed: packed[:200] + bytes(b ^ 255 for b in packed[200:260]) + packed[260:])(
        gzip.compress(GOOD)
    ),
    "wrong layer": lying(LAYER, Tar().file("other", b"x").bytes()),
    "wrong config name": with_manifest(json.dumps([{"Config": "../../etc/passwd", "Layers": []}]).encode()),
    "manifest is a list of numbers": with_manifest(b"[1, 2]"),
    "manifest is no JSON": with_manifest(b"{"),
    "deep JSON": with_manifest(deep(100_000)),
    "config is missing": with_manifest(json.dumps([{"Config": "0" * 64 + ".json", "Layers": []}]).encode()),
    "layer leaves by dots": of_layer(Tar().file("../../../../../../tmp/corten-escaped", b"x").bytes()),
    "layer leaves by a link": of_layer(
        Tar().symlink("out", "/tmp").file("out/../../../../../../../tmp/corten-escaped", b"x").bytes()
    ),
    "layer goes through an absolute link": of_layer(
        Tar().symlink("out", "/tmp").file("out/corten-escaped", b"x").bytes()
    ),
    "hard link to the host": of_layer(Tar().hardlink("passwd", "../../../../../../../etc/passwd").bytes()),
    "whiteout of everything": of_layer(Tar().file(".wh...", b"").bytes()),
    "layer is cut": of_layer(LAYER[:600]),
}
# these hold what cannot be had or is not followed, and are loaded all the same
HARMLESS_LOADS = {
    "absolute names": of_layer(Tar().file("/tmp/corten-escaped", b"x").bytes()),
    "absolute links": of_layer(Tar().symlink("out", "/tmp/corten-escaped").bytes()),
    "smuggled overlay marks": of_layer(Tar().file("f", b"x", xattrs={"trusted.overlay.opaque": "y"}).bytes()),
}
BAD_IMPORTS = {
    "no archive": b"this is no archive" * 100,
    "cut": LAYER[:3000],
    "leaves by dots": Tar().file("../../../../../../../tmp/corten-escaped", b"x").bytes(),
    "cut gzip": gzip.compress(LAYER)[:-20],
}
ESCAPED = Path("/tmp/corten-escaped")


def stored(daemon: Daemon) -> set[str]:
    """Everything that the data root holds of images; configs that nobody names stay for a minute."""
    found = {str(path.relative_to(daemon.data_root)) for path in daemon.data_root.glob("overlay2/*")}
    found |= {str(path.relative_to(daemon.data_root)) for path in daemon.data_root.glob("overlay2/l/*")}
    return found | set(daemon.docker("images", "-aq", "--no-trunc").stdout.split())


def told(status: int, answer: bytes) -> str:
    """The error of an answer: its own status, or the last line of a stream that had begun."""
    if status >= 400:
        return json.loads(answer)["message"]
    documents = [json.loads(line) for line in answer.splitlines() if line.strip()]
    return documents[-1].get("error", "") if documents else ""


@pytest.fixture(autouse=True)
def nothing_escapes(daemon: Daemon):
    assert not ESCAPED.exists()
    pid = daemon.process.pid
    before = stored(daemon)
    yield
    try:
        assert not ESCAPED.exists()
        assert daemon.process.poll() is None
        assert daemon.process.pid == pid
        assert stored(daemon) == before
    finally:
        ESCAPED.unlink(missing_ok=True)


def test_the_good_one_is_good(daemon: Daemon) -> None:
    """What the others are derived from is an image; else they would prove nothing."""
    status, answer = daemon.request("POST", "/images/load?quiet=1", GOOD, content_type="application/x-tar")
    assert (status, told(status, answer)) == (200, "")
    daemon.docker("rmi", "good:1")


@pytest.mark.parametrize("name", BAD_LOADS)
def test_bad_archives_are_refused(daemon: Daemon, name: str) -> None:
    status, answer = daemon.request("POST", "/images/load", BAD_LOADS[name], content_type="application/x-tar")
    message = told(status, answer)
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    assert status != 500 or "internal" not in message.lower()


@pytest.mark.parametrize("name", HARMLESS_LOADS)
def test_harmless_ones_touch_nothing_outside(daemon: Daemon, name: str, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(HARMLESS_LOADS[name])
    daemon.docker("load", "-i", str(tmp_path / "image.tar"))
    identifier = daemon.docker("create", "evil:1", "/x").stdout.strip()
    daemon.docker("export", identifier, "-o", str(tmp_path / "files.tar"))
    with tarfile.open(tmp_path / "files.tar") as archive:
        members = {member.name: member for member in archive}
        assert not any(key.startswith("SCHILY.xattr.trusted") for m in members.values() for key in m.pax_headers)
    if name == "absolute names":
        assert "tmp/corten-escaped" in members
    daemon.docker("rm", identifier)
    daemon.docker("rmi", "evil:1")


@pytest.mark.parametrize("client", ["docker", "corten"])
@pytest.mark.parametrize("name", ["no archive", "cut in a layer", "wrong layer"])
def test_clients_say_it_in_one_line(daemon: Daemon, client: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(BAD_LOADS[name])
    done = getattr(daemon, client)("load", "-i", str(tmp_path / "bad.tar"), check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("name", BAD_IMPORTS)
def test_bad_root_file_systems_are_refused(daemon: Daemon, name: str) -> None:
    path = "/images/create?fromSrc=-&repo=bad"
    status, answer = daemon.request("POST", path, BAD_IMPORTS[name], content_type="application/x-tar")
    message = told(status, answer)
    assert message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["cut", "leaves by dots", "no archive"])
def test_bad_copies_into_containers_are_refused(daemon: Daemon, name: str) -> None:
    identifier = daemon.docker("create", "busybox").stdout.strip()
    path = f"/containers/{identifier}/archive?path=/tmp"
    status, answer = daemon.request("PUT", path, BAD_IMPORTS[name], content_type="application/x-tar")
    assert status >= 400
    assert told(status, answer)
    daemon.docker("rm", identifier)


def test_a_client_that_leaves_in_the_midst(daemon: Daemon) -> None:
    big = archives.tar(archives.docker_members([Tar().file("big", os.urandom(8 << 20)).bytes()], tags=["big:1"]))
    for _ in range(3):
        connection = ApiConnection(daemon.socket)
        connection.putrequest("POST", "/images/load")
        connection.putheader("Content-Length", str(len(big)))
        connection.endheaders()
        connection.send(big[: len(big) // 2])
        connection.close()
    wanted = {"busybox:latest"}
    listing = daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert wanted <= set(listing)
    assert "big:1" not in listing


def test_thousands_of_damaged_bytes(daemon: Daemon) -> None:
    """One byte changed, anywhere: an error or an image, never a daemon that is gone."""
    for position in range(0, len(GOOD), max(1, len(GOOD) // 150)):
        damaged = bytearray(GOOD)
        damaged[position] ^= 0xFF
        status, _ = daemon.request("POST", "/images/load?quiet=1", bytes(damaged), content_type="application/x-tar")
        assert status in (200, 400, 404, 500)
    listing = daemon.docker("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}").stdout
    rows = [row.split() for row in listing.splitlines()]
    kept = {identifier for identifier, repository in rows if repository in ("busybox", "host")}
    for identifier in {identifier for identifier, _ in rows} - kept:
        daemon.docker("rmi", "-f", identifier)
    assert daemon.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"
