"""What a session's client has for registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.buildkit.proto.auth_pb2 import CredentialsRequest, CredentialsResponse
from corten.buildkit.wire import parsed
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session

_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
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
