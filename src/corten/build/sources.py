"""``--cache-from``: images whose steps the client trusts, known by their history.

An image's history is only what it says of itself, so this is used for named images alone.
"""

from __future__ import annotations

from typing import Any

from corten.build.config import State
from corten.errors import NotFound
from corten.image.register import NewImage
from corten.image.store import Image, ImageStore
from corten.oci import config as image_config
from corten.oci.config import encode_config


class ForeignCache:
    """names: images of this store; those that are not there are passed over, as in Docker"""

    def __init__(self, store: ImageStore, names: tuple[str, ...]) -> None:
        self._store = store
        self._images: list[Image] = []
        for name in names:
            try:
                self._images.append(store.get(name))
            except NotFound:
                continue

    def find(self, state: State, created_by: str, witness: str) -> str:
        """The image of a step: one whose history goes on from the present state with this line; "" without.

        witness: what the line does not tell of the step, in its comment
        """
        present = _lines(state.document)
        layers = image_config.diff_ids(state.document) if state.image else []
        for image in self._images:
            history = image_config.history(image.config)
            lines = _lines(image.config)
            count = len(present)
            diff_ids = image_config.diff_ids(image.config)
            if len(lines) <= count or lines[:count] != present or diff_ids[: len(layers)] != layers:
                continue
            step = history[count]
            if step.get("created_by", "") != created_by or (witness and step.get("comment", "") != witness):
                continue
            has_layer = not step.get("empty_layer")
            if has_layer and len(diff_ids) <= len(layers):
                continue
            return self._restored(state, image, step, diff_ids[len(layers)] if has_layer else "")
        return ""

    def _restored(self, state: State, image: Image, step: dict[str, Any], diff_id: str) -> str:
        """The image as it was after that step."""
        document = dict(state.document)
        for name in ("architecture", "os", "variant"):
            if name in image.config:
                document[name] = image.config[name]
        document["created"] = step.get("created", image_config.EPOCH_ZERO)
        document["config"] = {key: value for key, value in state.run.items() if value not in (None, "", [], {}, False)}
        document["history"] = [*(document.get("history") or ()), step]
        rootfs = dict(document["rootfs"])
        with self._store.intake() as intake:
            below = intake.layers_of(state.image) if state.image else ()
            if diff_id:
                rootfs["diff_ids"] = [*rootfs.get("diff_ids", ()), diff_id]
                layer = intake.existing(below[-1] if below else None, diff_id)
                if layer is None:
                    return ""
                below = (*below, layer)
            document["rootfs"] = rootfs
            return intake.add(NewImage(encode_config(document), below, parent=state.image))


def _lines(document: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(step.get("created_by", ""), bool(step.get("empty_layer"))) for step in document.get("history") or ()]
