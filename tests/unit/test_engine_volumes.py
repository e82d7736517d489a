"""Volumes without mounts: names, labels, users, removal, recovery."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading

import pytest

from corten.dockerapi.volume import VolumeCreate
from corten.engine.events import Events
from corten.engine.mount_parsing import parse_bind
from corten.engine.mount_point import MountPoint
from corten.engine.volume_mounts import NameLocks, check_options
from corten.engine.volume_store import ANONYMOUS_LABEL
from corten.engine.volumes import Volumes
from corten.errors import Conflict, InvalidParameter, NotFound, SystemFailure


class Place:
    """A data root, and volumes on it as often as a daemon starts."""

    def __init__(self, root):
        self.root = root
        self.database = sqlite3.connect(root / "corten.db", isolation_level=None, check_same_thread=False)
        self.events = Events()

    def open(self):
        return Volumes(self.root, self.database, self.events)

    def told(self):
        return [(event["Action"], event["Actor"]["ID"]) for event in self.events._kept]


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.database.close()


def create(volumes, name="", **fields):
    return asyncio.run(volumes.create(VolumeCreate(name=name, **fields)))


def names(volumes, filters=None):
    return [item["Name"] for item in asyncio.run(volumes.list(filters or {}))["Volumes"]]


def remove(volumes, name, force=False):
    asyncio.run(volumes.remove(name, force))


def prune(volumes, filters=None):
    return asyncio.run(volumes.prune(filters or {}))


def no_root():
    raise AssertionError("nothing is to be copied")


def point(name, destination="/data", **fields):
    return MountPoint(type="volume", name=name, driver="local", destination=destination, **fields)


def test_create_and_inspect(place):
    volumes = place.open()
    made = create(volumes, "data", labels={"a": "b"})
    created = made.pop("CreatedAt")
    assert made == {
        "Driver": "local",
        "Labels": {"a": "b"},
        "Mountpoint": f"{place.root}/volumes/data/_data",
        "Name": "data",
        "Options": None,
        "Scope": "local",
    }
    assert "." not in created
    assert created.endswith("Z")
    assert (place.root / "volumes/data/_data").is_dir()
    assert asyncio.run(volumes.inspect("data"))["Labels"] == {"a": "b"}
    assert place.told() == [("create", "data")]


def test_a_second_create_gives_the_same_volume(place):
    volumes = place.open()
    create(volumes, "data", labels={"a": "b"})
    assert create(volumes, "data", labels={"other": ""})["Labels"] == {"a": "b"}
    assert place.told() == [("create", "data")]
    options = {"type": "tmpfs", "device": "tmpfs"}
    assert create(volumes, "data", driver_opts=options)["Options"] is None
    create(volumes, "fast", driver_opts=options)
    assert create(volumes, "fast", driver_opts=options)["Options"] == options
    assert create(volumes, "fast")["Options"] == options


def test_without_a_name_it_is_anonymous(place):
    made = create(place.open())
    assert len(made["Name"]) == 64
    assert made["Labels"] == {ANONYMOUS_LABEL: ""}


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"name": "a"}, InvalidParameter, "create a: volume name is too short"),
        ({"name": "../x"}, InvalidParameter, "includes invalid characters for a local volume name"),
        ({"name": ".removing-x"}, InvalidParameter, "includes invalid characters"),
        ({"name": "x" * 256}, InvalidParameter, "includes invalid characters"),
        (
            {"name": "ok", "driver": "nfs"},
            NotFound,
            'create ok: error looking up volume plugin nfs: plugin "nfs" not found',
        ),
        ({"name": "ok", "cluster_volume_spec": {}}, InvalidParameter, "swarm"),
        ({"name": "ok", "driver_opts": {"colour": "red"}}, InvalidParameter, 'create ok: invalid option: "colour"'),
        (
            {"name": "ok", "driver_opts": {"type": "nfs"}},
            InvalidParameter,
            'create ok: missing required option: "device"',
        ),
    ],
)
def test_bad_volumes(place, fields, kind, text):
    volumes = place.open()
    with pytest.raises(kind) as caught:
        create(volumes, **fields)
    assert text in str(caught.value)
    assert names(volumes) == []
    assert os.listdir(place.root / "volumes") == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "/dev/x"}, 'missing required option: "type"'),
        ({"o": "bind", "device": "/x"}, 'missing required option: "type"'),
        ({"o": "bind", "type": "none"}, 'missing required option: "device"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"type": "cifs", "device": "//host:445/x"}, "port not allowed in CIFS device URL"),
    ],
)
def test_bad_driver_options(options, text):
    with pytest.raises(InvalidParameter, match=text):
        check_options(options)
    check_options({})
    check_options({"type": "nfs", "o": "addr=1.2.3.4,rw", "device": ":/x"})


def test_lists_and_their_filters(place):
    volumes = place.open()
    create(volumes, "alpha", labels={"tier": "front"})
    create(volumes, "beta", labels={"tier": "back", "x": ""})
    create(volumes, "gamma")
    volumes.of_containers.acquire_all("c1", [point("beta")], no_root)
    assert names(volumes) == ["alpha", "beta", "gamma"]
    assert names(volumes, {"dangling": ["true"]}) == ["alpha", "gamma"]
    assert names(volumes, {"dangling": ["0"]}) == ["beta"]
    assert names(volumes, {"name": ["^a", "mm"]}) == ["alpha", "gamma"]
    assert names(volumes, {"name": ["et"]}) == ["beta"]
    assert names(volumes, {"label": ["tier"]}) == ["alpha", "beta"]
    assert names(volumes, {"label": ["tier", "x"]}) == ["beta"]
    assert names(volumes, {"label": ["tier=front"]}) == ["alpha"]
    assert names(volumes, {"driver": ["local"]}) == ["alpha", "beta", "gamma"]
    assert names(volumes, {"driver": ["nfs"]}) == []
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        names(volumes, {"colour": ["red"]})
    with pytest.raises(InvalidParameter):
        names(volumes, {"dangling": ["maybe"]})


def test_remove(place):
    volumes = place.open()
    create(volumes, "data")
    (place.root / "volumes/data/_data/file").write_text("x")
    remove(volumes, "data")
    assert os.listdir(place.root / "volumes") == []
    assert place.told() == [("create", "data"), ("destroy", "data")]
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        remove(volumes, "data")
    remove(volumes, "data", force=True)
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        asyncio.run(volumes.inspect("data"))


def test_what_is_used_is_not_removed(place):
    volumes = place.open()
    volumes.of_containers.acquire_all("c2", [point("data")], no_root)
    volumes.of_containers.acquire_all("c1", [point("data"), point("data", "/again")], no_root)
    assert volumes.users("data") == ["c1", "c2"]
    for force in (False, True):
        with pytest.raises(Conflict, match=r"^remove data: volume is in use - \[c1, c2\]$"):
            remove(volumes, "data", force)
    volumes.of_containers.release("c1")
    volumes.of_containers.release("c2")
    remove(volumes, "data")


def test_prune_takes_anonymous_volumes_that_nobody_uses(place):
    volumes = place.open()
    anonymous, used = create(volumes)["Name"], create(volumes)["Name"]
    create(volumes, "named", labels={"keep": ""})
    (place.root / f"volumes/{anonymous}/_data/file").write_bytes(b"x" * 1000)
    volumes.of_containers.acquire_all("c1", [point(used)], no_root)
    assert prune(volumes) == {"VolumesDeleted": [anonymous], "SpaceReclaimed": 1000}
    assert prune(volumes) == {"VolumesDeleted": None, "SpaceReclaimed": 0}
    assert prune(volumes, {"all": ["true"], "label!": ["keep"]})["VolumesDeleted"] is None
    assert prune(volumes, {"all": ["true"], "label": ["keep"]})["VolumesDeleted"] == ["named"]
    assert names(volumes) == [used]
    with pytest.raises(InvalidParameter, match="invalid filter 'until'"):
        prune(volumes, {"until": ["1h"]})
    assert place.told()[-1] == ("prune", "")


def test_rm_v_takes_anonymous_volumes_only(place):
    volumes = place.open()
    mine, shared = point("named"), point("a" * 64, "/s", anonymous=True)
    own = point("b" * 64, "/o", anonymous=True)
    volumes.of_containers.acquire_all("c1", [mine, shared, own], no_root)
    volumes.of_containers.acquire_all("c2", [shared], no_root)
    volumes.of_containers.release("c1")
    volumes.of_containers.remove_anonymous([mine, shared, own])
    assert names(volumes) == ["a" * 64, "named"]


def test_usage(place):
    volumes = place.open()
    volumes.of_containers.acquire_all("c1", [point("data")], no_root)
    (place.root / "volumes/data/_data/file").write_bytes(b"x" * 77)
    (found,) = volumes.usage()
    assert found["UsageData"] == {"RefCount": 1, "Size": 77}


def test_located_points_know_their_place(place):
    volumes = place.open()
    found = volumes.of_containers.located(parse_bind("data:/x"))
    assert (found.source, found.attached) == (f"{place.root}/volumes/data/_data", "")
    part = volumes.of_containers.located(point("data", subpath="a"))
    assert part.attached.startswith(f"{place.root}/volumes/.subpaths/")
    assert part.attached != volumes.of_containers.located(point("data", subpath="a")).attached
    bind = parse_bind("/srv:/x")
    assert volumes.of_containers.located(bind) is bind


def test_volumes_of_a_container_that_could_not_be_made_are_gone(place):
    volumes = place.open()
    create(volumes, "before")
    bad = point("fast", "/f", driver_options={"colour": "red"})
    with pytest.raises(InvalidParameter, match="invalid option"):
        volumes.of_containers.acquire_all("c1", [point("before"), point("made"), bad], no_root)
    assert names(volumes) == ["before"]
    assert volumes.users("before") == []


# -- copy-up ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def image_root(tmp_path):
    root = tmp_path / "image"
    (root / "data/sub").mkdir(parents=True)
    (root / "data/file").write_text("from the image")
    (root / "data/sub/deep").write_text("deep")
    (root / "link").symlink_to("/data")
    (root / "out").symlink_to("../../../../../../../../etc")
    (root / "plain").write_text("no directory")
    return root


def opener(root, count=None):
    @contextlib.contextmanager
    def opened():
        if count is not None:
            count.append(1)
        descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    return opened


def test_an_empty_volume_is_filled_once(place, image_root):
    volumes = place.open()
    opened = []
    volumes.of_containers.acquire_all("c1", [point("data", copy_up=True)], opener(image_root, opened))
    inside = place.root / "volumes/data/_data"
    assert (inside / "file").read_text() == "from the image"
    assert (inside / "sub/deep").read_text() == "deep"
    (inside / "file").write_text("changed")
    volumes.of_containers.acquire_all("c2", [point("data", copy_up=True)], opener(image_root, opened))
    assert (inside / "file").read_text() == "changed"
    assert len(opened) == 1  # what is filled needs no root


@pytest.mark.parametrize(
    ("destination", "expected"),
    [("/link", {"file", "sub"}), ("/link/sub", {"deep"}), ("/absent", set()), ("/plain", set()), ("/out", set())],
)
def test_the_mount_point_is_looked_up_inside_the_image(place, image_root, destination, expected):
    volumes = place.open()
    volumes.of_containers.acquire_all("c1", [point("data", destination, copy_up=True)], opener(image_root))
    assert set(os.listdir(place.root / "volumes/data/_data")) == expected


def test_nocopy_leaves_a_volume_empty(place):
    volumes = place.open()
    volumes.of_containers.acquire_all("c1", [point("data", copy_up=False)], no_root)
    assert os.listdir(place.root / "volumes/data/_data") == []


def test_a_volume_that_could_not_be_filled_is_empty_again(place, image_root, monkeypatch):
    from corten.engine import copy_up as room

    volumes = place.open()
    create(volumes, "data")
    copied = []

    def broken(*arguments):
        if copied:
            raise OSError(28, "No space left on device")
        copied.append(arguments)
        real(*arguments)

    real = room._copy_file
    monkeypatch.setattr(room, "_copy_file", broken)
    with pytest.raises(SystemFailure, match=r"failed to populate volume data from /data: .*No space left"):
        volumes.of_containers.acquire_all("c1", [point("data", copy_up=True)], opener(image_root))
    assert copied
    assert os.listdir(place.root / "volumes/data/_data") == []
    assert volumes.users("data") == []
    monkeypatch.undo()
    volumes.of_containers.acquire_all("c1", [point("data", copy_up=True)], opener(image_root))
    assert set(os.listdir(place.root / "volumes/data/_data")) == {"file", "sub"}


def test_two_containers_at_once_fill_it_once(place, image_root):
    for number in range(300):
        (image_root / f"data/f{number}").write_text("x")
    volumes = place.open()
    failures = []

    def start(container_id):
        try:
            volumes.of_containers.acquire_all(container_id, [point("data", copy_up=True)], opener(image_root))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(f"c{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(os.listdir(place.root / "volumes/data/_data")) == 302
    assert volumes.users("data") == ["c0", "c1", "c2", "c3"]
    assert place.told() == [("create", "data")]


# -- the next daemon --------------------------------------------------------------------------------------------------


def test_volumes_outlive_the_daemon(place):
    volumes = place.open()
    create(volumes, "data", labels={"a": "b"})
    volumes.of_containers.acquire_all("c1", [point("data")], no_root)
    again = place.open()
    again.of_containers.recover({}, {"c1"})
    assert asyncio.run(again.inspect("data"))["Labels"] == {"a": "b"}
    assert again.users("data") == ["c1"]


def test_users_that_no_record_names_are_forgotten(place):
    place.open().of_containers.acquire_all("dead", [point("data")], no_root)
    volumes = place.open()
    volumes.of_containers.recover({}, set())
    remove(volumes, "data")


def test_removals_are_finished(place):
    hidden = place.root / "volumes/.removing-0123"
    hidden.mkdir(parents=True)
    (hidden / "file").write_text("x")
    place.open().of_containers.recover({}, set())
    assert not hidden.exists()


def test_a_volume_whose_directory_is_gone(place):
    volumes = place.open()
    create(volumes, "unused")
    volumes.of_containers.acquire_all("c1", [point("used")], no_root)
    for name in ("used", "unused"):
        (place.root / f"volumes/{name}/_data").rmdir()
        (place.root / f"volumes/{name}").rmdir()
    volumes = place.open()
    volumes.of_containers.recover({}, {"c1"})
    assert names(volumes) == ["used"]
    assert (place.root / "volumes/used/_data").is_dir()


def test_a_half_filled_volume_is_emptied(place, image_root):
    volumes = place.open()
    create(volumes, "data")
    create(volumes, "whole")
    for name in ("data", "whole"):
        (place.root / f"volumes/{name}/_data/file").write_text("x")
    place.database.execute("UPDATE volumes SET filling=1 WHERE name='data'")
    place.open().of_containers.recover({}, set())
    assert os.listdir(place.root / "volumes/data/_data") == []
    assert os.listdir(place.root / "volumes/whole/_data") == ["file"]
    volumes = place.open()
    volumes.of_containers.acquire_all("c1", [point("data", copy_up=True)], opener(image_root))
    (place.root / "volumes/data/_data/mine").write_text("x")
    place.open().of_containers.recover({}, {"c1"})
    assert "mine" in os.listdir(place.root / "volumes/data/_data")


def test_a_disk_that_refuses_is_a_system_failure(place):
    volumes = place.open()
    place.database.execute("PRAGMA query_only=1")
    with pytest.raises(SystemFailure, match="cannot read or save volumes"):
        create(volumes, "data")


def test_locks_of_names_are_forgotten():
    locks = NameLocks()
    order = []

    def wait():
        with locks.hold("a"):
            order.append("second")

    with locks.hold("a"), locks.hold("a"), locks.hold("b"):
        thread = threading.Thread(target=wait)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert locks._locks == {}
