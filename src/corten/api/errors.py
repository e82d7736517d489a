"""Errors as HTTP responses: the one place where an error kind gets its status."""

from __future__ import annotations

import errno
import logging
from types import MappingProxyType

from corten import errors
from corten.api.http.body import BodyTooLarge
from corten.api.http.messages import JSON, HttpError, Response
from corten.dockerapi.codec import encode

logger = logging.getLogger(__name__)

STATUS: MappingProxyType[type[errors.CortenError], int] = MappingProxyType(
    {
        errors.NotModified: 304,
        errors.InvalidParameter: 400,
        errors.Unauthorized: 401,
        errors.Forbidden: 403,
        errors.NotFound: 404,
        errors.Conflict: 409,
        BodyTooLarge: 413,
        errors.DataLoss: 500,
        errors.SystemFailure: 500,
        errors.NotImplementedYet: 501,
        errors.Unavailable: 503,
    }
)

# the machine has run out of something: the owner can mend that, and no code is at fault
_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO})


def status_of(error: Exception) -> int:
    """The status of the nearest kind in the table; 500 for what is none of them."""
    if isinstance(error, HttpError):
        return error.status
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def message_of(error: Exception) -> str:
    """What a client is told.  Of an error that nobody raised on purpose it is only the kind: the log has the rest."""
    if isinstance(error, errors.CortenError):
        return error.message or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        if error.errno in _EXHAUSTED:
            return error.strerror.lower()
        return f"internal error: {error.strerror}"
    return f"internal error: {type(error).__name__}"


def error_response(error: Exception, what: str) -> Response:
    """The response for ``error``; an unexpected one is logged with its traceback.  ``what`` names the request."""
    status = status_of(error)
    if not isinstance(error, errors.CortenError):
        logger.error("%s failed", what, exc_info=error)
    elif status == 500:
        logger.warning("%s: %s", what, error)
    if status == 304:
        return Response(304)
    response = Response(status, encode({"message": message_of(error)}) + b"\n", JSON)
    if isinstance(error, HttpError):
        response.headers, response.closes = error.headers, error.closes
    return response
