"""What ``corten build`` asks beside Docker's query parameters: the first frame of its body."""

from __future__ import annotations

import msgspec

from corten.errors import InvalidParameter


class Directory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory of the client's machine: the daemon uses it when it sees the same one under that path."""

    path: str
    device: int
    inode: int


class ContextSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a context comes from, just one of these; nothing at all is an empty one.

    sent: as a tar in the body; ignore: patterns that count in the place of its own ignore file
    """

    directory: Directory | None = None
    sent: bool = False
    url: str = ""
    image: str = ""
    ignore: str | None = None


class BuildRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """contexts: by name, "" is the build's own, in the order of the body; dockerfile: its text, when no context has it

    secrets: contents by id; agents: sockets of ssh agents by id
    allow: entitlements; no_cache_filter: stages that are built anew
    structured: the answer tells of steps instead of lines; squash: one layer above the base
    rewrite_times: no file is newer than SOURCE_DATE_EPOCH
    """

    contexts: dict[str, ContextSource] = {}
    dockerfile: str | None = None
    secrets: dict[str, bytes] = {}
    agents: dict[str, str] = {}
    allow: list[str] = []
    no_cache_filter: list[str] = []
    structured: bool = False
    squash: bool = False
    rewrite_times: bool = False


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image that was built, and the id of its build."""

    image: str
    build: str = ""


class OutputRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A result as something else than an image of this store.

    format: "tar" (the files), "oci", "docker" (archives) or "registry"; names: of the result
    compression: gzip, zstd or uncompressed; "" for the format's usual one; level: of it
    provenance: "", "min" or "max"; by_digest: a registry gets no tag
    cache: the images are no platforms of one result but what later builds may take steps from
    index: also when there is one image; split: files in a directory for each platform; None when there are several
    """

    images: list[Result]
    format: str
    names: list[str] = []
    compression: str = ""
    level: int | None = None
    oci_types: bool = True
    annotations: list[str] = []
    provenance: str = ""
    sbom: bool = False
    by_digest: bool = False
    cache: bool = False
    index: bool = False
    split: bool | None = None


def decode_request(content: bytes) -> BuildRequest:
    """Errors: InvalidParameter."""
    try:
        return msgspec.json.decode(content, type=BuildRequest)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidParameter(f"invalid build request: {error}") from None
