"""``system check``: what is damaged, lost or forgotten is named, and fetched again from where it came."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import described, sha
from registry_place import Place
from tar_builder import Tar

from corten.errors import Conflict, CortenError, NotFound
from corten.image.catalog import Image
from corten.image.check import Finding, StoreCheck
from corten.image.layer_check import damage
from corten.linux.user_namespace import Rights
from corten.oci import descriptor as media
from corten.registry.auth import Credentials
from corten.registry.refetching import Refetch
from corten.snapshot.vfs import VfsSnapshotter

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).symlink("sh", "bin/sh").dir("etc").bytes()
TOP = Tar().dir("srv").file("srv/data", b"data" * 5000).file("etc/empty", b"").file(".wh.sh", b"").bytes()


def pack(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


@pytest.fixture
def registry():
    made = FakeRegistry()
    made.put_image("app", [BASE, TOP], "1", pack=pack)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path, registry):
    made = Place(tmp_path)
    made.pull(f"{registry.netloc}/app:1")
    yield made
    made.close()


class Checked:
    """One check of a place, and its repair."""

    def __init__(
        self, place: Place, *, quick: bool = False, running: tuple[str, ...] = (), mounted: tuple[str, ...] = ()
    ) -> None:
        self.check: StoreCheck = place.store.check(lambda: running, lambda: mounted)
        self.found: list[Finding] = list(self.check.findings(quick=quick))
        self._place = place

    @property
    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.found]

    def repair(self) -> list[str]:
        transport = self._place.registry.transport()
        try:
            fetcher = Refetch(self._place.registry, transport, lambda domain: Credentials())
            return [self.check.repair(finding, fetcher) for finding in self.found]
        finally:
            transport.close()


def files(place: Place, content: bytes) -> Path:
    """Where the layer with that content has its files."""
    layer = place.store._metadata.layer_by_diff_id(sha(content))
    return place.snapshotter.diff_path(layer.snapshot)


def image_of(place: Place) -> Image:
    """The one that was pulled, beside those of this machine's root."""
    (found,) = [image for image in place.store.all() if image.digests]
    return found


def test_a_whole_store_has_nothing_to_tell(place):
    assert Checked(place).found == []
    assert Checked(place, quick=True).found == []


def tar_split(place: Place) -> Path:
    return files(place, BASE).parent / "tar-split.gz"


def damages(place: Place) -> dict[str, tuple[str, object]]:
    base, top = files(place, BASE), files(place, TOP)
    return {
        "content": ("changed behind the engine's back", lambda: (base / "bin/sh").write_bytes(b"")),
        "same size": ("was changed on disk", lambda: (base / "bin/sh").write_bytes(b"??" * 3000)),
        "truncated": ("changed behind the engine's back", lambda: os.truncate(base / "bin/sh", 10)),
        "file gone": ("changed behind the engine's back", lambda: (base / "bin/sh").unlink()),
        "empty file gone": ('"etc/empty" is missing', lambda: (top / "etc/empty").unlink()),
        "more": ('"bin/more" does not belong to it', lambda: (base / "bin/more").write_bytes(b"x")),
        "mode": ('"bin/sh" has mode 4755 instead of 0755', lambda: (base / "bin/sh").chmod(0o4755)),
        "link": ('"sh" leads somewhere else', lambda: ((base / "sh").unlink(), (base / "sh").symlink_to("/etc"))),
        "kind": ('"sh" is no link', lambda: ((base / "sh").unlink(), (base / "sh").mkdir())),
        "whiteout": ('the whiteout of "sh" is missing', lambda: (top / "sh").unlink()),
        "directory": ("its directory is missing", lambda: shutil.rmtree(base.parent)),
        "files": ("the directory of its files is missing", lambda: shutil.rmtree(base)),
        "split": ("is not complete on disk", lambda: tar_split(place).unlink()),
        "split cut": ("tar-split is truncated", lambda: os.truncate(tar_split(place), 40)),
        "split turned": ("tar-split is damaged", lambda: tar_split(place).write_bytes(b"\0" * 100)),
        "never completed": ("it was never completed", lambda: (base.parent / "committed").unlink()),
    }


DAMAGES = (
    "content", "same size", "truncated", "file gone", "empty file gone", "more", "mode", "link", "kind", "whiteout",
    "directory", "files", "split", "split cut", "split turned", "never completed",
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layer_is_named_and_fetched_again(place, registry, damage):
    if damage == "whiteout" and os.geteuid():
        pytest.skip("needs root: whiteouts are devices")
    problem, act = damages(place)[damage]
    act()
    checked = Checked(place)
    assert [(finding.kind, finding.images) for finding in checked.found] == [("layer", (f"{registry.netloc}/app:1",))]
    assert problem in checked.found[0].problem
    assert checked.repair() == ["fetched again"]
    assert Checked(place).found == []
    assert place.snapshotter.ids() == {layer.snapshot for layer in place.store._metadata.layers()}
    assert len(registry.asked("GET .*blobs/")) == 4  # a config, two layers, and the one that was damaged


def test_an_owner_that_changed(place):
    if os.geteuid():
        pytest.skip("needs root: owners are set only then")
    os.chown(files(place, BASE) / "bin", 7, 8)
    assert Checked(place).found[0].problem == '"bin" belongs to 7:8 instead of 0:0'


def test_what_a_quick_look_finds(place):
    (files(place, BASE) / "bin/sh").write_bytes(b"")
    assert Checked(place, quick=True).found == []
    tar_split(place).unlink()
    assert Checked(place, quick=True).found[0].problem == "its tar-split is missing"


def test_layers_above_find_a_repaired_one_again(place):
    below = place.snapshotter.layer_data(files(place, TOP).parent.name)["LowerDir"]
    shutil.rmtree(files(place, BASE).parent)
    Checked(place).repair()
    assert place.snapshotter.layer_data(files(place, TOP).parent.name)["LowerDir"] == below
    assert (Path(below) / "bin/sh").exists()


def test_lost_links_are_made_again(place):
    base, top = files(place, BASE).parent, files(place, TOP).parent
    for name in os.listdir(place.data_root / "overlay2/l"):
        (place.data_root / "overlay2/l" / name).unlink()
    (top / "lower").unlink()
    (base / "link").unlink()
    checked = Checked(place)
    assert set(checked.kinds) == {"link"}
    checked.repair()
    assert Checked(place).found == []
    assert place.snapshotter.layer_data(top.name)["LowerDir"] == str(base / "diff")


def test_configs_and_manifests(place, registry):
    image = image_of(place)
    blobs = place.data_root / "blobs/sha256"
    manifest = image.digests[0].partition("@sha256:")[2]
    (blobs / image.id[7:]).unlink()
    (blobs / manifest).write_bytes(b"{}")
    checked = Checked(place)
    assert [(finding.kind, finding.problem) for finding in checked.found] == [
        ("config", "it is missing"),
        ("manifest", f"content sha256:{manifest} was changed on disk"),
    ]
    assert checked.repair() == ["fetched again", "fetched again"]
    assert Checked(place).found == []


def test_a_config_behind_an_index(tmp_path, registry):
    manifest = registry.put_image("many", [BASE], pack=pack)
    entry = described(registry.manifests["many", manifest][0], media.OCI_MANIFEST)
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    index = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]})
    registry.put_manifest("many", index.encode(), "1")
    made = Place(tmp_path / "other")
    image_id = made.pull(f"{registry.netloc}/many:1", platform="linux/amd64").image_id
    (made.data_root / "blobs/sha256" / image_id[7:]).unlink()
    checked = Checked(made)
    assert checked.kinds == ["config"]
    assert checked.repair() == ["fetched again"]
    made.close()


def test_what_nobody_has_any_more_stays_as_it_is(place, registry):
    (files(place, BASE) / "bin/sh").unlink()
    registry.blobs.clear()
    checked = Checked(place)
    with pytest.raises(CortenError, match="blob unknown"):
        checked.repair()
    assert Checked(place).kinds == ["layer"]


def test_other_bytes_do_not_repair(place, registry):
    (files(place, BASE) / "bin/sh").unlink()
    registry.blobs["app"][sha(pack(BASE))] = pack(TOP)
    before = place.snapshotter.ids()
    checked = Checked(place)
    with pytest.raises(CortenError, match="invalid content"):
        checked.repair()
    assert place.snapshotter.ids() == before
    assert not place.snapshotter.moving


def test_an_image_that_came_from_no_registry(tmp_path, place):
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"".join(place.store.archives.save([image_of(place).id])))
    other = Place(tmp_path / "other")
    with open(archive, "rb") as file:
        other.store.archives.load(file)
    (files(other, BASE) / "bin/sh").unlink()
    with pytest.raises(NotFound, match="no registry is known to have it"):
        Checked(other).repair()
    other.close()


def test_a_layer_below_a_running_program_is_left_alone(place):
    top = files(place, TOP).parent.name
    place.snapshotter.create("c" * 64, top)
    (files(place, BASE) / "bin/sh").unlink()
    with pytest.raises(Conflict, match="a running container uses it"):
        Checked(place, running=("c" * 64,)).repair()
    assert Checked(place).repair() == ["fetched again"]


def test_a_layer_of_an_image_that_is_mounted_in_a_running_container_is_left_alone(place):
    (files(place, BASE) / "bin/sh").unlink()
    with pytest.raises(Conflict, match="a running container uses it"):
        Checked(place, mounted=(image_of(place).id,)).repair()
    assert Checked(place, mounted=("sha256:gone",)).repair() == ["fetched again"]


def test_files_that_cannot_be_looked_at_are_a_finding(tmp_path):
    assert "No such file" in damage([bytes(1024)], tmp_path / "gone", overlay=True, rights=Rights.here())


def test_what_nothing_names_goes(place):
    stray = place.snapshotter.stage(None)
    place.snapshotter.moving.clear()  # as after the daemon's end
    (place.data_root / "overlay2/l/LOST").symlink_to("../nowhere/diff")
    blob = place.data_root / "blobs/sha256" / ("0" * 64)
    for path in (blob, blob.with_name(".new-00")):
        path.write_bytes(b"old")
        os.utime(path, (0, 0))
    checked = Checked(place)
    assert checked.kinds == ["directory", "directory", "blob", "blob"]
    assert stray in [finding.id for finding in checked.found]
    assert checked.repair() == ["removed"] * 4
    assert Checked(place).found == []


def test_names_of_nothing_and_layers_that_are_not_recorded(place, registry):
    metadata = place.store._metadata
    metadata._database.execute("PRAGMA foreign_keys=OFF")
    image = image_of(place)
    metadata._database.execute("INSERT INTO tags VALUES ('localhost/lost:1', 'sha256:gone', 0)")
    metadata._database.execute("DELETE FROM layers WHERE diff_id = ?", (sha(TOP),))
    metadata._tables = metadata._read()
    checked = Checked(place)
    assert checked.kinds == ["image", "name", "directory"]
    assert checked.found[0].id == image.id
    with pytest.raises(Conflict, match="remove it and pull or load it again"):
        checked.repair()


def test_what_is_under_way_is_no_finding(place, registry):
    """A pull whose layer is half unpacked, and one that has just been placed."""
    more = Tar().file("noise", os.urandom(300_000)).bytes()
    registry.put_image("next", [BASE, more], "1", pack=pack)
    half, go = threading.Event(), threading.Event()

    def slowly(exchange):
        content = pack(more)
        exchange.head(200, content_length=str(len(content)))
        exchange.wfile.write(content[:1000])
        half.set()
        go.wait(20)
        exchange.wfile.write(content[1000:])

    registry.on(f"GET .*/blobs/{sha(pack(more))}", slowly)
    puller = threading.Thread(target=place.pull, args=(f"{registry.netloc}/next:1",))
    puller.start()
    assert half.wait(10)
    try:
        assert Checked(place).found == []
        assert place.snapshotter.moving
    finally:
        go.set()
        puller.join()
    assert Checked(place).found == []
    assert not place.snapshotter.moving


def test_prune_and_removal_work_on_a_damaged_store(place, registry):
    shutil.rmtree(files(place, BASE).parent)
    (files(place, TOP) / "srv/data").unlink()
    image = image_of(place)
    (place.data_root / "blobs/sha256" / image.id[7:]).unlink()
    rows = place.store.remove(f"{registry.netloc}/app:1", force=False, prune=True, in_use=lambda _: [])
    assert {"Deleted": image.id} in rows
    place.pull(f"{registry.netloc}/app:1")
    assert [finding for finding in Checked(place).found if finding.kind != "directory"] == []


def test_whole_copies(tmp_path, registry):
    if os.geteuid():
        pytest.skip("needs root: owners are set only then")
    made = Place(tmp_path / "vfs", VfsSnapshotter)
    made.pull(f"{registry.netloc}/app:1")
    assert Checked(made).found == []
    (files(made, BASE) / "bin/sh").unlink()
    shutil.rmtree(files(made, TOP))
    checked = Checked(made)
    assert checked.kinds == ["layer", "layer"]
    assert checked.repair() == ["fetched again", "fetched again"]
    assert Checked(made).found == []
    made.close()
