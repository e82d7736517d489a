"""``--cache-from`` and ``--cache-to``, and images out of OCI layouts.

A cache is made of images: the history of each tells which step made which layer, so an image that was pushed
or written to a directory is a cache for those who trust it.  Source: docs.docker.com, "Cache storage backends".
"""

from __future__ import annotations

import json
import os

from corten.cli.context_tar import pack_files
from corten.cli.flags import UsageError
from corten.client.api import path_of
from corten.errors import CortenError, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from corten.cli.context import Context

_KINDS = ("registry", "inline", "local")
_CACHE_NOTE = "corten.build.cache"  # on an index: its images are what steps may be taken from


class CacheOption:
    """One of either.

    kind: one of ``_KINDS``, or "image" for a bare reference: what is in the store counts before what a registry has
    place: a reference or a directory
    """

    __slots__ = ("kind", "mode", "place", "tag")

    def __init__(self, kind: str, place: str, mode: str = "min", tag: str = "") -> None:
        self.kind = kind
        self.place = place
        self.mode = mode
        self.tag = tag


def read_options(texts: list[str], *, is_target: bool) -> list[CacheOption]:
    """``REF`` or ``type=registry|inline|local,…``.  Errors: UsageError."""
    return [_read(text, is_target=is_target) for text in texts]


def _read(text: str, *, is_target: bool) -> CacheOption:
    if "=" not in text:
        if text == "inline":
            return CacheOption("inline", "")
        return CacheOption("registry" if is_target else "image", text)
    given = {name.strip().lower(): value for name, _, value in (item.partition("=") for item in text.split(","))}
    kind = given.pop("type", "")
    if kind not in _KINDS:
        raise UsageError(f"unknown cache {'exporter' if is_target else 'importer'}: {kind!r}: {', '.join(_KINDS)}")
    directory = given.pop("dest" if is_target else "src", "")
    place = directory if kind == "local" else given.pop("ref", "")
    mode, tag = given.pop("mode", "min"), given.pop("tag", "latest")
    if given or mode not in ("min", "max"):
        raise UsageError(f"invalid cache option {text!r}: {next(iter(given), f'mode={mode}')} is not supported")
    if not place and not (is_target and kind == "inline"):
        raise UsageError(f"cache of type {kind} needs {'dest' if is_target else 'src'}" if kind == "local" else
                         f"cache of type {kind} needs ref")  # fmt: skip
    return CacheOption(kind, place, mode, tag)


def references(context: Context, options: list[CacheOption]) -> list[str]:
    """What the daemon takes as ``cachefrom``: names, and ids of what a directory had.

    What is not there yet is passed over: a first build finds no cache.
    """
    found = []
    for option in options:
        if option.kind == "local":
            if os.path.exists(os.path.join(option.place, "index.json")):
                found += load_layout(context, option.place, f":{option.tag}")
        elif option.kind == "image" and _is_here(context, option.place):
            found.append(option.place)
        else:
            found += _pulled(context, option.place)
    return found


def _is_here(context: Context, reference: str) -> bool:
    try:
        context.api.get(path_of("/images/", reference, "/json"))
    except NotFound:
        return False
    return True


def _pulled(context: Context, reference: str) -> list[str]:
    """The images that a reference names at its registry, here now; the reference itself when they are here already."""
    from corten.cli.progress import show_progress
    from corten.client.transfers import open_pull

    found = []
    for name in _members(reference):
        try:
            with open_pull(context.api, name) as response:
                show_progress(response, None)
        except CortenError as error:
            context.warning(f"cache from {reference}: {error}")
        found.append(name)
    return found


def _members(reference: str) -> list[str]:
    """Of an index that is a cache each image by its digest, else the reference."""
    from corten.cli.registries import connected, credentials_for
    from corten.client.references import split_reference
    from corten.registry.manifests import Lookup

    try:
        with connected() as (registry, transport):
            document = Lookup(registry, transport, reference, credentials_for(reference)).document()
    except CortenError:
        return [reference]  # the daemon says what is wrong, or has it
    notes = document.get("annotations") or {}
    if _CACHE_NOTE not in notes:
        return [reference]
    repository = split_reference(reference)[0]
    return [f"{repository}@{item['digest']}" for item in document.get("manifests") or ()]


def load_layout(context: Context, place: str, tag: str = "") -> list[str]:
    """The images of an OCI layout in the daemon's store, without names; their ids.

    place: a directory; tag: ":tag" or "@digest", "" for all
    Errors: NotFound, InvalidParameter.
    """
    try:
        with open(os.path.join(place, "index.json"), "rb") as file:
            index = json.load(file)
        manifests = [item for item in index["manifests"] if _is_meant(item, tag)]
    except OSError as error:
        raise NotFound(f"{place} is no OCI layout: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidParameter(f"{place} is no OCI layout: its index.json cannot be read") from None
    if not manifests:
        raise NotFound(f"the OCI layout {place} has no {tag[1:] or 'image'}")
    for item in manifests:
        item.pop("annotations", None)  # names: the store's own stay as they are
    body = pack_files(place, {"index.json": json.dumps({**index, "manifests": manifests}).encode()})
    with context.api.stream("POST", "/images/load", {"quiet": True}, body=body) as response:
        return list(_loaded(response.lines()))


def _is_meant(item: dict[str, Any], tag: str) -> bool:
    if tag.startswith("@"):
        return bool(item["digest"] == tag[1:])
    notes = item.get("annotations") or {}
    return not tag or notes.get("org.opencontainers.image.ref.name") in (tag[1:], None)


def _loaded(lines: Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        document = json.loads(line) if line.strip() else {}
        if "error" in document:
            raise InvalidParameter(document["error"])
        text = document.get("stream", "")
        if text.startswith("Loaded image ID: "):
            yield text.removeprefix("Loaded image ID: ").strip()


def layout_image(context: Context, text: str) -> str:
    """The image of ``oci-layout://DIRECTORY[:TAG|@DIGEST]``.  Errors: NotFound, InvalidParameter."""
    place, tag = text, ""
    for mark in ("@", ":"):
        above, found, name = text.rpartition(mark)
        if found and "/" not in name and not os.path.isdir(text):
            if mark == ":" and "@" in text:
                continue
            place, tag = above, mark + name
            break
    ids = load_layout(context, place, tag)
    if len(ids) != 1:
        raise InvalidParameter(f"oci-layout://{text} has {len(ids)} images: name one with :TAG or @DIGEST")
    return ids[0]


def export(context: Context, options: list[CacheOption], images: list[dict[str, str]]) -> None:
    """``--cache-to``: the results as images; of type inline nothing is left to do, an image has its history.

    images: the result, and for mode=max the ends of all other stages; the result comes first
    """
    from corten.cli import archive
    from corten.client.credentials import CredentialFile
    from corten.client.transfers import auth_headers

    for option in options:
        if option.kind == "inline":
            continue
        chosen = images if option.mode == "max" else images[:1]
        request: dict[str, Any] = {"images": chosen, "format": "oci" if option.kind == "local" else "registry"}
        request["cache"] = True
        if option.kind == "local":
            request["names"] = [f"cache:{option.tag}"]
            request["compression"] = "uncompressed"
            os.makedirs(option.place, exist_ok=True)
            with context.api.stream("POST", "/corten/builds/export", document=request) as response:
                archive.unpack(response, option.place)
            continue
        request["names"] = [option.place]
        if len(chosen) > 1:
            request["annotations"] = [f"index:{_CACHE_NOTE}=1"]
        headers = [*auth_headers(CredentialFile().for_image(option.place)), ("Content-Type", "application/json")]
        body = json.dumps(request).encode()
        with context.api.stream("POST", "/corten/builds/push", body=body, headers=headers) as response:
            for line in response.lines():
                if line.strip() and "error" in (document := json.loads(line)):
                    raise InvalidParameter(f"cache to {option.place}: {document['error']}")
