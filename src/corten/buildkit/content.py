"""Blobs of an OCI layout on the client's side, for contexts like ``oci-layout://`` and caches of the type "local".

Source: containerd, ``api/services/content/v1``; moby/buildkit, ``session/content`` (names of metadata).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from corten.buildkit.proto.content_pb2 import (
    COMMIT,
    STAT,
    WRITE,
    InfoRequest,
    InfoResponse,
    ReadContentRequest,
    ReadContentResponse,
    WriteAction,
    WriteContentRequest,
)
from corten.buildkit.wire import parsed
from corten.errors import DataLoss, InvalidParameter
from corten.grpc.status import Code, GrpcError
from corten.oci.digest import Digest, hasher, split_digest

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session

_INFO = "/containerd.services.content.v1.Content/Info"
_READ = "/containerd.services.content.v1.Content/Read"
_WRITE = "/containerd.services.content.v1.Content/Write"
_STORE = "buildkit-attachable-store-id"
_WITHIN_S = 60.0
_PIECE = 1 << 20  # clients take messages of 4 MB


class ContentStore:
    """One layout that the client serves.

    store: its name there, which clients put into the reference of the context
    """

    def __init__(self, session: Session, store: str) -> None:
        """Errors: NotImplementedYet (the client serves no layouts)."""
        session.require(_READ, "serves no OCI layouts")
        self._session = session
        self._metadata = {_STORE: [store]}

    async def size(self, digest: Digest) -> int:
        """Bytes of a blob.  Errors: NotFound, others as ``GrpcError.as_kind``."""
        request = InfoRequest(digest=str(digest)).SerializeToString()
        try:
            answer = await self._session.unary(_INFO, request, self._metadata, timeout_s=_WITHIN_S)
            return parsed(InfoResponse, answer).info.size
        except GrpcError as error:
            raise error.as_kind(f"{digest} of the client's layout") from None

    async def chunks(self, digest: Digest, size: int) -> AsyncIterator[bytes]:
        """The blob's bytes, proven at the end.

        size: as its descriptor says
        Errors: NotFound, DataLoss (not what the digest or size says), others as ``GrpcError.as_kind``.
        """
        running = hasher(digest)
        left = size
        request = ReadContentRequest(digest=str(digest)).SerializeToString()
        try:
            async with await self._session.stream(_READ, self._metadata) as call:
                await call.send(request)
                await call.half_close()
                async for message in call:
                    answer = parsed(ReadContentResponse, message)
                    left -= len(answer.data)
                    if left < 0 or answer.offset != size - left - len(answer.data):
                        raise DataLoss(f"{digest} of the client's layout: more than {size} bytes, or out of order")
                    running.update(answer.data)
                    yield answer.data
        except GrpcError as error:
            raise error.as_kind(f"{digest} of the client's layout") from None
        if left or running.hexdigest() != split_digest(digest)[1]:
            raise DataLoss(f"{digest} of the client's layout: its content is another one")

    async def write(self, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Put a blob there, unless it has it; ``chunks`` are read in either case.

        Errors: as ``GrpcError.as_kind``, those of ``chunks``.
        """
        self._session.require(_WRITE, "takes no blobs")
        ref = f"corten-{digest}-{secrets.token_hex(4)}"  # nothing that was begun earlier is gone on with
        try:
            async with await self._session.stream(_WRITE, self._metadata) as call:
                offset = 0
                await call.send(_write(STAT, ref=ref, total=size, expected=str(digest)))
                await call.receive()
                async for chunk in chunks:
                    for start in range(0, len(chunk), _PIECE):
                        piece = chunk[start : start + _PIECE]
                        await call.send(_write(WRITE, ref=ref, offset=offset, data=piece))
                        await call.receive()
                        offset += len(piece)
                await call.send(_write(COMMIT, ref=ref, total=size, expected=str(digest), offset=offset))
                await call.receive()
        except GrpcError as error:
            if error.code != Code.ALREADY_EXISTS:
                raise error.as_kind(f"{digest} for the client's layout") from None
            async for _ in chunks:
                pass

    async def read(self, digest: Digest, size: int, limit: int = 4 << 20) -> bytes:
        """A small blob.  Errors: as ``chunks``; InvalidParameter for a large one."""
        if size > limit:
            raise InvalidParameter(f"{digest} of the client's layout has {size} bytes, the limit is {limit}")
        return b"".join([chunk async for chunk in self.chunks(digest, size)])


def _write(action: WriteAction, **fields: Any) -> bytes:
    return WriteContentRequest(action=action, **fields).SerializeToString()
