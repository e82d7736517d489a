"""Devices of the machine for a container: those in a directory, and what is no device."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from corten.dockerapi.container import DeviceMapping, HostConfig
from corten.engine.create import check_extra_hosts, check_host_config
from corten.engine.device_nodes import devices_below
from corten.engine.limits import Machine
from corten.errors import InvalidParameter


def test_a_directory_may_be_deeper_than_python_recurses(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 150)).mkdir(parents=True)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert devices_below(str(tmp_path), "/dev/x") == []
    finally:
        sys.setrecursionlimit(usual)


def test_the_devices_of_the_machine() -> None:
    found = {node["path"]: node for node in devices_below("/dev", "/dev")}
    assert (found["/dev/null"]["type"], found["/dev/null"]["major"], found["/dev/null"]["minor"]) == ("c", 1, 3)
    assert "/dev/console" not in found
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/", "/dev/fd")) for path in found)
    assert devices_below("/nosuch", "/x") == []


def test_a_device_needs_a_path() -> None:
    with pytest.raises(InvalidParameter, match="PathOnHost is empty"):
        check_host_config(HostConfig(devices=[DeviceMapping()]), Machine.read(), frozenset())


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("x", 'bad format for add-host: "x"'),
        (":10.0.0.1", "bad format for add-host"),
        ("a b:10.0.0.1", "bad format for add-host"),
        ("a\nb:10.0.0.1", "bad format for add-host"),
        ("x:y", 'invalid IP address in add-host: "y"'),
        ("x:", "invalid IP address in add-host"),
        ("x:10.0.0.1\n", "invalid IP address in add-host"),
    ],
)
def test_names_for_addresses_that_are_none(entry: str, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        check_extra_hosts([entry])
    check_extra_hosts(["x:10.0.0.1", "x:::1", "x:[::1]", "x:host-gateway"])
