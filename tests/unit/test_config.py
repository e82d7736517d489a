"""The daemon's configuration: flags, ``daemon.json``, both at once, and what a reload takes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from corten.config import RELOADABLE, Config, flags, load, reload
from corten.errors import InvalidParameter


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


def loaded(file: Path, document: Any, *arguments: str) -> Config:
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return load(["--config-file", str(file), *arguments])


def test_every_flag_is_a_field_and_every_field_a_flag() -> None:
    dests = {action.dest for action in flags.parser()._actions} - {"help", "version", "config_file"}
    assert dests == {item.name for item in fields(Config)}


def test_flags_and_file_mean_the_same(file: Path) -> None:
    by_flags = loaded(
        file, {}, "--label", "a=b", "--default-shm-size", "32m", "--log-opt", "max-size=1m", "--dns", "192.0.2.1",
        "--default-ulimit", "nofile=10:20", "--registry-mirror", "https://mirror.example", "--ip-masq", "false",
        "--default-address-pool", "base=10.9.0.0/16,size=24", "--no-live-restore",
        "--exec-opt", "native.cgroupdriver=systemd",
    )  # fmt: skip
    by_file = loaded(
        file,
        {
            "labels": ["a=b"],
            "default-shm-size": "32m",
            "log-opts": {"max-size": "1m"},
            "dns": ["192.0.2.1"],
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": 20}},
            "registry-mirrors": ["https://mirror.example"],
            "ip-masq": False,
            "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}],
            "live-restore": False,
            "exec-opts": ["native.cgroupdriver=systemd"],
        },
    )
    assert by_flags == by_file
    assert by_flags.default_shm_size == 32 << 20
    assert by_flags.cgroup_driver == "systemd"
    assert not by_flags.live_restore
    assert not by_flags.ip_masq


def test_defaults(file: Path) -> None:
    config = loaded(file, {})
    assert config.hosts == (f"unix://{config.exec_root}/corten.sock",)
    assert (config.log_driver, config.default_shm_size, config.shutdown_timeout) == ("json-file", 64 << 20, 15)
    assert config.live_restore
    assert loaded(file, {}, "--debug").log_level == "debug"
    assert loaded(file, {}, "--tlsverify").tls


@pytest.mark.parametrize(
    ("document", "arguments", "told"),
    [
        ("{", [], "invalid JSON"),
        ([], [], "an object is needed"),
        ({"data-rot": "/x"}, [], "don't match any configuration option: data-rot"),
        ({"proxies": {"ftp-proxy": "x"}}, [], "proxies needs"),
        ({"labels": ["a=b"]}, ["--label", "c=d"], "both as a flag and in the configuration file: labels"),
        ({}, ["--what"], "unrecognized arguments: --what"),
        ({}, ["--data-root", "/x", "--exec-root", "/x"], "must differ"),
        ({}, ["--log-level", "loud"], "invalid choice"),
        ({"log-level": "loud"}, [], "invalid logging level: loud"),
        ({}, ["-s", "btrfs"], "unknown storage driver 'btrfs'"),
        ({}, ["-H", "ftp://x"], "invalid host 'ftp://x'"),
        ({}, ["--iptables", "false"], "give --bridge none as well"),
        ({}, ["--fixed-cidr", "10.0.0.0/24"], "give --bip as well"),
        ({}, ["--default-pids-limit", "-2"], "invalid default-pids-limit: -2"),
        ({}, ["--default-shm-size", "much"], "invalid size: 'much'"),
        ({}, ["--default-ulimit", "nofile=many"], "invalid ulimit argument"),
        ({}, ["--exec-opt", "native.cgroupdriver=none"], "native.cgroupdriver"),
    ],
)
def test_what_is_refused(file: Path, document: Any, arguments: list[str], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told.replace("(", r"\(")):
        loaded(file, document, *arguments)


def test_a_reload_takes_what_may_change(file: Path) -> None:
    arguments = ["--config-file", str(file)]
    current = loaded(file, {"labels": ["a=b"], "mtu": 1400})
    file.write_text(json.dumps({"labels": ["c=d"], "debug": True, "mtu": 1300}))
    config, taken, needs_restart = reload(arguments, current)
    assert (config.labels, config.log_level, config.mtu) == (("c=d",), "debug", 1400)
    assert taken == ["debug", "labels", "log_level"]
    assert needs_restart == ["mtu"]
    assert {"debug", "labels", "log_level"} <= RELOADABLE


def test_a_file_that_is_not_there_is_only_missed_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="No such file"):
        load(["--config-file", str(tmp_path / "nowhere.json")])


def test_where_cdi_files_are(file: Path) -> None:
    assert loaded(file, {}).cdi_directories == ("/etc/cdi", "/var/run/cdi")
    by_flags = loaded(file, {}, "--cdi-spec-dir", "/a", "--cdi-spec-dir", "/b", "--feature", "cdi")
    assert by_flags == loaded(file, {"cdi-spec-dirs": ["/a", "/b"], "features": {"cdi": True}})
    assert by_flags.cdi_directories == ("/a", "/b")
    assert loaded(file, {"features": {"cdi": False, "buildkit": True}, "cdi-spec-dirs": ["/a"]}).cdi_directories == ()
    assert loaded(file, {"cdi-spec-dirs": []}).cdi_directories == ()
    assert loaded(file, {}, "--cdi-spec-dir", "").cdi_directories == ()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"features": {"buildkit": False}}, "always served"),
        ({"features": {"containerd-snapshotter": True}}, "invalid feature 'containerd-snapshotter'"),
        ({"features": {"cdi": "maybe"}}, "invalid boolean for feature cdi"),
        ({"features": "cdi"}, "invalid features"),
        ({"cdi-spec-dirs": ["relative"]}, "'relative' is not an absolute path"),
        ({"cdi-spec-dirs": "/etc/cdi"}, "a list of directories is needed"),
    ],
)
def test_features_and_directories_that_are_refused(file: Path, document: Any, told: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        loaded(file, document)
    assert told in caught.value.message
