"""Mount options, sysctl names, id maps, lists of processors, signals and sizes: text that becomes numbers."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from corten.errors import InvalidParameter
from corten.linux import mount
from corten.runtime import idmap, mount_options, scheduling
from corten.runtime.oci import quantities
from corten.runtime.oci.signals import signal_number
from corten.runtime.rootfs import sysctl_path

RDONLY, NOSUID, NODEV = mount.MOUNT_ATTR_RDONLY, mount.MOUNT_ATTR_NOSUID, mount.MOUNT_ATTR_NODEV


def test_attributes_and_data_are_told_apart() -> None:
    parsed = mount_options.parse(["nosuid", "ro", "size=64k", "mode=1777", "nodev", "newinstance"])
    assert parsed.set_ == RDONLY | NOSUID | NODEV
    assert parsed.data == ["size=64k", "mode=1777", "newinstance"]
    assert not parsed.bind


@pytest.mark.parametrize(
    ("options", "set_", "clear"),
    [
        (["ro", "rw"], 0, RDONLY),
        (["rw", "ro"], RDONLY, 0),
        (["noatime"], mount.MOUNT_ATTR_NOATIME, mount.MOUNT_ATTR__ATIME),
        (["strictatime"], mount.MOUNT_ATTR_STRICTATIME, mount.MOUNT_ATTR__ATIME),
        (["noatime", "relatime"], 0, mount.MOUNT_ATTR__ATIME),
        (["nosymfollow"], mount.MOUNT_ATTR_NOSYMFOLLOW, 0),
        (["suid", "dev", "exec"], 0, NOSUID | NODEV | mount.MOUNT_ATTR_NOEXEC),
    ],
)
def test_the_last_word_counts(options: list[str], set_: int, clear: int) -> None:
    parsed = mount_options.parse(options)
    assert (parsed.set_, parsed.clear) == (set_, clear)


def test_recursive_attributes() -> None:
    parsed = mount_options.parse(["rbind", "rro", "rnosuid", "rexec"])
    assert (parsed.bind, parsed.recursive) == (True, True)
    assert parsed.set_recursive == RDONLY | NOSUID
    assert parsed.clear_recursive == mount.MOUNT_ATTR_NOEXEC
    assert (parsed.set_, parsed.clear, parsed.data) == (0, 0, [])


def test_propagation_and_the_rest() -> None:
    parsed = mount_options.parse(["bind", "rslave", "shared", "remount", "tmpcopyup", "ridmap", "defaults", "async"])
    assert parsed.propagation == [(mount.MS_SLAVE, True), (mount.MS_SHARED, False)]
    assert parsed.remount
    assert parsed.copy_up
    assert parsed.idmap
    assert parsed.idmap_recursive
    assert not parsed.recursive
    assert parsed.data == []


def test_every_option_that_is_announced_is_understood() -> None:
    for name in mount_options.names():
        data = mount_options.parse([name]).data
        assert data in ([], [name])
    assert {"rro", "ridmap", "runbindable", "lazytime", "nosymfollow"} <= set(mount_options.names())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_sysctl_names(name: str, path: str) -> None:
    assert sysctl_path(name) == path


def mapping(container: int, host: int, size: int) -> dict[str, Any]:
    return {"containerID": container, "hostID": host, "size": size}


def test_id_maps() -> None:
    good = [mapping(0, 100000, 65536), mapping(65536, 0, 1)]
    idmap.check(good, "x")
    assert idmap.text(good) == "0 100000 65536\n65536 0 1\n"
    assert idmap.host_root({"uidMappings": good}) == 100000
    assert idmap.host_root({}) == -1
    assert idmap.maps_root({"uidMappings": good, "gidMappings": good})
    assert not idmap.maps_root({"uidMappings": good, "gidMappings": [mapping(1, 1, 1)]})
    assert not idmap.maps_root({})


@pytest.mark.parametrize(
    ("mappings", "text"),
    [
        ([mapping(0, 0, 0)], "invalid mapping"),
        ([mapping(-1, 0, 1)], "invalid mapping"),
        ([mapping(0, 2**32 - 1, 2)], "invalid mapping"),
        ([mapping(0, 0, 10), mapping(5, 100, 1)], "ranges of containerID overlap at 5"),
        ([mapping(0, 0, 10), mapping(20, 9, 1)], "ranges of hostID overlap at 9"),
    ],
)
def test_bad_id_maps(mappings: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(InvalidParameter, match=f"linux.uidMappings: {text}"):
        idmap.check(mappings, "linux.uidMappings")


def test_lists() -> None:
    assert scheduling.parse_list("0-2,7, 9", "x") == [0, 1, 2, 7, 9]
    for text in ("", "a", "3-1", "1-", "-1", "0-99999999", "1,,2"):
        with pytest.raises(InvalidParameter, match="x: invalid list"):
            scheduling.parse_list(text, "x")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("sigterm", 15),
        ("0", 0),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["NOPE", "99", "-1", "RTMIN+99", "RTMIN+", ""])
def test_unknown_signals(text: str) -> None:
    with pytest.raises(InvalidParameter, match="unknown signal"):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("512", 512), ("-1", -1), ("64m", 64 << 20), ("1.5G", 3 << 29), ("2KiB", 2048), ("3kb", 3072), ("7b", 7)],
)
def test_sizes(text: str, number: int) -> None:
    assert quantities.size(text) == number


@pytest.mark.parametrize("text", ["", "m", "1x", "one"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid size"):
        quantities.size(text)


def test_durations() -> None:
    assert [quantities.seconds(text) for text in ("5s", "250ms", "2m", "1h")] == [5.0, 0.25, 120.0, 3600.0]
    for text in ("5", "0s", "-1s", "s"):
        with pytest.raises(ValueError, match=r"^invalid duration"):
            quantities.seconds(text)
