"""The images ``host`` and ``host:full``: this machine's own root file system as a read-only lower layer.

``host`` hides what is private (``host_mask``), ``host:full`` hides nothing.  Both are made when they are first
asked for and again when the list, or what it names on the machine, has changed; what containers still use stays
until they go.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.errors import Conflict, InvalidParameter, NotFound, NotImplementedYet
from corten.image import host_mask
from corten.image.layers import Layers
from corten.image.metadata import Layer, Metadata
from corten.image.register import NewImage, Registrar, Session
from corten.linux.user_namespace import Rights
from corten.oci import config as image_config
from corten.oci import reference
from corten.oci.documents import encode
from corten.oci.platform import this_machine

logger = logging.getLogger(__name__)

KIND = "host"
MASKED = reference.parse("host:latest")
FULL = reference.parse("host:full")
# tells people what an image was made on.  Nothing is decided by it: a loaded image must not be able to ask for the host
LABEL = "org.corten.host"
NAMES = frozenset((MASKED.canonical, FULL.canonical))
_BASE_KEY = "host:/"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def target_name(text: str) -> reference.Reference:
    """A name to give to an image.  Errors: InvalidParameter (malformed, a digest), Conflict (a built-in image's)."""
    name = reference.parse(text)
    if name.digest:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    name = name.with_default_tag()
    if name.familiar_repository == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    if name.canonical in NAMES:
        raise Conflict(f"the name {name.familiar} belongs to the built-in image of this machine's root")
    return name


@dataclass(frozen=True, slots=True)
class HostPlace:
    """private: directories of this daemon that containers must not see; root: "/" except in tests"""

    private: tuple[Path, ...]
    root: str = "/"


class HostImages:
    """Thread-safe."""

    def __init__(self, place: HostPlace, metadata: Metadata, layers: Layers, registrar: Registrar) -> None:
        self._place = place
        self._metadata = metadata
        self._layers = layers
        self._registrar = registrar
        self._lock = threading.Lock()
        self._unavailable = ""

    def ensure(self, name: reference.Reference) -> str:
        """The id of the image ``host`` or ``host:full`` as the machine is now.

        Errors: NotFound where the storage driver cannot show the machine's root.
        """
        with self._lock:
            if self._unavailable:
                raise NotFound(f"No such image: {name.familiar} ({self._unavailable})")
            try:
                if name == FULL:
                    return self._image(FULL, "full", [])
                hidden = host_mask.find(map(str, self._place.private), self._place.root)
                return self._image(MASKED, host_mask.fingerprint(hidden), hidden)
            except NotImplementedYet as error:
                self._unavailable = str(error)
                raise NotFound(f"No such image: {name.familiar} ({error})") from error

    @property
    def lacking(self) -> str:
        """Why they are not there, "" when they are."""
        return self._unavailable

    def ensure_all(self) -> None:
        """Make both where possible; a driver that cannot is no error."""
        for name in (MASKED, FULL):
            try:
                self.ensure(name)
            except NotFound as error:
                logger.info("%s", error)
                return

    def _image(self, name: reference.Reference, label: str, hidden: list[host_mask.Hidden]) -> str:
        known = self._metadata.tagged(name.canonical)
        record = self._metadata.image(known) if known else None
        if record is not None and record.kind == KIND and record.layers[-1] == self._key(label):
            return record.id
        with self._registrar.session() as session:
            stack = [self._base(session)]
            if label != "full":
                stack.append(self._mask(session, label, hidden, stack[0]))
            image = NewImage(encode(self._config(label)), tuple(stack), (name,), kind=KIND)
            return self._registrar.add([image])[0]

    @staticmethod
    def _key(label: str) -> str:
        return _BASE_KEY if label == "full" else f"host:mask:{label}"

    def _base(self, session: Session) -> Layer:
        layer = self._metadata.layer(_BASE_KEY)
        if layer is not None:
            session.hold(layer)
            return layer
        snapshot = secrets.token_hex(32)
        self._layers.snapshotter.register_directory(snapshot, self._place.root)
        layer = Layer(_BASE_KEY, "", "", snapshot, 0, 0, time.time_ns())
        self._registrar.add_layer(session, layer)
        return layer

    def _mask(self, session: Session, label: str, hidden: list[host_mask.Hidden], base: Layer) -> Layer:
        layer = self._metadata.layer(self._key(label))
        if layer is not None:
            session.hold(layer)
            return layer
        snapshotter = self._layers.snapshotter
        snapshot = snapshotter.stage(base.snapshot)
        try:
            host_mask.write(snapshotter.diff_path(snapshot), hidden, self._place.root, Rights.here())
            snapshotter.commit(snapshot, base.snapshot)
        except BaseException:
            snapshotter.discard(snapshot)
            raise
        layer = Layer(self._key(label), _BASE_KEY, "", snapshot, 0, 0, time.time_ns())
        self._registrar.add_layer(session, layer)
        return layer

    def _config(self, label: str) -> dict[str, Any]:
        root = self._place.root.rstrip("/")
        shell = "/bin/bash" if os.path.exists(f"{root}/bin/bash") else "/bin/sh"
        created = image_config.now()
        run = {"Env": [_PATH], "Cmd": [shell], "Labels": {LABEL: "full" if label == "full" else "masked"}}
        config = image_config.new_config(platform=this_machine(), created=created, run=run)
        steps = ["the root file system of this machine, read-only"]
        if label != "full":
            steps.append("hide what is private on this machine")
        config["history"] = [
            # nothing is copied, so no archive has these layers: images made on top of them hold their own only
            {"created": created, "created_by": step, "empty_layer": True}
            for step in steps
        ]
        return config
