"""What tests of the runtime without a daemon start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_support import World


@pytest.fixture
def world(tmp_path: Path, busybox_rootfs: Path) -> Iterator[World]:
    with World(tmp_path, busybox_rootfs) as made:
        yield made
