"""The layers that a container's root is put together from, topmost first."""

from __future__ import annotations

from typing import Any

from corten.engine.container import Container
from corten.errors import CortenError
from corten.image.store import ImageStore
from corten.snapshot.api import Snapshotter

Document = dict[str, Any]

_SHOWN_CHANGES = 200


def layers(container: Container, images: ImageStore, snapshotter: Snapshotter) -> Document:
    """Sizes in bytes; walks the writable layer."""
    changes = snapshotter.changes(container.id)
    kinds = {"A": "Added", "C": "Changed", "D": "Deleted"}
    counts = {name: sum(change.kind == kind for change in changes) for kind, name in kinds.items()}
    rows: list[Document] = [
        {
            "Kind": "writable",
            "Id": container.id,
            "Path": str(snapshotter.upper_path(container.id)),
            "SizeBytes": snapshotter.usage(container.id),
            "Step": "what the container has changed",
        },
        {
            "Kind": "init",
            "Id": f"{container.id}-init",
            "Path": "",
            "SizeBytes": 0,
            "Step": "places for /etc/hosts, /etc/hostname, /dev/console",
        },
        *_image_layers(container, images, snapshotter),
    ]
    return {
        "Driver": snapshotter.name,
        "Limit": container.host_config.storage_opt.get("size", ""),
        "Layers": rows,
        "Changes": {**counts, "Paths": [f"{change.kind} {change.path}" for change in changes[:_SHOWN_CHANGES]]},
        "Root": snapshotter.data(container.id).get("MergedDir", ""),
    }


def _image_layers(container: Container, images: ImageStore, snapshotter: Snapshotter) -> list[Document]:
    try:
        image = images.get(container.image_id)
        steps = [row for row in images.history(container.image_id) if row["Size"]]
    except CortenError:
        return []
    rows = []
    # both topmost first; steps that added nothing have no row of their own
    remaining = list(steps)
    for layer, size in reversed(list(zip(image.layers, image.layer_sizes, strict=True))):
        step = remaining.pop(0)["CreatedBy"] if remaining and remaining[0]["Size"] == size else ""
        rows.append(
            {"Kind": "image", "Id": layer, "Path": str(snapshotter.diff_path(layer)), "SizeBytes": size, "Step": step}
        )
    return rows
