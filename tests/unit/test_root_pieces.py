"""The machine's root in pieces: what can be a layer, what has to be copied, and what layers above hide of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corten.linux import root_pieces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("usr/bin", "etc/apt", "var/lib/mounted", "var/log", "proc", "closed"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "vmlinuz").write_text("x")
    (tmp_path / "var/file").write_text("y")
    return tmp_path


def planned(root: Path, *mounted: str) -> root_pieces.Plan:
    points = {str(root / name) for name in mounted}
    return root_pieces.plan(
        str(root), points, lambda directory: not any(point.startswith(f"{directory}/") for point in points)
    )


def test_directories_without_mounts_are_pieces(root: Path) -> None:
    parts = planned(root, "proc", "var/lib/mounted")
    assert parts.pieces == ["closed", "etc", "usr", "var/log"]
    assert sorted(parts.skeleton) == ["bin", "proc", "var", "var/file", "var/lib", "var/lib/mounted", "vmlinuz"]


def test_without_mounts_everything_is_a_piece(root: Path) -> None:
    assert planned(root).pieces == ["closed", "etc", "proc", "usr", "var"]


def test_what_layers_show(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "etc").mkdir(parents=True)
    (lower / "etc/apt").mkdir(parents=True)
    layers = [str(upper), str(lower)]
    assert root_pieces.visible(layers, "etc") == [str(upper / "etc"), str(lower / "etc")]
    assert root_pieces.visible(layers, "etc/apt") == [str(lower / "etc/apt")]
    assert root_pieces.visible(layers, "usr") == []


@pytest.mark.parametrize("hides", ["a file", "an opaque directory", "an opaque parent"])
def test_what_layers_hide(tmp_path: Path, hides: str) -> None:
    layer = tmp_path / "layer"
    if hides == "a file":
        layer.mkdir()
        (layer / "opt").touch()
    else:
        (layer / "opt/inner").mkdir(parents=True)
        os.setxattr(layer / "opt", "user.overlay.opaque", b"y")
    assert root_pieces.visible([str(layer)], "opt/inner" if hides == "an opaque parent" else "opt") is None


def test_the_upper_directory_takes_over_what_it_covers(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    upper = tmp_path_factory.mktemp("upper")
    (root / "var/log").chmod(0o1750)
    os.utime(root / "var/log", ns=(10**18, 10**18))
    made = root_pieces.make_upper(str(upper), "var/log", [], str(root))
    status = os.stat(made)
    assert made == str(upper / "var/log")
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o1750, 10**18)
    assert root_pieces.make_upper(str(upper), "var/log", [], str(root)) == made
