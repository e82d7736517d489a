"""What a session's client has for registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.buildkit.proto.auth_pb2 import (
    CredentialsRequest,
    CredentialsResponse,
    FetchTokenRequest,
    FetchTokenResponse,
)
from corten.buildkit.wire import parsed
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session

_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
_FETCH_TOKEN = "/moby.filesync.v1.Auth/FetchToken"
_WITHIN_S = 60.0
# under which clients keep what they have for Docker Hub
_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


async def credentials(session: Session, host: str) -> tuple[str, str]:
    """(user, password) for a registry; without a user the password is an identity token; ("", "") for nothing.

    Errors: as ``GrpcError.as_kind``.
    """
    if not session.supports(_CREDENTIALS):
        return "", ""
    request = CredentialsRequest(Host=_HOSTS.get(host, host)).SerializeToString()
    try:
        answer = parsed(CredentialsResponse, await session.unary(_CREDENTIALS, request, timeout_s=_WITHIN_S))
    except GrpcError as error:
        if error.code == Code.UNIMPLEMENTED:
            return "", ""
        raise error.as_kind(f"credentials for {host}") from None
    return answer.Username, answer.Secret


async def registry_token(session: Session, host: str) -> str:
    """What the client has for a registry instead of credentials, which goes there as it is; "" without any.

    A client can fetch tokens, too: it is named no service to fetch them from, as the registries' own client does so.
    Errors: as ``GrpcError.as_kind`` when it does not answer.
    """
    if not session.supports(_FETCH_TOKEN):
        return ""
    request = FetchTokenRequest(Host=_HOSTS.get(host, host)).SerializeToString()
    try:
        answer = parsed(FetchTokenResponse, await session.unary(_FETCH_TOKEN, request, timeout_s=_WITHIN_S))
    except GrpcError as error:
        if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            raise error.as_kind(f"token for {host}") from None
        return ""  # it says why, in no code of its own
    return answer.Token
