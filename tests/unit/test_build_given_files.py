"""Large files that come from a client are written once: what they come into becomes the layer's file."""

from __future__ import annotations

import asyncio
import os
import stat as modes
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from buildkit_client import DIRECTORY, Sender, stat
from test_buildkit_files import client, opened, run

from corten.build.layer_tar import LayerTar, Wanted
from corten.build.selection import find_sources
from corten.buildkit.context import SessionContext
from corten.buildkit.context import _ending as ending
from corten.image.layer_apply import SPLIT_NAME, LayerStats, apply_layer
from corten.image.pipes import iterated
from corten.image.tarsplit import rebuild
from corten.linux.user_namespace import Rights

LARGE = bytes(range(256)) * (5 << 12)  # 5 MiB
OTHER = LARGE[::-1]
LISTED = [
    stat("d", DIRECTORY | 0o755),
    stat("d/large", 0o751 | 1 << 23, LARGE),
    stat("d/small", 0o640, b"small"),
    stat("other", 0o600, OTHER),
]
FILES = {"d/large": LARGE, "d/small": b"small", "other": OTHER}


def unnamed(directory: Path, content: bytes) -> int:
    descriptor = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    os.write(descriptor, content)
    return descriptor


class Layer:
    """A directory that a layer is unpacked into."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.files = place / "diff"
        self.files.mkdir(parents=True)

    def apply(self, tar: LayerTar, given: Mapping[int, int]) -> LayerStats:
        source = iterated(tar.chunks())
        return apply_layer(source, self.files, self.place, overlay=True, rights=Rights.here(), given=given)

    def tar(self) -> bytes:
        """As it is given back."""
        root = os.open(self.files, os.O_PATH)
        try:
            return b"".join(rebuild(str(self.place / SPLIT_NAME), root, str(self.place / "displaced")))
        finally:
            os.close(root)


def copied(context: SessionContext, *patterns: str) -> LayerTar:
    return LayerTar(Wanted(find_sources(context, patterns), "/to/", True, 0), None)


def with_context(tmp_path: Path, work: Callable[[SessionContext], None]) -> None:
    async def scene() -> None:
        sender = Sender(LISTED, FILES)
        async with client(sender.handlers) as (session, _):
            async with opened(session, tmp_path) as context:
                await asyncio.to_thread(work, context)
            while not sender.finished or ending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(scene)


def test_a_large_file_becomes_the_layers(tmp_path: Path) -> None:
    def work(context: SessionContext) -> None:
        for path in FILES:
            node = context.node(path)
            assert node is not None
            context.digest(path, node)
        inode = os.fstat(context._contents._own[0]).st_ino
        first, second = Layer(tmp_path / "first"), Layer(tmp_path / "second")
        tar = copied(context, "d", "other")
        first.apply(tar, tar.given)
        again = copied(context, "d", "other")
        second.apply(again, again.given)
        assert sorted(tar.given) == [2, 4]  # behind the directory and a small one
        assert not again.given  # each of them once
        assert os.stat(first.files / "to/large").st_ino == inode
        for layer in (first, second):
            assert (layer.files / "to/large").read_bytes() == LARGE
            assert (layer.files / "to/small").read_bytes() == b"small"
            assert (layer.files / "to/other").read_bytes() == OTHER
            status = os.stat(layer.files / "to/large")
            assert (modes.S_IMODE(status.st_mode), status.st_nlink, status.st_mtime_ns) == (0o4751, 1, 10**18)
            assert modes.S_IMODE(os.stat(layer.files / "to/other").st_mode) == 0o600
        assert first.tar() == second.tar()

    with_context(tmp_path, work)


def test_what_nobody_has_read_is_not_given(tmp_path: Path) -> None:
    def work(context: SessionContext) -> None:
        assert context.given("other") is None
        tar = copied(context, "other")
        layer = Layer(tmp_path / "layer")
        layer.apply(tar, tar.given)  # its content comes while it is written
        assert not tar.given
        assert (layer.files / "to/other").read_bytes() == OTHER
        assert context.given("other") is not None
        assert context.given("d/small") is None

    with_context(tmp_path, work)


def test_descriptors_of_large_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Semaphore(1)
    monkeypatch.setattr("corten.buildkit.contents._descriptors", left)

    def work(context: SessionContext) -> None:
        for path in ("d/large", "other"):
            node = context.node(path)
            assert node is not None
            assert b"".join(context.chunks(path, node)) == FILES[path]
        assert [context.given(path) is not None for path in ("d/large", "other")] == [True, False]
        assert not left.acquire(blocking=False)

    with_context(tmp_path, work)
    assert left.acquire(timeout=5)  # given back with the context
    assert not left.acquire(blocking=False)


@pytest.mark.parametrize("obstacle", ["size", "name", "file system"])
def test_a_file_that_cannot_be_taken_is_written(tmp_path: Path, obstacle: str) -> None:
    def work(context: SessionContext) -> None:
        place = Path("/dev/shm") if obstacle == "file system" else tmp_path
        given = unnamed(place, OTHER + (b"more" if obstacle == "size" else b""))
        layer = Layer(tmp_path / "layer")
        if obstacle == "name":
            (layer.files / "to").mkdir()
            (layer.files / "to/other").write_bytes(b"in the way")
        try:
            layer.apply(copied(context, "other"), {2: given})
            found = os.stat(layer.files / "to/other")
            assert found.st_ino != os.fstat(given).st_ino or found.st_dev != os.fstat(given).st_dev
            assert (layer.files / "to/other").read_bytes() == OTHER
        finally:
            os.close(given)

    with_context(tmp_path, work)
