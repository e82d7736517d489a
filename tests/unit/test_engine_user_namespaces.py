"""Which ids containers have: what may be asked for, what is refused, and who gets which range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from corten.dockerapi.container import HostConfig
from corten.engine import remap_user
from corten.engine.container import IdMaps
from corten.engine.mount_point import MountPoint
from corten.engine.user_namespaces import Pool, UserNamespaces, automatic_size, free_range, remapped
from corten.errors import Conflict, InvalidParameter
from corten.linux import subids, user_namespace
from corten.linux.subids import Range, Translation

NONE = IdMaps()
REMAP = IdMaps(
    uids=[{"containerID": 0, "hostID": 100_000, "size": 65_536}],
    gids=[{"containerID": 0, "hostID": 200_000, "size": 65_536}],
)


@pytest.fixture(autouse=True)
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been changed of the machine."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(remap_user, "_run", lambda *words: found.append(words))
    return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("subuid", "subgid"):
        (tmp_path / kind).write_text("")
        monkeypatch.setattr(subids, kind.upper(), tmp_path / kind)
    return tmp_path


def grant(files: Path, *lines: str) -> None:
    for kind in ("subuid", "subgid"):
        (files / kind).write_text("".join(f"{line}\n" for line in lines))


# -- userns-remap -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["daemon", "daemon:daemon", "1", "1:1"])
def test_a_users_subordinate_ids(files: Path, text: str) -> None:
    grant(files, "daemon:100000:1000", "1:300000:500")
    assert [tuple(item.values()) for item in remapped(text).uids] == [(0, 100_000, 1000), (1000, 300_000, 500)]


def test_default_is_dockers_user(files: Path, changes: list[tuple[str, ...]]) -> None:
    grant(files, "dockremap:100000:65536")
    assert remapped("default").gids == REMAP.uids
    assert not changes


def test_dockers_user_is_made_where_it_is_not(files: Path, changes: list[tuple[str, ...]]) -> None:
    grant(files, "daemon:100000:65536", "1:231072:65536", "2:165000:1000")
    with pytest.raises(InvalidParameter, match="no subordinate ids"):  # the programs changed nothing here
        remapped("default")
    assert [words[:2] for words in changes] == [
        ("useradd", "--system"), ("usermod", "--add-subuids"), ("usermod", "--add-subgids"),
    ]  # fmt: skip
    assert [words[2:] for words in changes[1:]] == [("296608-362143", "dockremap")] * 2


def test_the_ids_that_nobody_has() -> None:
    assert remap_user.free([]) == 100_000
    assert remap_user.free([Range(1, 10), Range(165_536, 1)]) == 100_000
    with pytest.raises(InvalidParameter, match="no 65536 subordinate ids left"):
        remap_user.free([Range(0, 2**31)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":", "invalid user/group specification"),
        ("daemon:", "invalid user/group specification"),
        ("nobody-of-that-name", "has no entry in /etc/passwd"),
        ("99999999999", "has no entry in /etc/passwd"),
        ("daemon:no-such-group", "has no entry in /etc/group"),
        ("daemon", "no subordinate ids for user daemon"),
    ],
)
def test_a_remap_that_cannot_be(files: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        remapped(text)


def test_root_is_not_remapped(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not remapped("root")
    assert "root cannot be remapped with itself" in caplog.text
    assert not remapped("auto")
    assert not remapped("")


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "size"), [("", 0), ("host", 0), ("auto", 65_536), ("auto:size=1", 1)])
def test_sizes(mode: str, size: int) -> None:
    assert automatic_size(mode) == size


@pytest.mark.parametrize(
    "mode", ["auto:", "auto:size=", "auto:size=0", "auto:size=-1", "auto:size=9999999999", "auto:x=1"]
)
def test_bad_sizes(mode: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid user namespace mode"):
        automatic_size(mode)


def made(
    remap: IdMaps = NONE, pool: str = "", *, automatic: bool = False, rootless: bool = False, driver: str = "overlay2"
) -> UserNamespaces:
    return UserNamespaces(remap, pool, automatic=automatic, rootless=rootless, driver=driver)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(privileged=True), "privileged mode is incompatible with user namespaces.  You must run"),
        (HostConfig(network_mode="host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (HostConfig(pid_mode="host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ],
)
def test_what_goes_with_the_machines_ids_only(host: HostConfig, words: str) -> None:
    made().check(host)
    with pytest.raises(InvalidParameter, match=words):
        made(REMAP).check(host)
    with pytest.raises(InvalidParameter, match=words):
        made(automatic=True).check(host)
    host.userns_mode = "host"
    made(REMAP).check(host)
    host.userns_mode = "auto"
    with pytest.raises(InvalidParameter, match=words):
        made().check(host)


def test_other_runtimes_do_not_find_the_root() -> None:
    made(REMAP).check(HostConfig(userns_mode="host"), own_runtime=False)
    with pytest.raises(InvalidParameter, match="runtime crun cannot be used with user namespaces"):
        made(REMAP).check(HostConfig(runtime="crun"), own_runtime=False)


def test_without_root_one_storage_driver_shows_other_ids() -> None:
    for driver in ("overlay2", "vfs"):
        with pytest.raises(InvalidParameter, match="without root only the storage driver fuse-overlayfs"):
            made(rootless=True, driver=driver).check(HostConfig(userns_mode="auto"))
    made(rootless=True, driver="fuse-overlayfs").check(HostConfig(userns_mode="auto"))


def test_without_root_volumes_have_no_other_ids() -> None:
    spaces, host = made(rootless=True, driver="fuse-overlayfs"), HostConfig(userns_mode="auto")
    plain = [MountPoint(type="tmpfs", destination="/t"), MountPoint(type="bind", source="/x", destination="/b")]
    spaces.check_mounts(host, plain)
    for point in (MountPoint(type="volume", destination="/v"), replace(plain[1], idmap=True)):
        with pytest.raises(InvalidParameter, match=f"at {point.destination}: without root it cannot be shown"):
            spaces.check_mounts(host, [*plain, point])
        spaces.check_mounts(HostConfig(), [point])
        made().check_mounts(host, [point])


def test_without_root_ranges_lie_beyond_those_of_ordinary_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = made(rootless=True, driver="fuse-overlayfs")
    for count in (1, 65_536, 65_537):
        monkeypatch.setattr(user_namespace, "mapped", lambda kind, count=count: count)
        with pytest.raises(
            Conflict, match=r"no 10 ids left .*: they are this user's subordinate ids beyond the first 65"
        ):
            spaces.take(container("one"), None)
    monkeypatch.setattr(user_namespace, "mapped", lambda kind: 65_556)
    assert first(spaces.take(container("one"), None)) == (65_536, 65_536)
    assert first(spaces.take(container("two"), None)) == (65_546, 65_546)
    with pytest.raises(Conflict, match="there are no 10 ids left"):
        spaces.take(container("three"), None)


def test_what_takes_root() -> None:
    made(rootless=True).check(HostConfig(privileged=True, network_mode="host", pid_mode="host"))
    with pytest.raises(InvalidParameter, match="runtime crun cannot be used without root"):
        made(rootless=True).check(HostConfig(runtime="crun"), own_runtime=False)
    with pytest.raises(InvalidParameter, match="cannot be used without root: it takes loop devices or quotas"):
        made(rootless=True).check(HostConfig(storage_opt={"size": "10m"}))


# -- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "size", "found"),
    [
        ([], 10, Range(100, 10)),
        ([Range(100, 10)], 10, Range(110, 10)),
        ([Range(105, 10)], 10, Range(115, 10)),
        ([Range(105, 10)], 5, Range(100, 5)),
        ([Range(110, 10), Range(100, 10)], 10, Range(120, 10)),
        ([Range(0, 1000)], 10, Range(5000, 10)),
        ([Range(100, 95)], 10, Range(5000, 10)),
        ([], 101, None),
    ],
)
def test_the_first_that_is_free(taken: list[Range], size: int, found: Range | None) -> None:
    assert free_range([Range(100, 100), Range(5000, 20)], taken, size) == found


def container(name: str, mode: str = "auto:size=10", maps: IdMaps = NONE) -> SimpleNamespace:
    return SimpleNamespace(id=name, host_config=HostConfig(userns_mode=mode), id_maps=maps)


def first(maps: IdMaps) -> tuple[int, int]:
    return maps.uids[0]["hostID"], maps.gids[0]["hostID"]


def test_no_two_that_run_share_ids() -> None:
    spaces = made(pool="1000:30")
    one, two = container("one"), container("two")
    assert first(spaces.take(one, None)) == (1000, 1000)
    assert first(spaces.take(two, None)) == (1010, 1010)
    spaces.release(one)
    assert first(spaces.take(container("three"), None)) == (1000, 1000)
    assert first(spaces.take(container("four"), None)) == (1020, 1020)
    with pytest.raises(Conflict, match="there are no 10 ids left"):
        spaces.take(container("five"), None)


def test_ids_of_containers_of_the_daemon_before_are_taken() -> None:
    kept = made(pool="1000:30").take(container("one"), None)
    spaces = made(pool="1000:30")
    spaces.hold(container("one", maps=kept))
    assert first(spaces.take(container("two"), None)) == (1010, 1010)


def test_remapped_ids_are_nobody_elses() -> None:
    spaces = made(REMAP, "100000:200000")
    assert spaces.take(container("one", ""), None) == REMAP
    assert spaces.take(container("two", "host"), None) == IdMaps()
    assert first(spaces.take(container("three"), None)) == (165_536, 100_000)


def test_who_joins_namespaces_has_their_ids() -> None:
    assert made(pool="1000:30").take(container("one"), REMAP) == REMAP
    assert made(REMAP).take(container("one", ""), IdMaps()) == IdMaps()


def test_ids_are_held_as_long_as_anyone_has_them() -> None:
    spaces = made(pool="1000:30")
    one, joined = container("one"), container("joined", "")
    shared = spaces.take(one, None)
    assert spaces.take(joined, shared) == shared
    spaces.release(one)
    assert first(spaces.take(container("two"), None)) == (1010, 1010)
    after = made(pool="1000:30")
    after.hold(container("joined", "", maps=shared))
    assert first(after.take(container("two"), None)) == (1010, 1010)


def test_the_pool(files: Path) -> None:
    assert Pool.of("5:10") == Pool((Range(5, 10),), (Range(5, 10),))
    assert Pool.of("") == Pool()
    with pytest.raises(Conflict, match="there are no ids for automatic user namespaces"):
        made().take(container("one"), None)
    grant(files, "containers:1000:10", "containers:3000:10")
    assert Pool.of("").uids == (Range(1000, 10), Range(3000, 10))
    grant(files, "containers:1000:10", "corten:2000:10")
    assert Pool.of("").gids == (Range(2000, 10),)
    for bad in ("1", "a:1", "1:0", "0:5", "4294967295:10"):
        with pytest.raises(InvalidParameter, match="invalid userns-pool"):
            Pool.of(bad)


def test_translation() -> None:
    ids = Translation(REMAP.uids, REMAP.gids)
    assert ids.outside(0, 1) == (100_000, 200_001)
    assert ids.inside(100_005, 200_000) == (5, 0)
    assert ids.inside(0, 300_000) == (65_534, 65_534)
    with pytest.raises(OSError, match="id 70000 is not mapped"):
        ids.outside(70_000, 0)
