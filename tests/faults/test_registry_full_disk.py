"""A pull that does not fit: one clear line, the room is given back, and a smaller one works afterwards."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
sys.path.insert(0, str(Path(__file__).parent))
from fake_registry import FakeRegistry
from tar_builder import Tar
from test_full_disk import layers, small  # noqa: F401  (a fixture)

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox", "loop")]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    made = FakeRegistry()
    yield made
    made.close()


def free(daemon: Daemon) -> int:
    found = os.statvfs(daemon.data_root)
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("files", [1, 4000], ids=["large file", "small files"])
def test_a_pull_that_does_not_fit(small: Daemon, registry: FakeRegistry, files: int) -> None:  # noqa: F811
    noise = os.urandom(1 << 20)
    large = [Tar(), Tar()]
    for number, tar in enumerate(large):
        size = (48 << 20) // files
        for count in range(files):
            tar.file(f"layer{number}/file{count}", (noise * (size // len(noise) + 1))[:size])
    registry.put_image("app", [tar.bytes() for tar in large], "large", pack=lambda layer: gzip.compress(layer, 0))
    registry.put_image("app", [Tar().file("x", b"y").bytes()], "little", pack=gzip.compress)
    before, room = layers(small), free(small)
    done = small.docker("pull", f"{registry.netloc}/app:large", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("no space left on device")
    assert layers(small) == before
    assert free(small) > room - (2 << 20)
    assert small.process.poll() is None
    small.docker("pull", f"{registry.netloc}/app:little")
    assert small.docker("run", "--rm", "busybox", "echo", "fine").stdout == "fine\n"
