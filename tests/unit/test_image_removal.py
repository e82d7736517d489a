"""What ``rmi`` takes away, and what it refuses: dockerd's rules."""

from __future__ import annotations

import pytest

from corten.errors import Conflict
from corten.image.metadata import ImageRecord
from corten.image.removal import plan
from corten.oci import reference


def image(letter: str, *names: str, parent: str = "") -> ImageRecord:
    parsed = [reference.parse(name) for name in names]
    tags = tuple(name.canonical for name in parsed if not name.digest)
    digests = tuple(name.canonical for name in parsed if name.digest)
    return ImageRecord(f"sha256:{letter * 64}", f"sha256:{parent * 64}" if parent else "", 1, "", (), tags, digests)


D = "@sha256:" + "d" * 64


def removed(images, asked, *, name=True, users=None, force=False, prune=True):
    images = {item.id: item for item in images}
    target = next(iter(images.values()))
    parsed = reference.parse(asked).with_default_tag() if name else None
    result = plan(target, asked, parsed, images, lambda key: (users or {}).get(key[7], []), force=force, prune=prune)
    return [next(f"{key[0]} {value.replace('sha256:', '')[:7]}" for key, value in row.items()) for row in result.answer]


def test_one_of_two_names_only_takes_the_name():
    assert removed([image("a", "x:1", "x:2")], "x:1") == ["U x:1"]


def test_the_last_name_takes_the_image():
    assert removed([image("a", "x:1")], "x:1") == ["U x:1", "D aaaaaaa"]


def test_the_last_tag_takes_the_repository_s_digests_along():
    assert removed([image("a", "x:1", f"x{D}")], "x:1") == ["U x:1", "U x@ddddd", "D aaaaaaa"]
    assert removed([image("a", "x:1", "y:1", f"x{D}")], "x:1") == ["U x:1", "U x@ddddd"]


def test_an_id_takes_everything_within_one_repository():
    assert removed([image("a", "x:1", f"x{D}")], "aaa", name=False) == ["U x:1", "U x@ddddd", "D aaaaaaa"]


def test_an_id_with_several_names_needs_force():
    two = image("a", "x:1", "y:1")
    with pytest.raises(
        Conflict, match=r"unable to delete a{12} \(must be forced\) - image is referenced in multiple repositories"
    ):
        removed([two], "aaa", name=False)
    assert removed([two], "aaa", name=False, force=True) == ["U x:1", "U y:1", "D aaaaaaa"]


def test_containers_stand_against_it():
    stopped, running = {"a": [("c" * 64, False)]}, {"a": [("c" * 64, True)]}
    one = [image("a", "x:1")]
    with pytest.raises(Conflict, match=r'unable to remove repository reference "x:1" \(must force\) - container c{12} is using its referenced image a{12}$'):  # fmt: skip  # noqa: E501
        removed(one, "x:1", users=stopped)
    assert removed(one, "x:1", users=stopped, force=True) == ["U x:1", "D aaaaaaa"]
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container c{12}"):
        removed(one, "x:1", users=running, force=True)
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container c{12}"):
        removed(one, "aaa", name=False, users=stopped)
    assert removed([image("a", "x:1", "x:2")], "x:1", users=running) == ["U x:1"]


def test_children_stand_against_it():
    family = [image("a", "x:1"), image("b", "y:1", parent="a")]
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
        removed(family, "aaa", name=False, force=True)


def test_untagged_parents_go_along_when_nothing_needs_them():
    family = [image("a", "x:1", parent="b"), image("b", parent="c"), image("c")]
    assert removed(family, "x:1") == ["U x:1", "D aaaaaaa", "D bbbbbbb", "D ccccccc"]
    assert removed(family, "x:1", prune=False) == ["U x:1", "D aaaaaaa"]
    assert removed(family, "x:1", users={"b": [("c" * 64, False)]}) == ["U x:1", "D aaaaaaa"]
    assert removed([*family, image("e", "z:1", parent="b")], "x:1") == ["U x:1", "D aaaaaaa"]
    assert removed([family[0], image("b", "named:1", parent="c"), family[2]], "x:1") == ["U x:1", "D aaaaaaa"]
