"""The registry whose content a cache keeps: questions to it, in threads, by Corten's own client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.oci.digest import Digest, is_digest
from corten.registry.auth import Credentials
from corten.registry.failures import Cancelled, Refused, RegistryFailure
from corten.registry.hosts import Endpoint, Hosts
from corten.registry.remote import ACCEPTED, Content, Remote
from corten.registry.server.failures import Refusal
from corten.registry.server.settings import ProxySettings
from corten.registry.settings import Settings
from corten.registry.transport import Transport
from corten.registry.trust import netloc_of

T = TypeVar("T")

_ASKING = 16  # questions at a time, of one worker
_REMOTES = 256  # repositories whose tokens are kept


class Silent(Exception):
    """The other registry does not answer, or not as one."""


class Upstream:
    """Thread-safe.  Errors of all questions: Silent, Refusal (the other registry says no)."""

    def __init__(self, proxy: ProxySettings) -> None:
        """Errors: InvalidParameter for a URL that is none."""
        url = proxy.url.rstrip("/").removesuffix("/v2")
        self.netloc = netloc_of(url)
        if url.partition("://")[2].lower() != self.netloc and "/" in url.partition("://")[2]:
            raise InvalidParameter(f"invalid URL {proxy.url!r}: a registry has no path but /v2")
        insecure = (self.netloc,) if proxy.insecure or url.startswith("http://") else ()
        settings = Settings(insecure=insecure, attempts=2, backoff_s=0.5)
        self._endpoint = Endpoint(base=f"{url}/v2", domain=self.netloc)
        self._credentials = Credentials(proxy.username, proxy.password)
        self._transport = Transport(settings, Hosts(settings))
        self._remotes: dict[str, Remote] = {}
        self._pool = ThreadPoolExecutor(_ASKING, thread_name_prefix="upstream")

    def remote(self, name: str) -> Remote:
        found = self._remotes.get(name)
        if found is None:
            while len(self._remotes) >= _REMOTES:
                del self._remotes[next(iter(self._remotes))]
            found = self._remotes[name] = Remote(self._transport, self._endpoint, name, self._credentials)
        return found

    async def _ask(self, name: str, work: Callable[[Remote], T], unknown: str) -> T:
        """unknown: the code for what the other registry does not have"""
        remote = self.remote(name)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, remote)
        except Refused as error:
            if error.is_missing:
                raise Refusal(unknown) from None
            raise Refusal("DENIED", f"{self.netloc} refuses this: {error}") from None
        except (RegistryFailure, Cancelled) as error:
            raise Silent(str(error)) from None

    async def digest(self, name: str, tag: str) -> Digest | None:
        """What a tag means there; None when only its manifest would tell."""
        return await self._ask(name, lambda remote: _digest_of(remote, tag), "MANIFEST_UNKNOWN")

    async def manifest(self, name: str, reference: str) -> Content:
        """Checked against its digest.  Errors: DataLoss too."""
        return await self._ask(name, lambda remote: remote.manifest(reference), "MANIFEST_UNKNOWN")

    async def blob_size(self, name: str, digest: Digest) -> int:
        """Bytes of a blob.  Errors: Silent too when it does not say."""
        return await self._ask(name, lambda remote: _size_of(remote, digest), "BLOB_UNKNOWN")

    async def tags(self, name: str) -> list[str]:
        return sorted(await self._ask(name, lambda remote: remote.tags(), "NAME_UNKNOWN"))

    async def referrers(self, name: str, subject: Digest) -> list[dict[str, Any]]:
        return await self._ask(name, lambda remote: _referrers(remote, subject), "MANIFEST_UNKNOWN")

    def close(self) -> None:
        """End everything that is under way."""
        self._transport.abort()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._transport.close()


def _digest_of(remote: Remote, tag: str) -> Digest | None:
    def ask() -> Digest | None:
        with remote.ask(
            "HEAD", f"{remote.endpoint.base}/{remote.path}/manifests/{tag}", {"Accept": ACCEPTED}
        ) as answer:
            if answer.status != 200:
                raise remote.failure(answer)
            text = answer.header("docker-content-digest")
        return Digest(text) if is_digest(text) else None

    return remote.patiently(ask)


def _size_of(remote: Remote, digest: Digest) -> int:
    size = remote.patiently(lambda: remote.blob_size(digest))
    if size is None:
        raise Refused("blob unknown", status=404)
    if size < 0:
        with remote.open_blob(digest, 0) as answer:
            size = answer.length
    if size < 0:
        raise RegistryFailure(f"{remote.endpoint.netloc} does not say how large {digest} is")
    return size


def _referrers(remote: Remote, subject: Digest) -> list[dict[str, Any]]:
    url = f"{remote.endpoint.base}/{remote.path}/referrers/{subject}"
    with remote.ask("GET", url, {"Accept": "application/json"}) as answer:
        if answer.status != 200:
            raise remote.failure(answer)
        body = answer.small(documents.MAX_MANIFEST_BYTES)
    found = []
    with contextlib.suppress(InvalidParameter):
        for item in documents.field(documents.load_object(body, "index"), "manifests", list, "index", []):
            if isinstance(item, dict) and isinstance(item.get("digest"), str):
                found.append(item)
    return found
