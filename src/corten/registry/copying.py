"""Images from one repository to another without a store between: manifests as they are, blobs that are missing.

What the target has is not sent, what another repository of the same registry has is mounted, the rest streams through.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from corten.errors import CortenError, DataLoss, InvalidParameter
from corten.oci import descriptor as media
from corten.oci.descriptor import Descriptor
from corten.oci.digest import Digest
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.platform import Platform
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.downloads import Download
from corten.registry.failures import Refused
from corten.registry.progress import LayerProgress, Report, short
from corten.registry.pulling import choose
from corten.registry.pushing import reached
from corten.registry.registry import Registry
from corten.registry.remote import Content, Remote
from corten.registry.sources import Sources
from corten.registry.transport import Transport
from corten.registry.uploads import Upload
from corten.registry.words import pull_error, push_error

_KNOWN = media.MANIFESTS | media.INDEXES
_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Copied:
    digest: Digest
    size: int


class Copy:
    """From one repository to another.  ``transport.abort`` from another thread ends it.

    keys: the credentials for the source and for the target
    """

    def __init__(
        self,
        registry: Registry,
        transport: Transport,
        source: Reference,
        target: Reference,
        keys: tuple[Credentials, Credentials],
        report: Report,
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._source = source
        self._target = target
        self._keys = keys
        self._report = report
        self._sources = Sources(transport, source, keys[0])
        self._remote: Remote | None = None

    def run(self, platform: Platform | None = None) -> Copied:
        """Copy what the source names under the target's tag.

        platform: of an index only this image; None copies all of it
        Errors: NotFound, Unauthorized, Forbidden, Unavailable, DataLoss, InvalidParameter.
        """
        content = self.content(self._source.digest or self._source.tag)
        document = read(content)
        for _ in range(_MAX_DEPTH):
            if platform is None or isinstance(document, Manifest):
                break
            chosen = choose(document, platform)
            content = self.content(chosen.digest)
            document = read(content)
        return self.put(content, self._target.tag)

    def run_digest(self, digest: str) -> Copied:
        """Copy one manifest of the source, under its digest."""
        return self.put(self.content(digest))

    def content(self, reference: str) -> Content:
        """A manifest or index of the source.  Errors: NotFound, Unavailable, DataLoss."""
        try:
            return self._sources.ask(lambda remote: remote.manifest(reference), capability="resolve")
        except CortenError as error:
            raise pull_error(error, self._source) from error

    def put(self, content: Content, tag: str = "", depth: int = 0) -> Copied:
        """Everything that a manifest or index needs, then itself; under its digest without a tag."""
        document = read(content)
        if isinstance(document, Index):
            if depth >= _MAX_DEPTH:
                raise InvalidParameter("invalid index: nested too deeply")
            for item in document.manifests:
                if item.media_type in _KNOWN:
                    self.put(self.content(item.digest), depth=depth + 1)
                else:
                    self._blob(item)
        else:
            self._blobs([document.config, *document.layers])
        self.put_only(content, tag)
        return Copied(content.digest, len(content.body))

    def put_only(self, content: Content, tag: str = "") -> None:
        """A manifest or index whose parts are there; under its digest without a tag."""
        remote = self._target_remote()
        try:
            remote.put_manifest(tag or content.digest, content.body, read(content).media_type)
        except CortenError as error:
            raise push_error(error, self._target) from error

    def _blobs(self, blobs: list[Descriptor]) -> None:
        unique = list({blob.digest: blob for blob in blobs}.values())
        self._target_remote()
        with ThreadPoolExecutor(self._registry.settings.uploads, thread_name_prefix="copy") as pool:
            futures = [pool.submit(self._blob, blob) for blob in unique]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._transport.abort()
                for future in futures:
                    future.cancel()
                raise

    def _target_remote(self) -> Remote:
        if self._remote is None:
            mounts = [self._source.path] if self._may_mount else []
            try:
                self._remote = reached(self._transport, self._target, self._keys[1], mounts)
            except CortenError as error:
                raise push_error(error, self._target) from error
        return self._remote

    @property
    def _may_mount(self) -> bool:
        return self._source.domain == self._target.domain and self._source.path != self._target.path

    def _blob(self, blob: Descriptor) -> None:
        remote = self._target_remote()
        line = LayerProgress(self._report, short(blob.digest), blob.size)
        try:
            size = remote.patiently(lambda: remote.blob_size(blob.digest))
            if size is not None:
                line.state("Already exists")
            elif self._may_mount and self._mounted(remote, blob):
                line.state(f"Mounted from {self._source.path}")
            else:
                self._stream(remote, blob, line)
                line.state("Copied")
        except CortenError as error:
            raise push_error(error, self._target) from error

    def _mounted(self, remote: Remote, blob: Descriptor) -> bool:
        try:
            location = remote.start_upload(mount=blob.digest, source=self._source.path)
        except Refused:
            return False
        if location:
            remote.cancel_upload(location)
        return not location

    def _stream(self, remote: Remote, blob: Descriptor, line: LayerProgress) -> None:
        def work(source: Remote) -> None:
            def pieces() -> Iterator[bytes]:
                download = Download(source, blob, lambda count: line.moved("Copying", count))
                try:
                    while chunk := download():
                        yield chunk
                finally:
                    download.close()

            sent = Upload(remote, pieces, expected=blob.digest).run()
            if sent.size != blob.size:
                raise DataLoss(f"invalid content {blob.digest}: {sent.size} bytes instead of {blob.size}")

        self._sources.ask(work)


def read(content: Content) -> Manifest | Index:
    """Errors: InvalidParameter."""
    return parse_document(content.body, content.media_type if content.media_type in _KNOWN else "")
