"""The image store: archives in and out, names, sharing, removal, crashes.  Needs no root."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import random
import sqlite3
import tarfile
import threading
from pathlib import Path

import image_archives as archives
import pytest
import zstandard
from tar_builder import Tar, one_line

from corten.errors import Conflict, CortenError, DataLoss, InvalidParameter, NotFound
from corten.image.compression import Limits
from corten.image.store import ImageStore
from corten.oci import descriptor
from corten.snapshot.overlay import OverlaySnapshotter
from corten.snapshot.vfs import VfsSnapshotter

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).dir("etc").file("etc/passwd", b"root\n").bytes()
NEXT = Tar().dir("etc").file("etc/.wh.passwd").file("etc/group", b"wheel\n").bytes()
TOP = Tar().dir("srv").file("srv/data", bytes(range(256)) * 100).bytes()


class Place:
    """A data root, and the store on it."""

    def __init__(self, directory: Path, driver: type = OverlaySnapshotter, **options) -> None:
        self.data_root = directory / "data"
        self.data_root.mkdir(parents=True, exist_ok=True)
        self.host_root = directory / "host"
        (self.host_root / "etc").mkdir(parents=True, exist_ok=True)
        self.driver = driver
        self.options = options
        self.store = self.open()

    def open(self) -> ImageStore:
        self.snapshotter = self.driver(self.data_root)
        self.store = ImageStore(
            self.data_root,
            self.snapshotter,
            exec_root=self.data_root / "run",
            host_root=str(self.host_root),
            **self.options,
        )
        return self.store

    def again(self) -> ImageStore:
        self.store.close()
        return self.open()

    def layers(self) -> set[str]:
        """Snapshots that are no part of the host image."""
        own = {layer for name in ("host", "host:full") for layer in self._host(name)}
        return {name for name in self.snapshotter.ids() if name not in own}

    def _host(self, name: str) -> tuple[str, ...]:
        try:
            return self.store.get(name).layers
        except NotFound:
            return ()

    def images(self) -> list[tuple[str, ...]]:
        return sorted(image.tags for image in self.store.all() if not self.store.is_builtin(image.id))

    def blobs(self) -> int:
        own = sum(1 for image in self.store.all() if self.store.is_builtin(image.id))
        return len(list((self.data_root / "blobs/sha256").iterdir())) - own

    def is_empty(self) -> bool:
        return not self.layers() and not self.images() and not self.blobs() and not self.scratch()

    def scratch(self) -> list[str]:
        known = {"blobs", "images.db", "images.db-wal", "images.db-shm", "overlay2", "vfs"}
        return [name for name in os.listdir(self.data_root) if name not in known]

    def load(self, members: list[tuple[str, bytes | str]]) -> list[str]:
        return self.store.archives.load(io.BytesIO(archives.tar(members)))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    yield made
    with contextlib.suppress(sqlite3.ProgrammingError):
        made.store.close()


def nobody(_: str) -> list[tuple[str, bool]]:
    return []


# -- load ------------------------------------------------------------------------------------------------------------


def test_a_docker_archive(place):
    members = archives.docker_members([BASE, NEXT], tags=["busybox:1", "localhost:5000/other:x"])
    assert place.load(members) == ["busybox:1", "localhost:5000/other:x"]
    image = place.store.get("busybox:1")
    assert image.id == archives.sha(members[0][1])
    assert image.tags == ("busybox:1", "localhost:5000/other:x")
    assert image.layer_sizes == (6005, 6)
    assert image.size == 6011
    assert image.parent == ""
    assert image.config["config"] == {"Cmd": ["/bin/sh"]}
    assert (place.snapshotter.diff_path(image.layers[0]) / "etc/passwd").read_bytes() == b"root\n"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_members_in_any_order(place, order):
    members = archives.docker_members([BASE, NEXT], tags=["a:1"])
    assert place.load([members[index] for index in order]) == ["a:1"]
    assert place.store.get("a:1").layer_sizes == (6005, 6)


PACKERS = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstandard.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("inner", PACKERS)
@pytest.mark.parametrize("outer", PACKERS)
def test_any_compression_outside_and_inside(place, outer, inner):
    image = archives.config(BASE, NEXT)
    packed = [PACKERS[inner](layer) for layer in (BASE, NEXT)]
    raw = archives.tar(archives.docker_members(packed, tags=["a:1"], image=image))
    assert place.store.archives.load(io.BytesIO(PACKERS[outer](raw))) == ["a:1"]
    assert place.store.get("a:1").id == archives.sha(image)


@pytest.mark.parametrize("driver", [OverlaySnapshotter, VfsSnapshotter])
def test_an_oci_layout(tmp_path, driver):
    place = Place(tmp_path, driver)
    stored = [gzip.compress(BASE), gzip.compress(NEXT)]
    members = archives.oci_members([BASE, NEXT], name="example.com/busybox:1", stored=stored)
    assert place.load(members) == ["example.com/busybox:1"]
    image = place.store.get("example.com/busybox:1")
    assert image.digests == (f"example.com/busybox@{archives.sha(members[2][1])}",)
    assert place.store.get(image.digests[0]).id == image.id
    top = place.snapshotter.diff_path(image.layers[-1]) / "etc"
    assert sorted(os.listdir(top)) == (["group", "passwd"] if driver is OverlaySnapshotter else ["group"])
    assert b"".join(place.store.archives.save(["example.com/busybox:1"])).count(NEXT) == 1


def test_names_of_oci_layouts(place):
    """A bare word is only a tag: nobody knows of which repository."""
    members = archives.oci_members([BASE], name="latest")
    assert place.load(members) == [archives.sha(members[3][1])]
    assert place.load(archives.oci_members([NEXT], name="repo/name")) == ["repo/name:latest"]
    assert place.load(archives.oci_members([TOP])) == [archives.sha(archives.config(TOP))]


def test_the_platform_of_this_machine_is_chosen(place):
    from corten.oci.platform import this_machine

    images = {
        name: archives.config(layer, architecture=name)
        for name, layer in (("s390x", BASE), (this_machine().architecture, NEXT))
    }
    manifests = {
        name: archives.oci_manifest(images[name], [layer]) for name, layer in zip(images, (BASE, NEXT), strict=True)
    }
    inner = archives.oci_index(
        *(
            archives.described(manifests[name], descriptor.OCI_MANIFEST, platform={"os": "linux", "architecture": name})
            for name in images
        ),
        archives.described(b"{}", descriptor.OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}),
    )
    index = archives.oci_index(
        archives.described(
            inner, descriptor.OCI_INDEX, annotations={descriptor.ANNOTATION_IMAGE_NAME: "docker.io/library/m:1"}
        )
    )
    blobs = [inner, *manifests.values(), *images.values(), BASE, NEXT]
    assert place.load([("index.json", index), *(archives.blob(content) for content in blobs)]) == ["m:1"]
    assert place.store.get("m:1").config["architecture"] == this_machine().architecture
    # an archive that only has another platform is loaded all the same, as Docker does
    other = Place(place.data_root.parent / "other")
    only = archives.oci_index(
        archives.described(
            manifests["s390x"], descriptor.OCI_MANIFEST, platform={"os": "linux", "architecture": "s390x"}
        )
    )
    assert other.load(
        [("index.json", only), *(archives.blob(item) for item in (manifests["s390x"], images["s390x"], BASE))]
    )


def test_layers_that_are_links(place):
    """As Docker 20.10 saves a layer that occurs twice, and skopeo every layer."""
    members = archives.docker_members([BASE, BASE], tags=["a:1"])
    members[2] = ("1/layer.tar", "../0/layer.tar")
    assert place.load(members) == ["a:1"]
    assert place.store.get("a:1").layer_sizes == (6005, 6005)


@pytest.mark.parametrize("target", ["../../../../etc/passwd", "/etc/passwd", "1/layer.tar", "../1/layer.tar"])
def test_links_never_leave_the_archive(place, target):
    members = archives.docker_members([BASE, NEXT], tags=["a:1"])
    members[2] = ("1/layer.tar", target)
    with pytest.raises(InvalidParameter, match="invalid image archive"):
        place.load(members)
    assert place.is_empty()


def test_several_images_share_layers(place):
    first, second = archives.config(BASE, NEXT), archives.config(BASE, TOP)
    names = {"b": BASE, "n": NEXT, "t": TOP}
    manifest = [
        {"Config": "1.json", "RepoTags": ["a:1"], "Layers": ["b", "n"]},
        {"Config": "2.json", "RepoTags": ["a:2"], "Layers": ["b", "t"]},
        {"Config": "1.json", "RepoTags": ["a:3"], "Layers": ["b", "n"]},
    ]
    members = [*names.items(), ("1.json", first), ("2.json", second), ("manifest.json", json.dumps(manifest).encode())]
    assert place.load(members) == ["a:1", "a:2", "a:3"]
    assert len(place.layers()) == 3
    assert place.store.get("a:1").layers[0] == place.store.get("a:2").layers[0]
    assert place.store.get("a:3").id == place.store.get("a:1").id


def test_ten_images_on_one_base_store_it_once(place):
    for number in range(10):
        own = Tar().file("n", b"%d" % number).bytes()
        place.load(archives.docker_members([BASE, own], tags=[f"i:{number}"]))
    assert len(place.layers()) == 11


def test_one_layer_on_two_parents_is_stored_for_each(place):
    place.load(archives.docker_members([BASE, TOP], tags=["a:1"]))
    place.load(archives.docker_members([NEXT, TOP], tags=["a:2"]))
    assert len(place.layers()) == 4
    raw = b"".join(place.store.archives.save(["a:2"]))
    assert TOP in raw
    # a layer that the store has is not unpacked again: Docker's archives name layers by their digest
    members = archives.oci_members([BASE, NEXT, TOP], name="x/y:3")
    assert place.load(members) == ["x/y:3"]
    assert len(place.layers()) == 6


def test_loading_again_changes_nothing(place):
    members = archives.docker_members([BASE, NEXT], tags=["a:1"])
    place.load(members)
    before = (place.layers(), place.images(), place.blobs())
    assert place.load(members) == ["a:1"]
    assert (place.layers(), place.images(), place.blobs()) == before


def test_a_taken_name_moves_and_it_is_told(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    old = place.store.get("a:1").id
    told: list[dict] = []
    place.store.archives.load(io.BytesIO(archives.tar(archives.docker_members([NEXT], tags=["a:1"]))), told.append)
    assert {"stream": f"The image a:1 already exists, renaming the old one with ID {old} to empty string\n"} in told
    assert place.store.get(old).tags == ()
    assert place.images() == [(), ("a:1",)]


def test_progress_names_layers_and_bytes(place):
    told: list[dict] = []
    place.store.archives.load(io.BytesIO(archives.tar(archives.oci_members([BASE]))), told.append)
    assert told[-1]["status"] == "Loading layer"
    assert told[-1]["progressDetail"] == {"current": len(BASE), "total": len(BASE)}
    assert told[-1]["id"] == archives.sha(BASE)[7:19]


def test_an_empty_layer_and_an_image_without_layers(place):
    assert place.load(archives.docker_members([bytes(1024), b""], tags=["e:1"])) == ["e:1"]
    assert place.load(archives.docker_members([], tags=["e:2"])) == ["e:2"]
    assert place.store.get("e:2").layers == ()
    assert place.store.history("e:2")[0]["Size"] == 0
    other = Place(place.data_root.parent / "other")
    assert other.store.archives.load(io.BytesIO(b"".join(place.store.archives.save(["e:1", "e:2"])))) == ["e:1", "e:2"]


# -- archives that are refused ---------------------------------------------------------------------------------------


def changed(members, name, content):
    return [(key, content if key == name else value) for key, value in members]


def bad_archives() -> dict[str, list[tuple[str, bytes | str]]]:
    docker = archives.docker_members([BASE, NEXT], tags=["a:1"])
    oci = archives.oci_members([BASE, NEXT], name="x/y:1")
    manifest = json.loads(docker[-1][1])[0]

    def with_manifest(**fields):
        return changed(docker, "manifest.json", json.dumps([{**manifest, **fields}]).encode())

    return {
        "no manifest": docker[:-1],
        "nothing": [],
        "manifest is no json": changed(docker, "manifest.json", b"nonsense"),
        "manifest is an object": changed(docker, "manifest.json", b"{}"),
        "manifest lists words": changed(docker, "manifest.json", b'["x"]'),
        "manifest is empty": changed(docker, "manifest.json", b"[]"),
        "manifest is huge": changed(docker, "manifest.json", b"[" + b" " * (9 << 20) + b"]"),
        "config missing": docker[1:],
        "config outside": with_manifest(Config="../../../../etc/passwd"),
        "config absolute": with_manifest(Config="/etc/passwd"),
        "config is a number": with_manifest(Config=5),
        "config of wrong digest": changed(docker, docker[0][0], archives.config(BASE, NEXT, author="other")),
        "config is no json": with_manifest(Config="0/layer.tar"),
        "layer missing": [docker[0], docker[1], docker[3]],
        "layer outside": with_manifest(Layers=["0/layer.tar", "../../../../etc/passwd"]),
        "layers are numbers": with_manifest(Layers=[1, 2]),
        "too few layers": with_manifest(Layers=["0/layer.tar"]),
        "too many layers": with_manifest(Layers=["0/layer.tar"] * 3),
        "layers swapped": with_manifest(Layers=["1/layer.tar", "0/layer.tar"]),
        "layer of wrong content": changed(docker, "1/layer.tar", TOP),
        "layer is no tar": changed(docker, "1/layer.tar", b"x" * 5000),
        "layer is a document": changed(docker, "1/layer.tar", b'{"a": 1}'),
        "layer is truncated": changed(docker, "0/layer.tar", BASE[:3000]),
        "layer is truncated gzip": changed(docker, "0/layer.tar", gzip.compress(BASE)[:-20]),
        "layer escapes": archives.docker_members([Tar().file("../x", b"x").bytes()], tags=["a:1"]),
        "tag malformed": with_manifest(RepoTags=["Not Valid"]),
        "tag without tag": with_manifest(RepoTags=["name"]),
        "tag with digest": with_manifest(RepoTags=["a@sha256:" + "a" * 64]),
        "tag of the host image": with_manifest(RepoTags=["host:latest"]),
        "tags are a word": with_manifest(RepoTags="a:1"),
        "oci index missing": [item for item in oci if item[0] != "index.json"],
        "oci manifest missing": [item for item in oci if item != oci[2]],
        "oci config missing": [item for item in oci if item != oci[3]],
        "oci layer missing": oci[:-1],
        "oci layer wrong": changed(oci, oci[-1][0], TOP),
        "oci manifest wrong": changed(oci, oci[2][0], oci[2][1] + b" "),
        "oci config wrong": changed(oci, oci[3][0], oci[3][1] + b" "),
        "oci index confused": changed(oci, "index.json", b'{"schemaVersion": 2, "manifests": [], "layers": []}'),
        "oci index empty": changed(oci, "index.json", b'{"schemaVersion": 2, "manifests": []}'),
        "oci digest as a path": changed(
            oci,
            "index.json",
            archives.oci_index({"mediaType": descriptor.OCI_MANIFEST, "digest": "sha256:../../x", "size": 1}),
        ),
        "oci layout of the future": changed(oci, "oci-layout", b'{"imageLayoutVersion": "2.0.0"}'),
        "128 layers": archives.docker_members([BASE] * 128, tags=["a:1"]),
        "second image bad": [
            *docker[:-1],
            ("manifest.json", json.dumps([manifest, {**manifest, "Layers": ["0/layer.tar"]}]).encode()),
        ],
    }  # fmt: skip


BAD = bad_archives()


@pytest.mark.parametrize("driver", [OverlaySnapshotter, VfsSnapshotter])
@pytest.mark.parametrize("case", BAD)
def test_bad_archives_leave_nothing(tmp_path, case, driver):
    place = Place(tmp_path, driver)
    with pytest.raises((InvalidParameter, DataLoss, Conflict)) as caught:
        place.load(BAD[case])
    assert "\n" not in str(caught.value)
    assert str(caught.value)
    assert place.is_empty()
    # and a good one still works
    assert place.load(archives.docker_members([BASE], tags=["good:1"])) == ["good:1"]
    place.store.close()


def test_a_wrong_layer_is_told_in_docker_s_words(place):
    with pytest.raises(
        DataLoss, match=r"invalid diffID for layer 1/layer\.tar: expected sha256:[0-9a-f]{64}, got sha256:[0-9a-f]{64}"
    ):
        place.load(BAD["layer of wrong content"])
    with pytest.raises(InvalidParameter, match="invalid manifest, layers length mismatch: expected 2, got 1"):
        place.load(BAD["too few layers"])
    with pytest.raises(InvalidParameter, match="max depth exceeded"):
        place.load(BAD["128 layers"])


def test_a_known_name_does_not_excuse_wrong_bytes(place):
    """A layer that is there already is not unpacked; that its bytes are others than its name says is an error still."""
    place.load(archives.oci_members([BASE], name="a/b:1"))
    members = archives.oci_members([BASE, NEXT], name="a/b:2")
    with pytest.raises(DataLoss):
        place.load(changed(members, archives.blob(BASE)[0], TOP))
    assert place.images() == [("a/b:1",)]


def test_broken_members_that_nobody_names_are_ignored(place):
    members = [
        ("junk/layer.tar", b"\xff" * 4096),
        ("evil", Tar().file("../x", b"y").bytes()),
        *archives.docker_members([BASE], tags=["a:1"]),
    ]
    assert place.load(members) == ["a:1"]
    assert len(place.layers()) == 1


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("packer", ["plain", "gzip", "zstd"])
def test_truncated_archives_leave_nothing(place, cut, packer):
    raw = PACKERS[packer](archives.tar(archives.oci_members([BASE, NEXT], name="a/b:1")).rstrip(b"\0") + bytes(512))
    with pytest.raises((InvalidParameter, DataLoss)):
        place.store.archives.load(io.BytesIO(raw[: int(len(raw) * cut)]))
    assert place.is_empty()


def test_damaged_archives_end_in_errors_and_leak_nothing(place):
    """Every kind of damage: one line, no descriptor, no thread, no layer more."""
    raw = archives.tar(
        archives.oci_members([BASE, NEXT], name="a/b:1", stored=[gzip.compress(BASE), gzip.compress(NEXT)])
    )
    dice = random.Random(7)
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    refused = 0
    for _ in range(150):
        damaged = bytearray(raw)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            place.store.archives.load(io.BytesIO(bytes(damaged)))
        except CortenError as error:
            refused += 1
            one_line(error)
    assert refused > 50
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert threading.active_count() <= threads  # one of a test before may have ended meanwhile
    for image in place.store.all():
        if not place.store.is_builtin(image.id):
            place.store.remove(image.id, force=True, prune=True, in_use=nobody)
    assert not place.layers()


def test_a_bomb_is_stopped_and_its_space_returned(tmp_path):
    place = Place(tmp_path, limits=Limits(ratio=100, grace=8 << 20))
    layer = Tar().file("zeros", bytes(64 << 20)).bytes()
    members = archives.docker_members([gzip.compress(layer)], tags=["bomb:1"], image=archives.config(layer))
    with pytest.raises(InvalidParameter, match="decompression bomb"):
        place.load(members)
    assert place.is_empty()


def test_failures_of_the_source_leave_nothing(place):
    raw = archives.tar(archives.docker_members([BASE, NEXT], tags=["a:1"]))

    class Cut(io.RawIOBase):
        def __init__(self):
            self.sent = 0

        def read(self, size=-1):
            if self.sent > 8000:
                raise OSError("the request's body was cut short")
            self.sent += 1000
            return raw[self.sent - 1000 : self.sent]

    with pytest.raises(OSError, match="cut short"):
        place.store.archives.load(Cut())
    assert place.is_empty()


# -- save ------------------------------------------------------------------------------------------------------------


def test_saving_gives_docker_and_oci_at_once(place):
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1", "b:2"]))
    raw = b"".join(place.store.archives.save(["a:1"]))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
        content = {name: tar.extractfile(name).read() for name in names if tar.getmember(name).isfile()}
    assert set(names) >= {"manifest.json", "index.json", "oci-layout", "repositories"}
    for name, data in content.items():
        if name.startswith("blobs/sha256/"):
            assert archives.sha(data)[7:] == name[13:]
    (manifest,) = json.loads(content["manifest.json"])
    assert manifest["RepoTags"] == ["a:1"]
    assert [content[name] for name in manifest["Layers"]] == [BASE, NEXT]
    (entry,) = json.loads(content["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/a:1",
        "org.opencontainers.image.ref.name": "1",
    }
    assert json.loads(content["repositories"]) == {"a": {"1": archives.sha(NEXT)[7:]}}
    assert b"".join(place.store.archives.save(["a:1"])) == raw


def test_saving_and_loading_is_exact(place, tmp_path):
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1"]))
    place.load(archives.docker_members([BASE, TOP], tags=["a:2"]))
    raw = b"".join(place.store.archives.save(["a:1", "a:2"]))
    assert raw.count(BASE) == 1
    for driver in (OverlaySnapshotter, VfsSnapshotter):
        other = Place(tmp_path / driver.__name__, driver)
        assert other.store.archives.load(io.BytesIO(raw)) == ["a:1", "a:2"]
        assert other.store.get("a:1").id == place.store.get("a:1").id
        assert b"".join(other.store.archives.save(["a:1", "a:2"])) == raw
        other.store.close()


def test_what_a_reference_saves(place):
    place.load(archives.docker_members([BASE], tags=["a:1", "a:2", "b:1"]))

    def tags(*refs):
        with tarfile.open(fileobj=io.BytesIO(b"".join(place.store.archives.save(refs)))) as tar:
            return json.load(tar.extractfile("manifest.json"))[0]["RepoTags"]

    assert tags("a") == ["a:1", "a:2"]
    assert tags("a:2") == ["a:2"]
    assert tags("a:2", "b") == ["a:2", "b:1"]
    assert tags(place.store.get("a:1").id) is None
    assert tags(place.store.get("a:1").id[7:19], "b:1") == ["b:1"]


def test_the_layout_alone_and_in_a_directory(place, tmp_path):
    place.load(archives.docker_members([BASE, NEXT], tags=["x/a:1"]))
    with tarfile.open(fileobj=io.BytesIO(b"".join(place.store.archives.save(["x/a:1"], format="oci")))) as tar:
        assert "manifest.json" not in tar.getnames()
        assert "index.json" in tar.getnames()
    place.store.archives.save_directory(["x/a:1"], tmp_path / "layout")
    other = Place(tmp_path / "other")
    assert other.store.archives.load_directory(tmp_path / "layout") == ["x/a:1"]
    assert other.store.get("x/a:1").id == place.store.get("x/a:1").id
    with pytest.raises(InvalidParameter, match="not empty"):
        place.store.archives.save_directory(["x/a:1"], tmp_path / "layout")
    with pytest.raises(InvalidParameter, match="unknown archive format"):
        place.store.archives.save(["x/a:1"], format="zip")


def test_saving_what_is_not_there_or_was_changed(place, tmp_path):
    with pytest.raises(NotFound, match=r"^No such image: nope:latest$"):
        place.store.archives.save(["nope"])
    with pytest.raises(InvalidParameter):
        place.store.archives.save([])
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    (place.snapshotter.diff_path(place.store.get("a:1").layers[0]) / "etc/passwd").write_bytes(b"ROOT\n")
    with pytest.raises(DataLoss, match="was changed on disk"):
        b"".join(place.store.archives.save(["a:1"]))
    with pytest.raises(DataLoss):
        place.store.archives.save_directory(["a:1"], tmp_path / "layout")
    assert os.listdir(tmp_path / "layout") == []


# -- names -----------------------------------------------------------------------------------------------------------


def test_ways_to_name_an_image(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    image = place.store.get("a:1")
    place.store.tag("a:1", "a")
    for ref in (
        "a",
        "a:latest",
        "docker.io/library/a",
        image.id,
        image.id[7:],
        image.id[7:19],
        image.id[:20],
        image.id[7:9],
    ):
        assert place.store.get(ref).id == image.id
    for ref in ("zz", "a:2", "sha256:" + "0" * 64, "0" * 64, "a@sha256:" + "0" * 64, "sha256:xyz"):
        with pytest.raises(NotFound, match=r"^No such image: "):
            place.store.get(ref)
    for ref in ("", "A", "a b", ":"):
        with pytest.raises(InvalidParameter, match="invalid reference format"):
            place.store.get(ref)


def test_a_name_goes_before_an_id(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    place.load(archives.docker_members([NEXT], tags=["b:1"]))
    prefix = place.store.get("a:1").id[7:12]
    place.store.tag("b:1", prefix)
    assert place.store.get(prefix).id == place.store.get("b:1").id


def test_ambiguous_ids_are_refused(place):
    for number in range(17):
        place.load(archives.docker_members([], author=str(number)))
    letters = [image.id[7] for image in place.store.all()]
    twice = next(letter for letter in letters if letters.count(letter) > 1)
    with pytest.raises(InvalidParameter, match="ambiguous"):
        place.store.get(f"sha256:{twice}")


def test_tagging(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    place.store.tag("a:1", "registry.example.com:5000/x/y:z")
    assert place.store.get("registry.example.com:5000/x/y:z").tags == ("a:1", "registry.example.com:5000/x/y:z")
    assert place.store.tagged_ns(place.store.get("a:1").id) > 0
    with pytest.raises(NotFound):
        place.store.tag("nope", "x")
    with pytest.raises(InvalidParameter):
        place.store.tag("a:1", "Upper")
    with pytest.raises(InvalidParameter, match="digest"):
        place.store.tag("a:1", "x@sha256:" + "a" * 64)
    with pytest.raises(Conflict, match="built-in"):
        place.store.tag("a:1", "host")


# -- removal and garbage ---------------------------------------------------------------------------------------------


def test_removing_the_last_image_removes_everything(place):
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1"]))
    place.load(archives.docker_members([BASE, TOP], tags=["a:2"]))
    first = place.store.remove("a:1", force=False, prune=True, in_use=nobody)
    assert first[0] == {"Untagged": "a:1"}
    assert len(first) == 3  # the name, the image, its own layer
    assert len(place.layers()) == 2
    place.store.remove("a:2", force=False, prune=True, in_use=nobody)
    place.again()
    assert place.is_empty()


def test_containers_keep_layers_of_images_removed_by_force(place):
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1"]))
    container = "c" * 64
    place.snapshotter.create(container, place.store.get("a:1").layers[-1])
    image = place.store.get("a:1")
    with pytest.raises(Conflict):
        place.store.remove("a:1", force=False, prune=True, in_use=lambda _: [(container, False)])
    place.store.remove("a:1", force=True, prune=True, in_use=lambda _: [(container, False)])
    assert set(image.layers) <= place.layers()
    place.again()
    assert set(image.layers) <= place.layers()
    place.snapshotter.remove(container)
    place.again()
    assert place.is_empty()


def test_pinned_images_stay(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    with place.store.pin("a:1") as image:
        with pytest.raises(Conflict, match="in use right now"):
            place.store.remove("a:1", force=True, prune=True, in_use=nobody)
        assert place.store.prune(in_use=nobody, every=True) == ([], 0)
        assert place.store.get("a:1") == image
    place.store.remove("a:1", force=False, prune=True, in_use=nobody)


def test_prune(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1"]))  # takes the name
    place.load(archives.docker_members([BASE, TOP], tags=["keep:1"]))
    rows, freed = place.store.prune(in_use=nobody)
    assert [row for row in rows if row.get("Deleted", "").startswith("sha256")]
    assert freed == 0  # its only layer is shared
    assert place.images() == [("a:1",), ("keep:1",)]
    used = place.store.get("keep:1").id
    _, freed = place.store.prune(in_use=lambda key: [("c", False)] if key == used else [], every=True)
    assert freed == 6
    assert place.images() == [("keep:1",)]


def test_what_a_crash_leaves_is_swept_at_the_start(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    place.snapshotter.stage(None)
    committed = place.snapshotter.stage(None)
    place.snapshotter.commit(committed, None)
    (place.data_root / "blobs/sha256/.new-0123").write_bytes(b"half")
    (place.data_root / f"blobs/sha256/{'e' * 64}").write_bytes(b"unnamed")
    half = place.snapshotter.stage(None)
    (place.data_root / "overlay2" / half / "link").unlink()  # the name of a layer comes before it knows it
    place.again()
    assert all(name.exists() for name in (place.data_root / "overlay2/l").iterdir())
    assert place.layers() == set(place.store.get("a:1").layers)
    assert place.blobs() == 1


def test_images_survive_a_restart(place):
    place.load(archives.oci_members([BASE, NEXT], name="a/b:1"))
    before = place.store.get("a/b:1")
    assert place.again().get("a/b:1") == before


def test_an_image_whose_config_was_lost_can_still_be_removed(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    image = place.store.get("a:1")
    (place.data_root / "blobs/sha256" / image.id[7:]).write_bytes(b"damaged")
    place.again()
    assert place.images() == [("a:1",)]
    with pytest.raises(NotFound, match="was changed on disk"):
        place.store.get("a:1")
    place.store.remove("a:1", force=True, prune=True, in_use=nobody)
    assert not place.layers()


def test_a_database_of_the_future_is_not_touched(place):
    place.store.close()
    with contextlib.closing(sqlite3.connect(place.data_root / "images.db")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(CortenError, match="newer version"):
        place.open()


def test_many_threads_load_and_remove(place):
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(4):
                own = Tar().file("n", b"%d" % number).bytes()
                place.load(archives.docker_members([BASE, NEXT, own], tags=[f"t{number}:1"]))
                assert place.store.get(f"t{number}:1").layer_sizes[:2] == (6005, 6)
                place.store.all()
                if turn < 3:
                    place.store.remove(f"t{number}:1", force=False, prune=True, in_use=nobody)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(place.layers()) == 6


# -- history ---------------------------------------------------------------------------------------------------------


def test_history(place):
    steps = [
        {"created": "2023-11-14T22:13:20Z", "created_by": "/bin/sh -c #(nop) ADD file"},
        {"created": "2023-11-14T22:13:21Z", "created_by": "CMD", "empty_layer": True, "comment": "note"},
        {"created": "nonsense", "created_by": "RUN x"},
    ]
    place.load(archives.docker_members([BASE, NEXT], tags=["a:1"], history=steps))
    rows = place.store.history("a:1")
    image = place.store.get("a:1")
    assert [row["Size"] for row in rows] == [6, 0, 6005]
    assert sum(row["Size"] for row in rows) == image.size
    assert [row["Id"] for row in rows] == [image.id, "<missing>", "<missing>"]
    assert [row["Tags"] for row in rows] == [["a:1"], None, None]
    assert [row["Created"] for row in rows] == [-62135596800, 1_700_000_001, 1_700_000_000]
    assert rows[1]["Comment"] == "note"


def test_history_that_does_not_match_the_layers(place):
    place.load(archives.docker_members([BASE, NEXT], tags=["less:1"], history=[{"created_by": "one"}]))
    assert [row["Size"] for row in place.store.history("less:1")] == [6, 6005]
    place.load(archives.docker_members([BASE], tags=["more:1"], history=[{}, {}]))
    with pytest.raises(InvalidParameter, match="too many non-empty layers"):
        place.store.history("more:1")


# -- import and commit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_import(place, packer):
    image_id = place.store.archives.import_tar(
        io.BytesIO(PACKERS[packer](BASE)), reference="fs", changes=['CMD ["/bin/sh"]', "ENV A=1"],
        message="from a test", platform="linux/arm/v6",
    )  # fmt: skip
    image = place.store.get("fs:latest")
    assert image.id == image_id
    assert image.config["config"] == {"Cmd": ["/bin/sh"], "Env": ["A=1"]}
    assert (image.config["architecture"], image.config["variant"]) == ("arm", "v6")
    assert image.config["rootfs"]["diff_ids"] == [archives.sha(BASE)]
    assert place.store.history("fs")[0]["Comment"] == "from a test"
    assert BASE in b"".join(place.store.archives.save(["fs"]))


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"changes": ["RUN x"]}, BASE),
        ({"reference": "Upper"}, BASE),
        ({"reference": "host"}, BASE),
        ({"platform": "a/b/c/d"}, BASE),
        ({}, BASE[:3000]),
        ({}, b"this is no archive" * 100),
        ({}, Tar().file("../x", b"y").bytes()),
        ({}, gzip.compress(BASE)[:-9]),
    ],
)
def test_failed_imports_leave_nothing(place, options, content):
    with pytest.raises((InvalidParameter, DataLoss, Conflict)):
        place.store.archives.import_tar(io.BytesIO(content), **options)
    assert place.is_empty()


@pytest.mark.parametrize("driver", [OverlaySnapshotter, VfsSnapshotter])
def test_commit(tmp_path, driver):
    place = Place(tmp_path, driver)
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    base = place.store.get("a:1")
    container = "c" * 64
    place.snapshotter.create(container, base.layers[-1])
    upper = place.snapshotter.upper_path(container)
    (upper / "etc").mkdir(exist_ok=True)
    (upper / "etc/new").write_bytes(b"new content")
    os.link(upper / "etc/new", upper / "etc/same")
    if driver is OverlaySnapshotter:
        os.mknod(upper / "etc/passwd", 0o020600, 0)
    else:
        (upper / "etc/passwd").unlink()
    image_id = place.store.commit(
        container, base.id, {"Env": ["A=1"], "Cmd": ["x"], "Hostname": "left out", "Tty": True},
        command=["sh", "-c", "'make'"], author="me", comment="why", reference="a:2", changes=["LABEL k=v"],
    )  # fmt: skip
    image = place.store.get("a:2")
    assert image.id == image_id
    assert image.parent == base.id
    assert image.config["config"] == {"Env": ["A=1"], "Cmd": ["x"], "Labels": {"k": "v"}}
    assert image.config["author"] == "me"
    assert image.layers[0] == base.layers[0]
    assert image.layer_sizes[1] == len(b"new content")
    rows = place.store.history("a:2")
    assert [(row["Id"], row["CreatedBy"], row["Comment"], row["Size"]) for row in rows] == [
        (image_id, "sh -c 'make'", "why", 11),
        (base.id, "step 0", "", 6005),
    ]
    with tarfile.open(fileobj=io.BytesIO(b"".join(place.store.open_layer_tar(image.layers[1])))) as tar:
        names = tar.getnames()
    assert [name for name in names if name.startswith("etc/")] == ["etc/.wh.passwd", "etc/new", "etc/same"]
    with pytest.raises(Conflict, match="dependent child images"):
        place.store.remove(base.id, force=True, prune=True, in_use=nobody)
    # the same changes give the same layer
    place.store.commit(container, base.id, {}, reference="a:3")
    assert place.store.get("a:3").layers == image.layers
    place.snapshotter.remove(container)
    place.store.close()


def test_commit_without_changes_adds_no_layer(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    container = "c" * 64
    place.snapshotter.create(container, place.store.get("a:1").layers[-1])
    place.store.commit(container, place.store.get("a:1").id, {"Cmd": ["y"]}, reference="a:2")
    image = place.store.get("a:2")
    assert image.layers == place.store.get("a:1").layers
    assert image.config["history"][-1]["empty_layer"] is True
    assert [row["Size"] for row in place.store.history("a:2")] == [0, 6005]
    assert len([name for name in place.layers() if not name.startswith(container)]) == 1


def test_failed_commits_leave_nothing(place):
    place.load(archives.docker_members([BASE], tags=["a:1"]))
    before = place.layers()
    for options in ({"changes": ["FROM x"]}, {"reference": "Upper"}):
        with pytest.raises(InvalidParameter):
            place.store.commit("c" * 64, place.store.get("a:1").id, {}, **options)
    container = "d" * 64
    place.snapshotter.create(container, place.store.get("a:1").layers[-1])
    (place.snapshotter.upper_path(container) / "new").write_text("x")
    with pytest.raises(InvalidParameter, match="Env must be a list of strings"):
        place.store.commit(container, place.store.get("a:1").id, {"Env": [1]})
    place.snapshotter.remove(container)
    with pytest.raises(NotFound):
        place.store.commit("c" * 64, "sha256:" + "0" * 64, {})
    with pytest.raises(OSError, match="No such file"):
        place.store.commit("c" * 64, place.store.get("a:1").id, {})
    assert place.layers() == before


# -- the host image --------------------------------------------------------------------------------------------------


def test_the_host_image_is_always_there_and_cannot_go(place):
    image = place.store.get("host")
    assert image.tags == ("host:latest",)
    assert image.size == 0
    assert place.store.get("host:full").layers == image.layers[:1]
    assert place.snapshotter.diff_path(image.layers[0]) == place.host_root
    for ref in ("host", "host:full", image.id):
        with pytest.raises(Conflict, match="built in"):
            place.store.remove(ref, force=True, prune=True, in_use=nobody)
    assert place.store.prune(in_use=nobody, every=True) == ([], 0)
    with pytest.raises(InvalidParameter, match="cannot be saved"):
        place.store.archives.save(["host"])
    assert place.again().get("host") == image


def test_the_host_image_follows_the_machine(place):
    before = place.store.get("host")
    assert place.store.get("host") is before
    (place.host_root / "etc/shadow").write_text("secret")
    after = place.store.get("host")
    assert after.id != before.id
    mask = place.snapshotter.diff_path(after.layers[1])
    assert os.lstat(mask / "etc/shadow").st_rdev == 0
    assert place.store.get(before.id).tags == ()
    assert not place.store.is_builtin(before.id)
    place.store.prune(in_use=nobody)
    assert before.layers[1] not in place.snapshotter.ids()


def test_what_is_committed_on_the_host_holds_only_the_changes(place):
    host = place.store.get("host")
    container = "d" * 64
    place.snapshotter.create(container, host.layers[-1])
    (place.snapshotter.upper_path(container) / "added").write_bytes(b"12345")
    place.store.commit(container, host.id, {"Cmd": ["x"]}, reference="mine")
    image = place.store.get("mine")
    assert image.layers[:2] == host.layers
    assert image.size == 5
    assert len(image.config["rootfs"]["diff_ids"]) == 1
    rows = place.store.history("mine")
    assert [row["Size"] for row in rows] == [5, 0, 0]
    assert "only what was changed" in rows[0]["Comment"]
    raw = b"".join(place.store.archives.save(["mine"]))
    other = Place(place.data_root.parent / "other")
    other.store.archives.load(io.BytesIO(raw))
    # elsewhere it is the changes alone: an archive cannot ask for a machine's root
    assert len(other.store.get("mine").layers) == 1
    place.snapshotter.remove(container)


def test_no_host_image_where_the_driver_cannot(tmp_path):
    place = Place(tmp_path, VfsSnapshotter)
    with pytest.raises(NotFound, match="No such image: host"):
        place.store.get("host")
    assert place.store.all() == []
