"""The contexts of a build: what came in the body, what is on this machine, what has to be fetched.  In a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corten.build.context import Context
from corten.build.contexts import BuildContext, NamedContexts
from corten.build.local_context import FileDigests, LocalContext, open_directory
from corten.build.remote import ARCHIVE_START, is_archive, remote_context
from corten.build.tree import Tree
from corten.build.workshop import Cancellation
from corten.dockerapi.build import BuildQuery
from corten.dockerapi.build_frames import LENGTH_BYTES, MAX_DOCUMENT_BYTES
from corten.dockerapi.build_request import BuildRequest, ContextSource, decode_request
from corten.errors import Conflict, InvalidParameter
from corten.image.pipes import chunks_of, iterated, peek

_MAX_FRAME = 1 << 30


@dataclass(slots=True)
class Gathered:
    """main: the build's own context; dockerfile: its text, when it did not come with a context"""

    main: BuildContext
    named: NamedContexts
    request: BuildRequest
    dockerfile: bytes | None


class Contexts:
    """Fills contexts for one build; ``close`` gives them back.

    digests: of files on this machine, over all builds
    secrets: of the client, for repositories that want them
    """

    def __init__(self, query: BuildQuery, scratch: Path, digests: FileDigests, cancellation: Cancellation) -> None:
        self._query = query
        self._scratch = scratch
        self._digests = digests
        self._cancellation = cancellation
        self._held = contextlib.ExitStack()
        self.secrets: Mapping[str, bytes] = {}

    def close(self) -> None:
        self._held.close()

    @property
    def scratch(self) -> Path:
        """A directory for files of contexts."""
        return self._scratch

    def hold(self, context: BuildContext) -> None:
        """Close it with the others."""
        self._held.callback(context.close)

    def fetched(self, address: str, *, keep_git: bool = False) -> Context:
        """From a URL or a repository.  Errors: those of ``remote_context``."""
        context = self._new()
        self._fetch(context, address, keep_git=keep_git)
        return context

    def unpacked(self, stream: BinaryIO) -> Context:
        """From an archive; something else is a Dockerfile.  Errors: InvalidParameter, DataLoss."""
        context = self._new()
        start, source = peek(chunks_of(stream), ARCHIVE_START)
        if is_archive(start):
            context.read_tar(source)
        else:
            context.add_stream(self._query.dockerfile, iter(source, b""), mode=0o644)
        return context

    def from_docker(self, stream: BinaryIO) -> Gathered:
        """The body is a tar, or there is an address.

        Errors: InvalidParameter, DataLoss (bad archive), those of ``remote_context``.
        """
        context = self._new()
        if self._query.remote:
            self._fetch(context, self._query.remote)
        else:
            context.read_tar(chunks_of(stream))
        context.ignore(self._query.dockerfile)
        return Gathered(context, NamedContexts(), BuildRequest(), None)

    def from_corten(self, stream: BinaryIO) -> Gathered:
        """The body of ``corten.dockerapi.build_request``.

        Errors: as above; Conflict for a directory that this process does not see as the client does.
        """
        frames = _Frames(stream)
        request = decode_request(frames.document())
        self.secrets = request.secrets
        trees: dict[str, Tree] = {}
        images: dict[str, str] = {}
        main: BuildContext = self._new()
        for name, source in request.contexts.items():
            if source.image:
                images[name] = source.image
                continue
            context = self._context(source, frames, self._query.dockerfile if not name else "Dockerfile")
            if name:
                trees[name] = context
            else:
                main = context
        dockerfile = None if request.dockerfile is None else request.dockerfile.encode("utf-8", "surrogateescape")
        if dockerfile is not None and not dockerfile.strip():
            raise InvalidParameter(f"the Dockerfile ({self._query.dockerfile}) cannot be empty")
        return Gathered(main, NamedContexts(trees, images), request, dockerfile)

    def _new(self) -> Context:
        context = Context(self._scratch)
        self._held.callback(context.close)
        return context

    def _context(self, source: ContextSource, frames: _Frames, dockerfile: str) -> BuildContext:
        if source.directory is not None:
            descriptor = open_directory(source.directory.path, source.directory.device, source.directory.inode)
            if descriptor is None:
                raise Conflict(f"the daemon does not see the directory {source.directory.path} as its client does")
            local = LocalContext(descriptor, self._digests)
            self._held.callback(local.close)
            patterns = None if source.ignore is None else source.ignore.encode("utf-8", "surrogateescape")
            local.ignore(dockerfile, patterns)
            return local
        context = self._new()
        if source.url:
            self._fetch(context, source.url)
        elif source.sent:
            context.read_tar(iterated(frames.content()))
        context.ignore(dockerfile)
        return context

    def _fetch(self, context: Context, address: str, *, keep_git: bool = False) -> None:
        remote_context(
            context,
            address,
            self._scratch,
            self._cancellation,
            host_network=self._query.network == "host",
            dockerfile=self._query.dockerfile,
            keep_git=keep_git,
            secrets=self.secrets,
        )


class _Frames:
    """Errors of all: InvalidParameter for a body that ends early or is none of ours."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._stream.read(min(size, 1 << 20))
            if not part:
                raise InvalidParameter("unexpected EOF: the build's body is incomplete")
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _length(self, limit: int) -> int:
        length = int.from_bytes(self._exactly(LENGTH_BYTES), "big")
        if length > limit:
            raise InvalidParameter(f"a frame of {length} bytes in the build's body, the limit is {limit}")
        return length

    def document(self) -> bytes:
        return self._exactly(self._length(MAX_DOCUMENT_BYTES))

    def content(self) -> Iterator[bytes]:
        """Frames up to the empty one."""
        while length := self._length(_MAX_FRAME):
            while length:
                part = self._stream.read(min(length, 1 << 20))
                if not part:
                    raise InvalidParameter("unexpected EOF: the build's body is incomplete")
                length -= len(part)
                yield part
