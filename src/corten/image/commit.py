"""``commit``: what a container changed becomes a layer on top of its image.  Source: docker commit(1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corten.image.layer_diff import changes_tar, overlay_tar
from corten.image.layers import Layers, Staged
from corten.image.metadata import Layer
from corten.image.pipes import iterated
from corten.image.register import NewImage, Registrar, Session
from corten.linux.user_namespace import Rights
from corten.oci import config as image_config
from corten.oci.config import encode_config
from corten.oci.platform import from_document
from corten.oci.reference import Reference

# what of a container's configuration belongs to an image (image-spec config.md and Docker's additions)
_IMAGE_KEYS = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "StopTimeout",
    "Healthcheck", "OnBuild", "Shell", "ArgsEscaped",
)  # fmt: skip
_ON_HOST = "holds only what was changed on top of the machine's own root file system"


@dataclass(frozen=True, slots=True)
class CommitWanted:
    container_id: str
    run: dict[str, Any]
    command: str
    author: str
    comment: str

    @classmethod
    def check(
        cls,
        container_id: str,
        config: dict[str, Any],
        changes: list[str],
        command: str | Sequence[str],
        author: str,
        comment: str,
    ) -> CommitWanted:
        """Errors: InvalidParameter (changes)."""
        from corten.image.changes import apply_changes  # the Dockerfile's parser: not a part of every daemon's start

        run = {key: config[key] for key in _IMAGE_KEYS if config.get(key) not in (None, "", [], {}, False)}
        words = command if isinstance(command, str) else " ".join(command)
        return cls(container_id, apply_changes(run, changes), words, author, comment)

    def build(
        self,
        session: Session,
        layers: Layers,
        registrar: Registrar,
        base_id: str,
        base: dict[str, Any],
        below: list[Layer],
        name: Reference | None,
    ) -> NewImage:
        """below: the base image's layers, base first.  Errors: InvalidParameter (too many layers), SystemFailure."""
        parent = below[-1] if below else None
        staged = stage_changes(layers, self.container_id, parent)
        stack = list(below)
        if staged.stats.entries:
            stack.append(registrar.place(session, staged, parent))
        else:
            layers.discard(staged)
        for layer in below:
            session.hold(layer)
        document = self._document(base, stack, empty=not staged.stats.entries)
        return NewImage(encode_config(document), tuple(stack), (name,) if name else (), parent=base_id)

    def _document(self, base: dict[str, Any], stack: list[Layer], *, empty: bool) -> dict[str, Any]:
        created = image_config.now()
        document = image_config.new_config(
            platform=from_document(base), created=created, run=self.run, author=self.author
        )
        for key in ("os.version", "os.features"):
            if key in base:
                document[key] = base[key]
        document["rootfs"]["diff_ids"] = [layer.diff_id for layer in stack if not layer.is_host]
        comment = self.comment or (_ON_HOST if any(layer.is_host for layer in stack) else "")
        step: dict[str, Any] = {"created": created}
        for key, value in (("author", self.author), ("created_by", self.command), ("comment", comment)):
            if value:
                step[key] = value
        if empty:
            step["empty_layer"] = True
        document["history"] = [*image_config.history(base), step]
        return document


def stage_changes(layers: Layers, container_id: str, parent: Layer | None) -> Staged:
    """What a container changed as a layer that is staged on ``parent``.  Errors: SystemFailure."""
    snapshotter = layers.snapshotter
    upper = snapshotter.upper_path(container_id)
    if snapshotter.overlay_whiteouts:
        tar = overlay_tar(upper, Rights.here())
    else:
        tar = changes_tar(upper, snapshotter.changes(container_id))
    return layers.stage(iterated(tar), parent)
