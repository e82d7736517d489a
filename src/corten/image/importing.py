"""``import``: a file system in a tar becomes an image of one layer.  Source: docker import(1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corten.image.archive_members import Progress
from corten.image.layers import Layers
from corten.image.pipes import Chunks
from corten.image.register import NewImage, Registrar, Session
from corten.oci import config as image_config
from corten.oci.config import encode_config
from corten.oci.platform import Platform, parse_platform, this_machine
from corten.oci.reference import Reference

_PROGRESS_BYTES = 512 << 10


def reported(source: Chunks, progress: Progress) -> Chunks:
    """The source, telling how far it is."""
    done = shown = 0

    def next_chunk() -> bytes:
        nonlocal done, shown
        chunk = source()
        done += len(chunk)
        if done - shown >= _PROGRESS_BYTES or (not chunk and done != shown):
            shown = done
            progress({"status": "Importing", "progressDetail": {"current": done}})
        return chunk

    return next_chunk


@dataclass(frozen=True, slots=True)
class ImportWanted:
    """What was asked for, checked before the first byte is read."""

    run: dict[str, Any]
    message: str
    platform: Platform

    @classmethod
    def check(cls, changes: list[str], message: str, platform: str) -> ImportWanted:
        """Errors: InvalidParameter."""
        from corten.image.changes import apply_changes  # the Dockerfile's parser: not a part of every daemon's start

        return cls(
            apply_changes({}, changes),
            message or "Imported from -",
            parse_platform(platform) if platform else this_machine(),
        )

    def build(
        self, session: Session, layers: Layers, registrar: Registrar, source: Chunks, name: Reference | None
    ) -> NewImage:
        """Errors: InvalidParameter, DataLoss, SystemFailure."""
        layer = registrar.place(session, layers.stage(source), None)
        created = image_config.now()
        document = image_config.new_config(platform=self.platform, created=created, run=self.run)
        document["rootfs"]["diff_ids"] = [layer.diff_id]
        document["history"] = [{"created": created, "comment": self.message}]
        return NewImage(encode_config(document), (layer,), (name,) if name else ())
