"""Users and groups of a container, from files that it controls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import InvalidParameter
from corten.runtime import users

RANGE = "uids and gids must be in range 0-2147483647"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "passwd").write_text(
        "# a comment\nroot:x:0:0:root:/root:/bin/sh\n\nbob:x:1000:1001::/home/bob:/bin/sh\n"
        "77:x:1077:1077::/home/seventy:/bin/sh\nbob:x:1:1::/second:/bin/sh\nplain:x:5:6\nodd:x:nine:9::/:/bin/sh\n"
        "far:x:4294967296:0::/:/bin/sh\n"
    )
    (directory / "group").write_text("root:x:0:\nbob:x:1001:\nextra:x:50:alice,bob\nwheel:x:10:bob\nnobob:x:60:bobby\n")
    return directory


@pytest.fixture
def root(etc: Path) -> Iterator[int]:
    descriptor = os.open(etc.parent, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("root", users.Identity(0, 0, (0,), "/root")),
        ("bob", users.Identity(1000, 1001, (1001, 50, 10), "/home/bob")),
        ("1000", users.Identity(1000, 1001, (1001, 50, 10), "/home/bob")),
        ("bob:extra", users.Identity(1000, 50, (50,), "/home/bob")),
        ("bob:77", users.Identity(1000, 77, (77,), "/home/bob")),
        ("1234", users.Identity(1234, 0, (0,), "/")),
        ("1234:5678", users.Identity(1234, 5678, (5678,), "/")),
        ("77", users.Identity(77, 0, (0,), "/")),  # a number is an id, even where a user is called so
        ("", users.Identity(0, 0, (0,), "/root")),
        ("1000:", users.Identity(1000, 1001, (1001, 50, 10), "/home/bob")),
        (":10", users.Identity(0, 10, (10,), "/root")),
        ("plain", users.Identity(5, 6, (6,), "/")),
        ("2147483647:2147483647", users.Identity(2**31 - 1, 2**31 - 1, (2**31 - 1,), "/")),
    ],
)
def test_resolution(root: int, name: str, wanted: users.Identity) -> None:
    assert users.resolve(root, name, []) == wanted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
        (" ", "unable to find user  : no matching entries in passwd file"),
        ("root:nosuch", "unable to find group nosuch: no matching entries in group file"),
        ("4294967296", RANGE),
        ("-1", RANGE),
        ("2147483648:0", RANGE),
        ("0:2147483648", RANGE),
        ("0:-1", RANGE),
        ("9" * 5000, RANGE),
        ("odd", "/etc/passwd in the container has an id that is no number"),
        ("far", RANGE),
        ("\u0663", "unable to find user"),  # a digit, but not one of ours
    ],
)
def test_refusals(root: int, name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        users.resolve(root, name, [])


def test_additional_groups(root: int) -> None:
    assert users.resolve(root, "bob", ["wheel", "7", "extra"]).groups == (1001, 50, 10, 7)
    with pytest.raises(InvalidParameter, match="Unable to find group nosuch: no matching entries in group file"):
        users.resolve(root, "0", ["nosuch"])
    with pytest.raises(InvalidParameter, match=RANGE):
        users.resolve(root, "0", ["4294967296"])


def test_primary_group_is_among_the_supplementary_ones(root: int) -> None:
    for name in ("bob", "1234:5678", "root"):
        identity = users.resolve(root, name, [])
        assert identity.gid in identity.groups


@pytest.mark.parametrize("kind", ["fifo", "directory", "absent", "loop", "device link"])
def test_irregular_passwd_is_as_none_and_blocks_nobody(etc: Path, root: int, kind: str) -> None:
    passwd = etc / "passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "loop":
        passwd.symlink_to("passwd")
    elif kind == "device link":
        passwd.symlink_to("/dev/zero")
    with pytest.raises(InvalidParameter, match="unable to find user bob"):
        users.resolve(root, "bob", [])
    assert users.resolve(root, "5", []).uid == 5


def test_links_stay_inside_the_root(etc: Path, root: int, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside-passwd"
    outside.write_text("bob:x:0:0::/:/bin/sh\n")
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to(f"/../../../../../..{outside}")
    with pytest.raises(InvalidParameter, match="unable to find user bob"):
        users.resolve(root, "bob", [])
    (etc / "real").write_text("bob:x:9:9::/:/bin/sh\n")
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("/etc/real")
    assert users.resolve(root, "bob", []).uid == 9


def test_a_huge_group_file_is_refused(etc: Path, root: int) -> None:
    with open(etc / "group", "w") as file:
        file.truncate(1 << 30)
    with pytest.raises(InvalidParameter, match="/etc/group in the container is larger than"):
        users.resolve(root, "bob", [])


def test_numbers_of_a_specification_get_their_home_unless_the_environment_has_it(root: int) -> None:
    process: dict[str, object] = {"user": {"uid": 1000, "gid": 3, "additionalGids": [4, 3]}, "env": ["A=b"]}
    assert users.of_process(root, process) == users.Identity(1000, 3, (3, 4), "/home/bob")
    assert users.of_process(root, {**process, "env": ["HOME=/x"]}).home == ""
    assert users.of_process(root, {"user": {"uid": 4242}}).home == "/"
    assert users.of_process(root, {}) == users.Identity(0, 0, (0,), "/root")


def test_names_of_a_specification(root: int) -> None:
    process: dict[str, object] = {"user": {"uid": 0, "gid": 0, "username": "bob", "additionalGroups": ["nobob"]}}
    assert users.of_process(root, process).groups == (1001, 50, 10, 60)
    assert users.of_process(root, {"user": {"uid": 1000, "additionalGroups": ["7"]}}).groups == (1001, 50, 10, 7)


@pytest.mark.parametrize("user", [{"uid": 2**31}, {"uid": -1}, {"gid": 2**32}, {"additionalGids": [1, 2**31]}])
def test_numbers_that_the_kernel_would_wrap(user: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match=RANGE):
        users.check_ids(user)
