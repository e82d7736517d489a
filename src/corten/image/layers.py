"""Layers: unpacked as staged directories, made part of a stack, given back as tars.

A staged layer is invisible until it is committed under its key; what is staged and not committed is swept at the next
start.  A key is the chain ID, so images that begin with the same layers share them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corten.errors import DataLoss, InvalidParameter, NotFound
from corten.image.compression import DEFAULT_LIMITS, Limits, decompressed
from corten.image.extract import NONE_GIVEN, Given
from corten.image.layer_apply import DISPLACED_NAME, SPLIT_NAME, LayerStats, apply_layer
from corten.image.metadata import Layer, Metadata
from corten.image.pipes import Chunks, Hashed, iterated, read_ahead
from corten.image.settle import settle
from corten.image.tarsplit import rebuild
from corten.image.unpackers import Unpackers
from corten.linux.user_namespace import Rights
from corten.oci.digest import Digest, chain_id, hasher
from corten.oci.manifest import MAX_LAYERS
from corten.snapshot.api import Snapshotter


@dataclass(frozen=True, slots=True)
class Staged:
    """An unpacked layer without a place: what it is and what it was made from.

    blob: digest of the bytes as they came, ``blob_size`` of them; diff_id: digest of the plain tar
    """

    snapshot: str
    diff_id: Digest
    blob: Digest
    blob_size: int
    compression: str
    stats: LayerStats


class Leases:
    """Layers and images that work in progress relies on, counted; a sweep leaves them alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def hold(self, name: str) -> None:
        with self._lock:
            self._held[name] = self._held.get(name, 0) + 1

    def release(self, name: str) -> None:
        with self._lock:
            count = self._held.get(name, 0) - 1
            if count > 0:
                self._held[name] = count
            else:
                self._held.pop(name, None)

    def held(self) -> set[str]:
        with self._lock:
            return set(self._held)

    def is_held(self, name: str) -> bool:
        return name in self._held


class Layers:
    """Thread-safe; the caller commits ``Layer`` records to the database.

    rights: by which layers were unpacked
    """

    def __init__(self, snapshotter: Snapshotter, metadata: Metadata, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.snapshotter = snapshotter
        self._metadata = metadata
        self._limits = limits
        self.rights = Rights.here()

    @property
    def can_stage_early(self) -> bool:
        """Whether a layer may be unpacked before its parents are known; copies of whole trees cannot."""
        return self.snapshotter.overlay_whiteouts

    # -- in -----------------------------------------------------------------------------------------------------------

    def stage(self, source: Chunks, parent: Layer | None = None, *, given: Given = NONE_GIVEN) -> Staged:
        """Unpack a layer tar in any compression; inflating and hashing run beside the unpacking.

        given: files that may become the layer's, see ``ExtractOptions``
        Nothing stays when it fails.
        Errors: InvalidParameter, DataLoss (bad archive), SystemFailure (no space).
        """
        snapshot = self.snapshotter.stage(parent.snapshot if parent else None)
        try:
            return self._staged(snapshot, source, given)
        except BaseException:
            self.snapshotter.discard(snapshot)
            raise

    def _staged(self, snapshot: str, source: Chunks, given: Given = NONE_GIVEN) -> Staged:
        blob = Hashed(source)
        compression, plain = decompressed(blob, self._limits)
        content = Hashed(plain) if compression else None
        with read_ahead(content or plain) as chunks:
            stats = apply_layer(
                chunks,
                self.snapshotter.diff_path(snapshot),
                self.snapshotter.layer_path(snapshot),
                overlay=self.snapshotter.overlay_whiteouts,
                rights=self.rights,
                given=given,
            )
        digest = content.digest if content else blob.digest
        return Staged(snapshot, digest, blob.digest, blob.size, compression, stats)

    def stage_beside(self, source: Chunks, unpackers: Unpackers) -> Staged:
        """The same in a process of its own, so that several layers are unpacked side by side.

        Only where ``can_stage_early``, within ``unpackers.using()``.
        """
        snapshot = self.snapshotter.stage(None)
        try:
            worker = unpackers.take()
            if worker is None:
                return self._staged(snapshot, source)
            made, stats = unpackers.unpack(
                worker,
                source,
                self.snapshotter.diff_path(snapshot),
                self.snapshotter.layer_path(snapshot),
                overlay=self.snapshotter.overlay_whiteouts,
                rights=self.rights,
                limits=self._limits,
            )
            return Staged(snapshot, made["diff_id"], made["blob"], made["blob_size"], made["compression"], stats)
        except BaseException:
            self.snapshotter.discard(snapshot)
            raise

    def discard(self, staged: Staged) -> None:
        self.snapshotter.discard(staged.snapshot)

    def commit(self, staged: Staged, parent: Layer | None, *, host: bool = False) -> Layer:
        """Put a staged layer on top of ``parent``; the record to add to the database.

        host: the stack stands on this machine's own root and is known by a key of its own
        Errors: InvalidParameter (too many layers).
        """
        lower = self.stack(parent)
        if len(lower) >= MAX_LAYERS:
            raise InvalidParameter(f"max depth exceeded: an image has at most {MAX_LAYERS} layers")
        if self.snapshotter.overlay_whiteouts:
            settle(
                self.snapshotter.diff_path(staged.snapshot),
                [self.snapshotter.diff_path(layer.snapshot) for layer in lower],
                staged.stats,
                rights=self.rights,
            )
        self.snapshotter.commit(staged.snapshot, parent.snapshot if parent else None)
        return Layer(
            key=layer_key(parent, staged.diff_id),
            parent=parent.key if parent else "",
            diff_id=staged.diff_id,
            snapshot=staged.snapshot,
            size=staged.stats.size,
            tar_size=staged.stats.tar_size,
            created=time.time_ns(),
        )

    # -- out ----------------------------------------------------------------------------------------------------------

    def stack(self, top: Layer | None) -> list[Layer]:
        """The layer and all below it, nearest first."""
        found = []
        while top is not None:
            found.append(top)
            top = self._metadata.layer(top.parent) if top.parent else None
        return found

    def tar(self, layer: Layer) -> Iterator[bytes]:
        """The layer's exact archive, checked against its diff ID while it passes.

        Errors: InvalidParameter for a directory of the host; DataLoss when files were changed on disk.
        """
        if layer.is_host:
            raise InvalidParameter("the machine's own root file system cannot be exported as a layer")
        directory = self.snapshotter.layer_path(layer.snapshot)
        root = os.open(self.snapshotter.diff_path(layer.snapshot), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            running = hasher(Digest(layer.diff_id))
            for chunk in rebuild(str(directory / SPLIT_NAME), root, str(directory / DISPLACED_NAME)):
                running.update(chunk)
                yield chunk
            actual = f"{running.name}:{running.hexdigest()}"
            if actual != layer.diff_id:
                raise DataLoss(f"layer {layer.diff_id} was changed on disk: it now is {actual}")
        except FileNotFoundError as error:
            raise NotFound(f"layer {layer.diff_id} is not complete on disk") from error
        finally:
            os.close(root)

    def has_split(self, layer: Layer) -> bool:
        """Whether what a layer's archive needs beside its files is there."""
        return (self.snapshotter.layer_path(layer.snapshot) / SPLIT_NAME).exists()

    def copy(self, layer: Layer, parent: Layer | None) -> Staged:
        """The same content once more, to stand on another parent."""
        return self.stage(iterated(self.tar(layer)), parent)

    def path(self, layer: Layer) -> Path:
        return self.snapshotter.diff_path(layer.snapshot)


def layer_key(parent: Layer | None, diff_id: str) -> str:
    """Chain ID; on top of the machine's own root the chain is counted from there: ``host:<snapshot>:<chain ID>``."""
    if parent is None:
        return diff_id
    if parent.is_host:
        return f"host:{parent.snapshot[:16]}:{diff_id}"
    prefix, _, chain = parent.key.rpartition("sha256:")
    return prefix + chain_id("sha256:" + chain, diff_id)
