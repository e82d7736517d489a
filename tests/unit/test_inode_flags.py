"""The mark by which ext4 spreads what is below a directory's subdirectories."""

from __future__ import annotations

import subprocess

import pytest

from corten.linux.inode_flags import spread_subdirectories
from corten.snapshot.overlay import OverlaySnapshotter


def attributes(directory) -> str:
    """Of chattr(1)."""
    done = subprocess.run(["lsattr", "-d", directory], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no attributes here: {done.stderr.strip()}")
    return done.stdout.split()[0]


@pytest.fixture
def on_ext4(tmp_path):
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if "ext" not in kind:
        pytest.skip(f"the mark is ext4's, this is {kind.strip()}")
    return tmp_path


def test_the_directory_is_marked_and_its_other_attributes_stay(on_ext4) -> None:
    subprocess.run(["chattr", "+d", on_ext4], check=True)
    before = attributes(on_ext4)
    assert "T" not in before
    spread_subdirectories(on_ext4)
    assert set(attributes(on_ext4)) == {*before, "T"}


def test_layers_are_spread_and_what_is_in_one_stays_together(on_ext4) -> None:
    snapshotter = OverlaySnapshotter(on_ext4)
    layer = snapshotter.stage(None)
    assert "T" in attributes(on_ext4 / "overlay2")
    assert "T" not in attributes(snapshotter.diff_path(layer))
    OverlaySnapshotter(on_ext4)  # a second start
    assert "T" in attributes(on_ext4 / "overlay2")


def test_a_file_system_without_the_mark_is_left_as_it_is() -> None:
    spread_subdirectories("/proc/self")
