"""Content in a bucket of an object store: Amazon's S3, or what speaks its language.

Nothing but whole, checked content gets there: uploads are spooled on this machine.  An object cannot be made younger,
so what is touched gets a mark beside it: an empty object below ``corten/touched``, whose age counts for the garbage
collection.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from corten.errors import InvalidParameter
from corten.registry.server.settings import StoreSettings
from corten.registry.server.storage import Missing, Stamp, Stat, StorageFailure

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CHUNK = 1 << 20
_MARKS = "corten/touched"
_MARK_AGAIN_S = 30.0
_REMEMBERED = 10_000
_RETRY_S = 20.0


def open_store(settings: StoreSettings) -> ObjectStore:
    """Errors: InvalidParameter, also when the library is missing.  It has threads: not to be called before a fork."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError:
        raise InvalidParameter("object stores need the package obstore: pip install 'corten[registry]'") from None
    options: dict[str, Any] = {"retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_S)}}
    if settings.prefix:
        options["prefix"] = settings.prefix
    if settings.endpoint:
        options["endpoint"] = settings.endpoint
        options["client_options"] = {"allow_http": settings.endpoint.startswith("http://")}
    if settings.region:
        options["region"] = settings.region
    try:
        return S3Store(settings.bucket, **options)
    except (BaseError, ValueError) as error:
        raise InvalidParameter(f"{settings}: {_one_line(error)}") from None


class ObjectStorage:
    """A ``Storage`` over an object store."""

    def __init__(self, store: ObjectStore) -> None:
        import obstore

        self._obstore = obstore
        self._store = store
        self._marked: dict[str, float] = {}

    def stamp(self, key: str) -> Stamp | None:
        """None: there is no question without waiting."""
        return None

    async def stat(self, key: str) -> Stat:
        with _failures():
            found = await self._obstore.head_async(self._store, key)
        return Stat(found["size"], found["last_modified"].timestamp())

    async def read(self, key: str) -> bytes:
        with _failures():
            answer = await self._obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())

    async def open(self, key: str) -> BinaryIO | None:
        """None: there are only chunks."""
        return None

    async def chunks(self, key: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        if not length:
            return
        with _failures():
            answer = await self._obstore.get_async(self._store, key, options={"range": (start, start + length)})
            async for chunk in answer.stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    async def names(self, prefix: str, after: str = "", limit: int = 0) -> list[str]:
        with _failures():
            found = await self._obstore.list_with_delimiter_async(self._store, f"{prefix}/")
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        names = sorted(name for path in paths if (name := path.rstrip("/").rpartition("/")[2]) > after)
        return names[:limit] if limit else names

    async def write(self, key: str, content: bytes) -> None:
        with _failures():
            await self._obstore.put_async(self._store, key, content)

    async def adopt(self, path: Path, key: str) -> None:
        with _failures():
            await self._obstore.put_async(self._store, key, path)
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # a local file

    async def touch(self, key: str) -> None:
        found = await self.stat(key)
        now = time.time()
        if max(found.modified_s, self._marked.get(key, 0.0)) > now - _MARK_AGAIN_S:
            return
        await self.write(f"{_MARKS}/{key}", b"")
        while len(self._marked) >= _REMEMBERED:
            del self._marked[next(iter(self._marked))]
        self._marked[key] = now

    async def touched(self, key: str) -> float:
        written = (await self.stat(key)).modified_s
        try:
            return max(written, (await self.stat(f"{_MARKS}/{key}")).modified_s)
        except Missing:
            return written

    async def delete(self, key: str) -> None:
        self._marked.pop(key, None)
        for path in (key, f"{_MARKS}/{key}"):
            with contextlib.suppress(Missing), _failures():
                await self._obstore.delete_async(self._store, path)

    async def tidy(self) -> None:
        """Nothing is left: an object is there when it is complete."""

    async def close(self) -> None:
        """Connections end with the process."""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise Missing from None
    except BaseError as error:
        raise StorageFailure(f"the object store: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
