"""How a build that fails is told: status, text, and where in the Dockerfile.

Source: moby/buildkit, solver/errdefs: details are JSON under names of their own; a failed program is told as the
executor tells it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from corten.api.buildkit.progress import Failure, program_failed
from corten.build.workshop import BuildFailed, Cancelled
from corten.buildkit.proto import control_pb2 as pb
from corten.dockerfile.errors import DockerfileError
from corten.errors import CortenError, DataLoss, InvalidParameter, NotFound
from corten.grpc.status import Code, GrpcError, of_error

_TYPES = "github.com/moby/buildkit/errdefs"
_PLAIN = (BuildFailed, DockerfileError, InvalidParameter, NotFound, DataLoss)


def text_of(error: CortenError) -> str:
    if isinstance(error, BuildFailed) and error.command:
        return program_failed(error.command, error.code)
    return error.what_is_wrong if isinstance(error, Located) else str(error)


class Located(CortenError):
    """An error with its place.

    file, source: name and content of the Dockerfile; failure: the place
    """

    def __init__(self, error: CortenError, file: str, source: bytes, failure: Failure) -> None:
        super().__init__(text_of(error))
        self.error = error
        self.what_is_wrong = self.message
        self.file = file
        self.source = source
        self.failure = failure


def located(error: CortenError, file: str, source: bytes, failure: Failure | None) -> CortenError:
    """An error with what is known of its place."""
    if isinstance(error, DockerfileError) and error.line:
        failure = Failure(failure.vertex if failure else "", (error.line, error.line))
    if failure is None or isinstance(error, (Located, Cancelled)):
        return error
    return Located(error, file, source, failure)


def grpc_error(error: CortenError) -> GrpcError:
    """What a client of a solve is told."""
    if isinstance(error, GrpcError):
        return error
    inner = error.error if isinstance(error, Located) else error
    if isinstance(inner, Cancelled):
        return GrpcError(Code.CANCELLED, "context canceled")
    code = Code.UNKNOWN if isinstance(inner, _PLAIN) else of_error(inner).code
    message = text_of(error)
    if isinstance(inner, DockerfileError) and inner.line:
        message = f"dockerfile parse error on line {inner.line}: {inner.what}"  # the place is in the details
    status = pb.ErrorStatus(code=code, message=message)
    if isinstance(error, Located):
        if error.failure.vertex:
            _detail(status, "Vertex", {"digest": error.failure.vertex})
        if error.failure.lines[0]:
            _detail(status, "Source", _place(error))
    return GrpcError(code, message, status.SerializeToString() if status.details else b"")


def _detail(status: pb.ErrorStatus, kind: str, document: dict[str, Any]) -> None:
    status.details.add(type_url=f"{_TYPES}.{kind}+json", value=json.dumps(document).encode())


def _place(error: Located) -> dict[str, Any]:
    first, last = error.failure.lines
    return {
        "info": {
            "filename": error.file,
            "data": base64.b64encode(error.source).decode(),
            "language": "Dockerfile",
        },
        "ranges": [{"start": {"line": first}, "end": {"line": last}}],
    }


def of_status(status: pb.ErrorStatus) -> GrpcError:
    """An error that a client returns."""
    code = Code(status.code) if status.code in Code._value2member_map_ else Code.UNKNOWN
    return GrpcError(code, status.message, status.SerializeToString())
