"""What a power cut may leave of layers: files that were not written out are there and empty, or full of zeros."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import NotFound
from corten.snapshot.overlay import OverlaySnapshotter

RUBBISH = ["", "\0" * 26, "../../../x"]


@pytest.fixture
def layers(tmp_path: Path) -> OverlaySnapshotter:
    return OverlaySnapshotter(tmp_path)


def made(layers: OverlaySnapshotter, parent: str | None = None) -> str:
    layer_id = layers.stage(parent)
    layers.commit(layer_id, parent)
    return layer_id


def short_names(layers: OverlaySnapshotter) -> list[Path]:
    return list((layers.layer_path("l")).iterdir())


@pytest.mark.parametrize("text", RUBBISH)
def test_a_layer_whose_short_name_is_lost_can_be_removed(layers: OverlaySnapshotter, tmp_path: Path, text: str) -> None:
    (tmp_path / "x").touch()
    layer_id = made(layers)
    (layers.layer_path(layer_id) / "link").write_text(text)
    layers.discard(layer_id)
    assert not layers.layer_path(layer_id).exists()
    assert layers.strays(set()) == short_names(layers), "the link itself is swept"
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize("text", RUBBISH)
def test_a_layer_whose_short_name_is_lost_is_linked_again(layers: OverlaySnapshotter, text: str) -> None:
    below = made(layers)
    above = made(layers, below)
    (layers.layer_path(below) / "link").write_text(text)
    assert not layers.is_linked(below, None)
    assert not layers.is_linked(above, below)
    with pytest.raises(NotFound):
        layers.stage(below)
    layers.relink(below, None)
    assert layers.is_linked(below, None)
    assert layers.is_linked(above, below), "the same name as before"


def test_the_name_of_a_container_whose_disk_is_not_mounted_is_its_own(layers: OverlaySnapshotter) -> None:
    layers.create("c", made(layers))
    (name,) = [link for link in short_names(layers) if link.readlink().parts[1] == "c"]
    name.unlink()
    name.symlink_to("../c/disk/diff")
    assert layers.strays(set()) == []
    for snapshot in ("c", "c-init"):
        layers.discard(snapshot)
    name.symlink_to("../c/disk/diff")
    assert layers.strays(set()) == [name]


def test_a_container_that_knows_no_layers_below_it_is_no_whole_one(layers: OverlaySnapshotter) -> None:
    layers.create("c", made(layers))
    assert layers.container_flaw("c") == ""
    (layers.layer_path("c") / "lower").write_text("")
    assert layers.container_flaw("c") == "what it stands on is not known any more"
    for name in ("c", "c-init"):
        (layers.layer_path(name) / "link").write_text("")
    layers.remove("c")
    assert {path.name for path in layers.layer_path("").iterdir()} >= {"l"}
    assert "c" not in layers.ids()
