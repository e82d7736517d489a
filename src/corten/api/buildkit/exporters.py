"""Where a client wants a result to go: types and attributes of BuildKit's exporters, typed.

Source: moby/buildkit, exporter/containerimage/exptypes, exporter/{oci,tar,local}; moby/moby, builder-next's "moby".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corten.api.buildkit.attributes import Attestations
from corten.dockerapi.build import number
from corten.errors import InvalidParameter

STORED = frozenset({"moby", "image"})
ARCHIVES = frozenset({"oci", "docker"})
FILES = frozenset({"local", "tar"})
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false", ""})
_ANNOTATION = re.compile(r"annotation(?:-(manifest|index|manifest-descriptor|index-descriptor))?(\[[^]]+\])?\.(.+)")
_PACKED = frozenset(
    """
    name load push push-by-digest registry.insecure unpack dangling-name-prefix danging-name-empty-only
    name-canonical store oci-mediatypes oci-artifact attestation-inline prefer-nondist-layers source-date-epoch
    compression force-compression compression-level rewrite-timestamp tar prefer-image-digest buildinfo
    buildinfo-attrs context
    """.split()
)
_OF_FILES = frozenset({"platform-split", "attestation-prefix", "source-date-epoch", "mode"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One exporter.

    number: its place in the solve, by which the client knows its file or directory
    names: of the image; push: to their registries; by_digest: without tags
    compression: "" for the usual one; level: of it; annotations: as ``OutputRequest`` has them
    split: a directory for each platform; None for the usual (when there are several)
    """

    type: str
    number: int
    names: tuple[str, ...] = ()
    push: bool = False
    by_digest: bool = False
    insecure: bool = False
    compression: str = ""
    level: int | None = None
    oci_types: bool = True
    rewrite_times: bool = False
    epoch: str = ""
    as_files: bool = False
    annotations: tuple[str, ...] = ()
    split: bool | None = None
    prefix: str = ""
    is_mirror: bool = False

    @property
    def is_stored(self) -> bool:
        """The image store has the result under its names; what only goes to a registry by digest has none there."""
        return self.type in STORED


def read_outputs(entries: Sequence[tuple[str, Mapping[str, str]]]) -> list[Output]:
    """(type, attributes) of each.  Errors: InvalidParameter."""
    return [_read(number, kind, attributes) for number, (kind, attributes) in enumerate(entries) if kind]


def _read(number: int, kind: str, attributes: Mapping[str, str]) -> Output:
    if kind in STORED or kind in ARCHIVES:
        return _packed(number, kind, attributes)
    if kind not in FILES:
        raise InvalidParameter(f"exporter {kind!r} could not be found: moby, image, docker, oci, tar, local")
    for name in attributes:
        if name not in _OF_FILES:
            raise InvalidParameter(f"exporter {kind}: the option {name} is not supported")
    mode = attributes.get("mode", "")
    if mode not in ("", "copy", "delete"):
        raise InvalidParameter(f"exporter {kind}: invalid mode {mode}")
    split = attributes.get("platform-split")
    return Output(
        type=kind,
        number=number,
        split=None if split is None else _flag(split, "platform-split"),
        prefix=attributes.get("attestation-prefix", ""),
        epoch=attributes.get("source-date-epoch", ""),
        is_mirror=mode == "delete",
    )


def _packed(number: int, kind: str, attributes: Mapping[str, str]) -> Output:
    annotations = []
    for name, value in attributes.items():
        match = _ANNOTATION.fullmatch(name)
        if match is not None:
            annotations.append(f"{match[1] or 'manifest'}{match[2] or ''}:{match[3]}={value}")
        elif name not in _PACKED:
            raise InvalidParameter(f"exporter {kind}: the option {name} is not supported")
    compression = attributes.get("compression", "")
    if compression == "estargz":
        raise InvalidParameter(f"exporter {kind}: compression estargz is not supported: gzip, zstd, uncompressed are")
    forced = _flag(attributes.get("force-compression", ""), "force-compression")
    names = tuple(item for item in attributes.get("name", "").split(",") if item)
    push = _flag(attributes.get("push", ""), "push")
    if push and not names:
        raise InvalidParameter("tag is needed when pushing to registry")
    return Output(
        type=kind,
        number=number,
        names=names,
        push=push,
        by_digest=_flag(attributes.get("push-by-digest", ""), "push-by-digest"),
        insecure=_flag(attributes.get("registry.insecure", ""), "registry.insecure"),
        compression=compression or ("gzip" if forced else ""),
        level=compression_level(attributes),
        oci_types=_flag(attributes.get("oci-mediatypes", "true"), "oci-mediatypes"),
        rewrite_times=_flag(attributes.get("rewrite-timestamp", ""), "rewrite-timestamp"),
        epoch=attributes.get("source-date-epoch", ""),
        as_files=kind in ARCHIVES and not _flag(attributes.get("tar", "true"), "tar"),
        annotations=tuple(annotations),
    )


def compression_level(attributes: Mapping[str, str]) -> int | None:
    """Errors: InvalidParameter."""
    text = attributes.get("compression-level", "")
    return number(text, "compression-level") if text else None


def _flag(text: str, name: str) -> bool:
    lower = text.lower()
    if lower in _TRUE:
        return True
    if lower in _FALSE:
        return False
    raise InvalidParameter(f"non-bool value {text!r} for {name}")


def check_outputs(outputs: Sequence[Output], platforms: int, attestations: Attestations) -> None:
    """What this engine cannot deliver in the end, told before anything is built.  Errors: InvalidParameter."""
    for output in outputs:
        if output.as_files:
            raise InvalidParameter(f"exporter {output.type}: tar=false is not supported, an archive is written")
        if output.is_stored and not output.push and platforms > 1:
            raise InvalidParameter(
                "the image store keeps one platform under a name: for several use --push or --output type=oci"
            )
        if output.type == "docker" and platforms > 1:
            raise InvalidParameter("docker exporter does not currently support exporting manifest lists")
    wanted = (attestations.provenance and not attestations.inline_only) or attestations.sbom
    noted = wanted or any(output.annotations for output in outputs)
    if noted and outputs and all(output.is_stored and not output.push for output in outputs):
        raise InvalidParameter(
            "annotations and attestations stand in manifests, which the image store does not keep: "
            "use --push or --output type=oci"
        )
