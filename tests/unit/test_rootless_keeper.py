"""The namespaces of an ordinary user's daemon: what is not taken for them, and what is said when there can be none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corten import places
from corten.errors import SystemFailure
from corten.linux import subids
from corten.linux.subids import IdMaps
from corten.rootless import keeper

MAPS = IdMaps(subids.with_own(os.getuid(), []), subids.with_own(os.getgid(), []))
KINDS = {"user": "user", "mount": "mnt", "network": "net", "cgroup": "cgroup"}


def note(directory: Path, pid: int, **numbers: int) -> None:
    own = {kind: os.stat(f"/proc/self/ns/{name}").st_ino for kind, name in KINDS.items()}
    document = {
        "pid": pid,
        "namespaces": {**own, **numbers},
        "uids": MAPS.uids,
        "gids": MAPS.gids,
        "lacking": "",
        "group": "",
    }
    (directory / keeper.NOTE).write_text(json.dumps(document))


def test_a_process_in_the_noted_namespaces_is_found(tmp_path: Path) -> None:
    note(tmp_path, os.getpid())
    found = keeper.find(tmp_path)
    assert found is not None
    assert (found.pid, found.maps, found.is_original) == (os.getpid(), MAPS, True)
    found.close()
    assert not keeper.is_needed(tmp_path)


def test_a_shim_stands_for_a_keeper_that_has_gone(tmp_path: Path) -> None:
    note(tmp_path, 2**22 + 1)
    assert keeper.find(tmp_path) is None
    (tmp_path / "container").mkdir()
    (tmp_path / "container/shim.pid").write_text(str(os.getpid()))
    found = keeper.find(tmp_path)
    assert found is not None
    assert (found.pid, found.is_original) == (os.getpid(), False)
    found.close()
    assert keeper.is_needed(tmp_path)


def test_a_number_that_was_used_again_is_nobody(tmp_path: Path) -> None:
    note(tmp_path, os.getpid(), network=1)
    (tmp_path / "container").mkdir()
    (tmp_path / "container/shim.pid").write_text(str(os.getpid()))
    assert keeper.find(tmp_path) is None
    assert not keeper.is_needed(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"pid": "x"}', '{"pid": 1, "namespaces": {}}'])
def test_a_note_that_says_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / keeper.NOTE).write_text(text)
    assert keeper.find(tmp_path) is None
    assert not keeper.is_needed(tmp_path)


def test_where_users_may_have_no_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper.kernel, "unshare", refuse)
    with pytest.raises(SystemFailure, match="user namespaces are not available to this user"):
        keeper.create(tmp_path, MAPS, "")
    assert not (tmp_path / keeper.NOTE).exists()


# -- places -----------------------------------------------------------------------------------------------------------


def test_a_private_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "USER", os.getuid())
    directory = tmp_path / "new"
    places.make_private(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    places.make_private(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(directory)
    monkeypatch.setattr(places, "USER", os.getuid() + 1)
    for name in ("new", "link"):
        with pytest.raises(SystemFailure, match=f"{name} is not a directory of user {os.getuid() + 1}"):
            places.make_private(str(tmp_path / name))


def test_where_a_users_daemon_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "USER", 4321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4321")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert places.is_rootless()
    assert places.exec_root() == "/run/user/4321/corten"
    assert places.data_root() == "/data/corten"
    assert places.configuration_file() == "/config/corten/daemon.json"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert places.exec_root() == "/tmp/corten-4321"
