"""The images that a build stands on and takes from: found here or pulled, kept until it ends."""

from __future__ import annotations

import contextlib
import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING

from corten.build.config import State
from corten.build.sources import ForeignCache
from corten.build.workshop import Report
from corten.dockerfile import instructions as ins
from corten.dockerfile.words import WordError, expand
from corten.errors import InvalidParameter, NotFound, Unauthorized, Unavailable
from corten.image.store import Image
from corten.oci import reference
from corten.oci.platform import Platform, from_document, parse_platform

if TYPE_CHECKING:
    from corten.build.build import Build
    from corten.build.stage import Made


class BuildImages:
    """Thread-safe.

    materials: address of what came from outside -> digest
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._options = build.options
        self._lock = threading.Lock()
        self._held = contextlib.ExitStack()
        self._holding: dict[str, Image] = {}
        self._pulling = threading.Lock()
        self._images: dict[tuple[str, str], Image] = {}
        self._foreign: ForeignCache | None = None
        self.materials: dict[str, str] = {}

    def close(self) -> None:
        """Let all of them go."""
        self._held.close()

    def hold(self, image_id: str) -> Image:
        """An image that stays until the build ends.  Errors: NotFound."""
        with self._lock:
            known = self._holding.get(image_id)
            if known is None:
                known = self._holding[image_id] = self._held.enter_context(self._build.store.pin(image_id))
            return known

    def layer_size(self, image_id: str) -> int:
        image = self.hold(image_id)
        history = image.config.get("history") or [{}]
        return 0 if history[-1].get("empty_layer") or not image.layer_sizes else image.layer_sizes[-1]

    def base_image(self, name: str, start: ins.From, tell: Report) -> Image:
        """What FROM names, pulled when it must be."""
        platform = self._options.platform
        if start.platform:
            try:
                platform = expand(start.platform, self._build.arguments.variables(), self._build.file.escape)
            except WordError as error:
                raise start.line.error(f"failed to process {start.platform}: {error}", "--platform") from None
            if not platform:
                raise start.line.error("--platform should not be blank", "--platform")
        return self.hold(self._image(name, platform, tell, pull=self._options.pull).id)

    def other_image(self, name: str, tell: Report) -> Image:
        """What --from names that is no stage."""
        try:
            return self.hold(self._image(name, self._options.platform, tell, pull=False).id)
        except (NotFound, Unavailable, Unauthorized) as error:
            near = get_close_matches(name.lower(), [stage.start.alias for stage in self._build.file.stages], n=1)
            if not near:
                raise
            raise NotFound(f"{error.message} (no stage is called {name}; did you mean {near[0]}?)") from error

    def _image(self, name: str, platform: str, tell: Report, *, pull: bool) -> Image:
        name = self._build.named.image(name) or name
        with self._pulling:  # a name means the same image for the whole build
            known = self._images.get((name, platform))
            if known is None:
                known = self._images[name, platform] = self._found(name, platform, tell, pull=pull)
                self.used(*_material(name, known))
            return known

    def _found(self, name: str, platform: str, tell: Report, *, pull: bool) -> Image:
        if not pull or self._is_local_only(name):
            with contextlib.suppress(NotFound):
                image = self._build.store.get(name)
                if not platform or _serves(image, parse_platform(platform)):
                    return image
                if self._is_local_only(name):
                    raise InvalidParameter(f"image {name} is not for {platform}")
        self._build.workshop.pull(name, platform, tell, self._build.cancellation)
        image = self._build.store.get(name)
        if platform and not _serves(image, parse_platform(platform)):
            tell({"stream": f"[Warning] image {name} is not for {platform}\n"})
        return image

    def _is_local_only(self, name: str) -> bool:
        """Built in, or named by its id: no registry has it under that name."""
        try:
            image = self._build.store.get(name)
        except NotFound:
            return False
        return self._build.store.is_builtin(image.id) or image.id.removeprefix("sha256:").startswith(
            name.removeprefix("sha256:")
        )

    def from_sources(self, state: State, made: Made) -> str:
        """What one of the images that the client trusts (``cache_from``) has for a step, "" without."""
        if not self._options.cache_from:
            return ""
        with self._lock:
            if self._foreign is None:
                self._foreign = ForeignCache(self._build.store, self._options.cache_from)
        return self._foreign.find(state, made.created_by, made.witness)

    def used(self, address: str, digest: str) -> None:
        """Something from outside became part of the result: for its provenance."""
        with self._lock:
            self.materials[address] = digest


def _material(name: str, image: Image) -> tuple[str, str]:
    """(package URL, digest) of a base image: its repository's digest, or its id when no registry knows it."""
    parsed = reference.try_parse(name)
    if parsed is None:
        return f"pkg:docker/{name}", image.id
    tagged = parsed.with_default_tag()
    version = tagged.digest or tagged.tag
    digests = [item.partition("@")[2] for item in image.digests if item.startswith(f"{parsed.familiar_repository}@")]
    platform = str(from_document(image.config)).replace("/", "%2F")
    return f"pkg:docker/{parsed.familiar_repository}@{version}?platform={platform}", (digests or [image.id])[0]


def _serves(image: Image, wanted: Platform) -> bool:
    return from_document(image.config).rank(wanted) in (0, 1)
