"""What is done to a result when all its steps are: times that are not later than wanted, one layer instead of many."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from corten.build.cache import key_of
from corten.build.layer_rewrite import Layer, clamped, squashed
from corten.image.pipes import gathered, iterated
from corten.image.register import NewImage
from corten.image.store import Image, ImageStore
from corten.oci.config import encode_config, format_time

if TYPE_CHECKING:
    from corten.build.build import Build


def finished(build: Build, image_id: str, base_layers: int) -> str:
    """The image that the client gets.

    base_layers: so many of its layers are another image's and stay as they are
    """
    options = build.options
    latest_ns = build.now_ns() if options.rewrite_times else None
    if not options.squash and latest_ns is None:
        return image_id
    key = key_of("finished", image_id, str(base_layers), str(options.squash), str(latest_ns))
    with build.cache.claim(key, build.cancellation) as known:
        if known:
            return known
        image = build.images.hold(image_id)
        made = _made(build.store, image, base_layers, squash=options.squash, latest_ns=latest_ns, now_ns=build.now_ns())
        build.cache.add(key, made, parent=image_id, description="rewritten layers", size=build.images.hold(made).size)
        return made


def _made(
    store: ImageStore, image: Image, base_layers: int, *, squash: bool, latest_ns: int | None, now_ns: int
) -> str:
    tars: list[Layer] = [_opener(store, layer) for layer in image.layers[base_layers:]]
    if squash and len(tars) > 1:
        whole = list(tars)
        tars = [lambda: squashed(whole)]
    with store.intake() as intake:
        layers = list(intake.layers_of(image.id)[:base_layers])
        for tar in tars:
            chunks = tar() if latest_ns is None else clamped(tar, latest_ns)
            parent = layers[-1] if layers else None
            staged = intake.stage(gathered(iterated(chunks)), parent)
            layers.append(intake.place(staged, parent, staged.diff_id))
        document = copy.deepcopy(image.config)
        document["rootfs"]["diff_ids"] = [layer.diff_id for layer in layers]
        if squash:
            _squash_history(document, image.id, base_layers, now_ns)
        return intake.add(NewImage(encode_config(document), tuple(layers)))


def _opener(store: ImageStore, layer: str) -> Layer:
    def tar() -> Iterator[bytes]:
        return store.open_layer_tar(layer)

    return tar


def _squash_history(document: dict[str, Any], merged: str, base_layers: int, now_ns: int) -> None:
    """Steps above the base have no layers of their own any more; the last line is the one that has them all."""
    seen = 0
    for step in document.get("history") or ():
        if not step.get("empty_layer"):
            seen += 1
            if seen > base_layers:
                step["empty_layer"] = True
    if seen > base_layers:
        document["history"].append({"created": format_time(now_ns), "comment": f"merge {merged} to its base"})
