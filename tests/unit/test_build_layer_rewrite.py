"""Several layers as one, and layers without times that tell when they were built."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from build_place import archive

from corten.build.layer_rewrite import clamped, squashed


def layer(files: dict[str, Any], links: dict[str, str] | None = None) -> Callable[[], Iterator[bytes]]:
    content = archive(files)
    if links:
        stream = io.BytesIO(content)
        with tarfile.open(fileobj=stream, mode="a") as tar:
            for name, target in links.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.LNKTYPE, target
                tar.addfile(entry)
        content = stream.getvalue()
    return lambda: iter([content])


def members(chunks: Iterator[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        for entry in tar:
            name = entry.name.rstrip("/")
            assert name not in found, "once each"
            if entry.isreg():
                file = tar.extractfile(entry)
                assert file is not None
                found[name] = file.read().decode()
            else:
                found[name] = f"= {entry.linkname}" if entry.islnk() else None
    return found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([layer({"a": "1", "d": None, "d/x": "x"}), layer({"a": "2"})], {"a": "2", "d": None, "d/x": "x"}),
        ([layer({"a": "1"}), layer({".wh.a": ""})], {".wh.a": ""}),
        ([layer({".wh.a": ""}), layer({"a": "new"})], {"a": "new"}),
        ([layer({"d": None, "d/x": "x", "d/y": "y"}), layer({"d": None, "d/.wh.x": ""})],
         {"d": None, "d/y": "y", "d/.wh.x": ""}),
        ([layer({"d": None, "d/x": "x"}), layer({"d": "a file"})], {"d": "a file"}),
        ([layer({"d": None, "d/x": "x"}), layer({"d": None, "d/.wh..wh..opq": "", "d/z": "z"})],
         {"d": None, "d/.wh..wh..opq": "", "d/z": "z"}),
        ([layer({"d": None, "d/x": "x"}), layer({".wh.d": ""})], {".wh.d": ""}),
        ([layer({"a": "data"}, {"b": "a", "c": "a"}), layer({".wh.a": ""})], {"b": "data", "c": "= b", ".wh.a": ""}),
        ([layer({"a": "data"}, {"b": "a"}), layer({"b": "own"})], {"a": "data", "b": "own"}),
    ],
)  # fmt: skip
def test_one_layer_does_what_several_do(layers: list[Any], expected: dict[str, Any]) -> None:
    assert members(squashed(layers)) == expected


def test_times_are_not_later_than_wanted() -> None:
    whole = b"".join(clamped(lambda: iter([archive({"a": "1", "d": None}, mtime=2_000)]), 1_000 * 10**9))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert {entry.name: entry.mtime for entry in tar} == {"a": 1_000, "d": 1_000}
    older = b"".join(clamped(lambda: iter([archive({"a": "1"}, mtime=10)]), 1_000 * 10**9))
    with tarfile.open(fileobj=io.BytesIO(older)) as tar:
        assert [entry.mtime for entry in tar] == [10]
