"""One repository at one endpoint: manifests, blobs, uploads, tags.  Source: OCI distribution-spec v1.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode

from corten.errors import DataLoss
from corten.oci import descriptor as media
from corten.oci import documents
from corten.oci.digest import Digest, digest_of, is_digest, split_digest
from corten.registry.auth import Authorizer, Credentials
from corten.registry.failures import Refused, RegistryFailure, Unreachable, refused
from corten.registry.hosts import Endpoint
from corten.registry.transport import Answer, Transport, retry_after
from corten.registry.urls import origin_of, redirected

T = TypeVar("T")

ACCEPTED = ", ".join(
    (media.OCI_INDEX, media.DOCKER_INDEX, media.OCI_MANIFEST, media.DOCKER_MANIFEST, "application/json;q=0.5")
)
_MAX_ERROR = 64 << 10
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Content:
    """A manifest or index as it was served: its exact bytes and what the registry calls it."""

    body: bytes
    media_type: str
    digest: Digest


class Remote:
    """Requests to one repository; thread-safe.

    Its errors: RegistryFailure, Cancelled, DataLoss for content that is not what its digest says.

    offline: for a login, see Authorizer
    actions: what tokens are asked for, "pull" or "pull,push"; sources: repositories that are mounted from
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        path: str,
        credentials: Credentials,
        *,
        actions: str = "pull",
        sources: Iterable[str] = (),
        offline: bool = False,
    ) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.path = path
        self.authorizer = Authorizer(transport, endpoint, credentials, offline=offline)
        # a mirror is given up sooner: others can be asked
        self.attempts = transport.settings.attempts if endpoint.is_origin else min(2, transport.settings.attempts)
        scopes = [f"repository:{path}:{actions}", *(f"repository:{source}:pull" for source in sorted(set(sources)))]
        self._scope = " ".join(scopes)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _url(self, rest: str, **query: str) -> str:
        if self.endpoint.namespace:
            query["ns"] = self.endpoint.namespace
        whole = f"{self.endpoint.base}/{self.path}/{rest}"
        return f"{whole}?{urlencode(query)}" if query else whole

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], bytes | Iterable[bytes]] | None = None,
        *,
        scope: str | None = None,
        secret: bool = True,
    ) -> Answer:
        """One request with what authentication it needs; any status but 401, 429 and those of a failing server.

        body: makes the body, for every attempt anew; secret: False where credentials must not go
        """
        wanted = self._scope if scope is None else scope
        own = {**dict(self.endpoint.headers), **(headers or {})} if secret else dict(headers or {})
        for attempt in range(3):
            sent = self.authorizer.header(wanted) if secret else ""
            private = {"Authorization": sent} if sent else {}
            if method == "GET":
                answer = self.transport.get(url, headers or {}, {**own, **private})
            else:
                answer = self.transport.send(method, url, {**own, **private}, body() if body else None)
            if answer.status != 401 or not secret or not self._is_home(answer.url):
                break
            error_body = b"" if method == "HEAD" else answer.small(_MAX_ERROR, cut=True)
            if method == "HEAD":
                answer.close()
            if attempt == 2 or not self.authorizer.challenged(answer, wanted, sent):
                if not sent and "basic" in answer.header("www-authenticate").lower():
                    raise Refused("no basic auth credentials", status=401, code="UNAUTHORIZED")
                raise refused(401, answer.header("content-type"), error_body, answer.what)
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise self.failure(answer)
        return answer

    def failure(self, answer: Answer) -> RegistryFailure:
        """The error that an unwanted answer stands for."""
        body = b"" if answer.what.startswith("Head") else answer.small(_MAX_ERROR, cut=True)
        answer.close()
        found = refused(answer.status, answer.header("content-type"), body, answer.what)
        if answer.status in (408, 425, 429) or answer.status >= 500:
            pause = retry_after(answer.header("retry-after"), self.transport.settings.longest_pause_s)
            return Unreachable(str(found), pause_s=pause)
        return found

    def patiently(self, work: Callable[[], T]) -> T:
        """``work``, again after a pause when what failed may pass.  Errors: the last attempt's."""
        settings = self.transport.settings
        pause = settings.backoff_s
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except Unreachable as error:
                if not error.passing or attempt == self.attempts:
                    raise
                self.transport.wait(max(pause, error.pause_s))
                pause = min(pause * 2, settings.longest_pause_s)
        raise AssertionError("unreachable")

    def ping(self, scope: str | None = None) -> None:
        """The registry is there, speaks the API and takes the credentials.

        Errors: Refused (wrong credentials), Unreachable (anything else: an HTML page, nobody).
        """

        def check() -> None:
            with self.ask("GET", f"{self.endpoint.base}/", scope=scope) as answer:
                if answer.status == 200 and not answer.header("content-type").startswith("text/html"):
                    answer.small(_MAX_ERROR, cut=True)
                    return
                failure = self.failure(answer)
            if isinstance(failure, Refused) and failure.status not in (401, 403):
                raise Unreachable(
                    f"{answer.what}: it is no registry (HTTP status {answer.status}, "
                    f"{answer.header('content-type')[:60] or 'no content type'})",
                    passing=False,
                )
            raise failure

        self.patiently(check)

    # -- manifests ----------------------------------------------------------------------------------------------------

    def manifest(self, reference: str) -> Content:
        """A manifest or index by tag or digest.  Errors: DataLoss when it is not what the digest says."""
        return self.patiently(lambda: self._manifest(reference))

    def _manifest(self, reference: str) -> Content:
        with self.ask("GET", self._url(f"manifests/{quote(reference, safe=':')}"), {"Accept": ACCEPTED}) as answer:
            if answer.status != 200:
                raise self.failure(answer)
            media_type = answer.header("content-type").partition(";")[0].strip().lower()
            if media_type.startswith("text/"):
                raise Unreachable(
                    f"{answer.what}: the server answered with {media_type[:40]}: it is no registry", passing=False
                )
            body = answer.small(documents.MAX_MANIFEST_BYTES)
            stated = answer.header("docker-content-digest")
        wanted = reference if is_digest(reference) else stated if is_digest(stated) else ""
        digest = digest_of(body, split_digest(Digest(wanted))[0] if wanted else "sha256")
        if wanted and digest != wanted:
            raise DataLoss(f"manifest verification failed for digest {wanted}: got {digest}")
        return Content(body, media_type, digest)

    def put_manifest(self, reference: str, body: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or its digest."""

        def put() -> Digest:
            url = self._url(f"manifests/{quote(reference, safe=':')}")
            with self.ask("PUT", url, {"Content-Type": media_type}, lambda: body) as answer:
                if answer.status not in (200, 201, 202):
                    raise self.failure(answer)
                answer.small(_MAX_ERROR, cut=True)
            return digest_of(body)

        return self.patiently(put)

    # -- blobs --------------------------------------------------------------------------------------------------------

    def document(self, digest: Digest, size: int, limit: int) -> bytes:
        """A small blob, checked.  Errors: DataLoss."""
        if size > limit:
            raise DataLoss(f"invalid content {digest}: {size} bytes, the limit is {limit}")

        def get() -> bytes:
            with self.open_blob(digest, 0) as answer:
                body = answer.small(size)
            if len(body) != size:
                raise DataLoss(f"invalid content {digest}: {len(body)} bytes instead of {size}")
            if digest_of(body, split_digest(digest)[0]) != digest:
                raise DataLoss(f"invalid content: expected digest {digest}, got {digest_of(body)}")
            return body

        return self.patiently(get)

    def open_blob(self, digest: Digest, offset: int) -> Answer:
        """A blob's bytes; from ``offset`` on when the answer's status is 206, else from the start."""
        headers = {"Accept": "*/*"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        answer = self.ask("GET", self._url(f"blobs/{digest}"), headers)
        if answer.status == 200 or (answer.status == 206 and offset):
            return answer
        raise self.failure(answer)

    def blob_size(self, digest: Digest) -> int | None:
        """Bytes of a blob that the repository has, by HEAD; None when it has not."""
        url = self._url(f"blobs/{digest}")
        for _ in range(5):
            with self.ask("HEAD", url) as answer:
                if answer.status == 404:
                    return None
                if answer.status == 200:
                    return answer.length
                target = answer.header("location")
                if answer.status not in (301, 302, 303, 307, 308) or not target:
                    raise self.failure(answer)
            # a registry that sends elsewhere has it: the size is not worth asking a stranger for
            return -1
        return None

    # -- uploads ------------------------------------------------------------------------------------------------------

    def start_upload(self, *, mount: Digest | None = None, source: str = "") -> str:
        """The URL of a new upload; "" when the blob was mounted from ``source`` instead."""
        query = {"mount": str(mount), "from": source} if mount else {}

        def start() -> str:
            with self.ask("POST", self._url("blobs/uploads/", **query), {"Content-Length": "0"}) as answer:
                if answer.status == 201 and mount:
                    return ""
                if answer.status != 202:
                    raise self.failure(answer)
                answer.small(_MAX_ERROR, cut=True)
                return self._location(answer)

        return self.patiently(start)

    def _location(self, answer: Answer) -> str:
        target = answer.header("location")
        if not target:
            raise Unreachable(f"{answer.what}: the registry does not say where to upload", passing=False)
        return redirected(answer.url, target)

    def _is_home(self, url: str) -> bool:
        return origin_of(url) == origin_of(self.endpoint.base)

    def send_part(self, url: str, offset: int, body: Callable[[], Iterable[bytes]]) -> str:
        """Append to an upload (PATCH); where it goes on."""
        headers = {"Content-Type": _OCTETS}
        if offset:
            headers["Content-Range"] = f"{offset}-"
        with self.ask("PATCH", url, headers, body, secret=self._is_home(url)) as answer:
            if answer.status not in (202, 204):
                raise self.failure(answer)
            answer.small(_MAX_ERROR, cut=True)
            return self._location(answer)

    def finish_upload(self, url: str, digest: Digest, body: bytes = b"") -> None:
        """Close an upload (PUT), with its last or only bytes."""
        whole = f"{url}{'&' if '?' in url else '?'}{urlencode({'digest': str(digest)})}"
        headers = {"Content-Type": _OCTETS, "Content-Length": str(len(body))}
        with self.ask("PUT", whole, headers, lambda: body, secret=self._is_home(url)) as answer:
            if answer.status not in (201, 204):
                raise self.failure(answer)
            answer.small(_MAX_ERROR, cut=True)

    def upload_offset(self, url: str) -> tuple[str, int] | None:
        """(where it goes on, bytes that arrived) of an upload that was cut; None when the registry forgot it."""
        with self.ask("GET", url, secret=self._is_home(url)) as answer:
            if answer.status not in (202, 204):
                answer.small(_MAX_ERROR, cut=True)
                return None
            answer.small(_MAX_ERROR, cut=True)
            first, dash, last = answer.header("range").removeprefix("bytes=").partition("-")
            if not dash or first != "0" or not last.isascii() or not last.isdigit():
                return None
            # an empty upload is told as 0-0
            return self._location(answer) if answer.header("location") else url, int(last) + 1 if last != "0" else 0

    def cancel_upload(self, url: str) -> None:
        with self.ask("DELETE", url, secret=self._is_home(url)) as answer:
            answer.small(_MAX_ERROR, cut=True)

    # -- tags ---------------------------------------------------------------------------------------------------------

    def tags(self, limit: int = 10_000) -> list[str]:
        """All tags, page by page.  Errors: Unreachable when there are more than ``limit``."""
        url = self._url("tags/list", n="1000")
        found: list[str] = []
        while url:
            page = url

            def get(page: str = page) -> tuple[list[str], str]:
                with self.ask("GET", page, {"Accept": "application/json"}) as answer:
                    if answer.status != 200:
                        raise self.failure(answer)
                    body = answer.small(documents.MAX_MANIFEST_BYTES)
                    document = documents.load_object(body, "list of tags")
                    return documents.strings(document, "tags", "list of tags"), _next_page(answer)

            tags, url = self.patiently(get)
            found += tags
            if len(found) > limit or (url and not tags):
                raise Unreachable(f"{self.path}: more than {limit} tags", passing=False)
            if url and not self._is_home(url):
                raise Unreachable(f"{self.path}: the list of tags goes on at another host: refused", passing=False)
        return found


def _next_page(answer: Answer) -> str:
    """The target of ``Link: <…>; rel="next"``, "" on the last page."""
    target, _, rest = answer.header("link").partition(";")
    if 'rel="next"' not in rest.replace("'", '"') or not target.strip().startswith("<"):
        return ""
    return redirected(answer.url, target.strip().strip("<>"))
