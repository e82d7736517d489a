"""Answers of the daemon that are errors, as kinds of ``corten.errors``: the only place where a status becomes a kind.

The kinds carry ``context["status"]``; an error without it did not come from a daemon.
"""

from __future__ import annotations

import json

from corten import errors

KINDS: dict[int, type[errors.CortenError]] = {
    304: errors.NotModified,
    400: errors.InvalidParameter,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    501: errors.NotImplementedYet,
    503: errors.Unavailable,
}

_LONGEST_PLAIN_MESSAGE = 1000


def message_of(body: bytes, status: int, reason: str) -> str:
    """The text of ``{"message": …}``; else the body itself when it is short text; else the status line."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        message: str = document["message"].strip()
        if message:
            return message
    text = body.decode("utf-8", "replace").strip()
    if document is None and text and len(text) <= _LONGEST_PLAIN_MESSAGE:
        return text
    return f"request returned {status} {reason}".rstrip()


def failure(status: int, reason: str, body: bytes) -> errors.CortenError:
    """The error of a response whose status is not a success."""
    message = message_of(body, status, reason)
    kind = KINDS.get(status)
    if kind is None:
        if status < 500:
            return errors.InvalidParameter(message, status=status)
        return errors.SystemFailure(message, status=status)
    return kind(message, status=status)


def is_from_daemon(error: errors.CortenError) -> bool:
    """Whether the daemon answered with this error, rather than that it could not be asked."""
    return "status" in error.context
