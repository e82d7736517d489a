"""Bytes of a peer to messages."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from corten.grpc.status import Code, GrpcError

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], data: bytes) -> M:
    """Errors: GrpcError (INVALID_ARGUMENT) for bytes that are no such message."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise GrpcError(Code.INVALID_ARGUMENT, f"malformed {kind.DESCRIPTOR.full_name}") from None
    return message
