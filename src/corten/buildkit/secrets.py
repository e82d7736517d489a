"""Secrets of a session's client: for ``RUN --mount=type=secret`` and for contexts that need a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from corten.buildkit.proto.secrets_pb2 import GetSecretRequest, GetSecretResponse
from corten.buildkit.wire import parsed
from corten.errors import NotFound
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.build.workshop import Cancellation
    from corten.buildkit.sessions import Session

_GET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
_WITHIN_S = 60.0


async def secret(session: Session, secret_id: str) -> bytes:
    """Errors: NotFound, others as ``GrpcError.as_kind``."""
    request = GetSecretRequest(ID=secret_id).SerializeToString()
    try:
        answer = parsed(GetSecretResponse, await session.unary(_GET, request, timeout_s=_WITHIN_S))
    except GrpcError as error:
        if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
            raise NotFound(f"secret {secret_id}: not found") from None
        raise error.as_kind(f"secret {secret_id}") from None
    return answer.data


class SessionSecrets(Mapping[str, bytes]):
    """Secrets by id, for the worker threads of one build: each is asked for when it is used, and once.

    Errors: as ``secret``; Cancelled.
    """

    def __init__(self, session: Session, cancellation: Cancellation) -> None:
        self._session = session
        self._cancellation = cancellation
        self._known: dict[str, bytes | None] = {}

    def __getitem__(self, secret_id: str) -> bytes:
        if secret_id not in self._known:
            try:
                asking = secret(self._session, secret_id)
                self._known[secret_id] = self._session.wait_for(asking, self._cancellation)
            except NotFound:
                self._known[secret_id] = None
        content = self._known[secret_id]
        if content is None:
            raise KeyError(secret_id)
        return content

    def __iter__(self) -> Iterator[str]:
        """Those that have been asked for: nobody can list them."""
        return iter([name for name, content in self._known.items() if content is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)
