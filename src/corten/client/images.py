"""Images of a daemon: in, out, names, history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corten.client.api import TAR, Api, path_of
from corten.client.references import split_reference
from corten.client.transfers import open_pull, open_push
from corten.dockerapi.registry_auth import RegistryAuth
from corten.errors import SystemFailure

Document = dict[str, Any]
# the class below has a method that is called list
Documents = list[Document]
Names = list[str]


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    id:    digest of its configuration, "sha256:…"
    tags:  its names, "debian:latest"
    size:  bytes of all layers
    attrs: the whole document that the daemon gave
    """

    id: str
    tags: tuple[str, ...]
    size: int
    attrs: Document = field(repr=False, compare=False)


def _image(document: Document) -> Image:
    return Image(document["Id"], tuple(document.get("RepoTags") or ()), int(document["Size"]), document)


class Images:
    """All images of a daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, all: bool = False, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        """Newest first; ``all``: intermediate ones too."""
        query = {"all": all, "filters": {key: [*values] for key, values in (filters or {}).items()}}
        return [_image(each) for each in self._api.get("/images/json", query)]

    def get(self, reference: str) -> Image:
        """Errors: NotFound."""
        return _image(self._api.get(path_of("/images/", reference, "/json")))

    def history(self, reference: str) -> Documents:
        """Its steps, newest first.  Errors: NotFound."""
        steps: Documents = self._api.get(path_of("/images/", reference, "/history"))
        return steps

    def tag(self, reference: str, name: str) -> None:
        """Give an image a further name.  Errors: NotFound, InvalidParameter."""
        repository, tag = split_reference(name)
        self._api.post(path_of("/images/", reference, "/tag"), {"repo": repository, "tag": tag or None})

    def remove(self, reference: str, *, force: bool = False) -> Documents:
        """Remove a name, and the image with its last one: ``[{"Untagged": …}, {"Deleted": …}]``.

        Errors: NotFound; Conflict when a container uses it.
        """
        return [*(self._api.delete(path_of("/images/", reference), {"force": force}) or ())]

    def load(self, archive: bytes | Iterable[bytes]) -> Names:
        """Take in an archive of ``docker save`` or an OCI layout; gives the names (or ids) of what was in it.

        Errors: InvalidParameter or DataLoss for a bad archive; SystemFailure with the daemon's words.
        """
        with self._api.stream("POST", "/images/load", {"quiet": True}, body=archive, headers=TAR) as response:
            lines = "".join(document.get("stream", "") for document in _progress(response.lines())).splitlines()
        marks = ("Loaded image: ", "Loaded image ID: ")
        return [line.removeprefix(mark) for line in lines for mark in marks if line.startswith(mark)]

    def pull(self, reference: str, *, platform: str = "", auth: RegistryAuth | None = None) -> Image:
        """Get an image from its registry; without a tag it is ``latest``.

        platform: "linux/arm64"; auth: None takes what Docker's ``config.json`` has for the registry
        Errors: NotFound, Unauthorized; SystemFailure with the daemon's words when it fails on the way.
        """
        with open_pull(self._api, reference, platform=platform, auth=auth) as response:
            for _ in _progress(response.lines()):
                pass
        return self.get(reference)

    def push(self, reference: str, *, auth: RegistryAuth | None = None) -> str:
        """Send an image to its registry; the digest of its manifest there.

        Errors: NotFound, Unauthorized; SystemFailure with the daemon's words.
        """
        digest = ""
        with open_push(self._api, reference, auth=auth) as response:
            for document in _progress(response.lines()):
                digest = (document.get("aux") or {}).get("Digest") or digest
        return digest

    def search(self, term: str, *, limit: int = 0) -> Documents:
        """Repositories on Docker Hub (or "host/term") that a word fits."""
        return [*self._api.get("/images/search", {"term": term, "limit": limit or None})]

    def save(self, references: Sequence[str], *, format: str = "docker") -> Iterator[bytes]:
        """The images as one archive: "docker" (an OCI layout too) or "oci".

        Errors: NotFound.
        """
        query = {"names": [*references], "format": format if format != "docker" else None}
        with self._api.stream("GET", "/images/get", query) as response:
            yield from response

    def import_archive(
        self, archive: bytes | Iterable[bytes], name: str = "", *, changes: Sequence[str] = (), message: str = ""
    ) -> str:
        """Make an image of one layer out of a tar archive; gives its id.

        changes: Dockerfile instructions for its configuration
        """
        repository, tag = split_reference(name)
        query = {
            "fromSrc": "-",
            "repo": repository or None,
            "tag": tag or None,
            "changes": [*changes],
            "message": message or None,
        }
        with self._api.stream("POST", "/images/create", query, body=archive, headers=TAR) as response:
            states = [document["status"] for document in _progress(response.lines()) if "status" in document]
        return str(states[-1])

    def prune(self, *, all: bool = False) -> tuple[Names, int]:
        """Remove dangling images, or all that no container uses: (deleted ids, bytes that are free now)."""
        answer = self._api.post("/images/prune", {"filters": {"dangling": ["false" if all else "true"]}})
        deleted = [each["Deleted"] for each in answer.get("ImagesDeleted") or () if each.get("Deleted")]
        return deleted, int(answer.get("SpaceReclaimed") or 0)


def _progress(lines: Iterable[bytes]) -> Iterator[Document]:
    for line in lines:
        if line.strip():
            document = json.loads(line)
            if "error" in document:
                raise SystemFailure(document["error"])
            yield document
