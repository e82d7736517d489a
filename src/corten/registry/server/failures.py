"""What a client is told when it cannot have what it wants.  Source: OCI distribution-spec v1.1, "Error Codes"."""

from __future__ import annotations

from typing import Any

from corten.errors import CortenError
from corten.oci import documents

Headers = tuple[tuple[str, str], ...]

# code -> (status, message)
_CODES: dict[str, tuple[int, str]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DENIED": (403, "requested access to the resource is denied"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (400, "manifest references a manifest or blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "RANGE_INVALID": (416, "invalid content range"),
    "SIZE_INVALID": (400, "provided length did not match content length"),
    "TAG_INVALID": (400, "manifest tag did not match URI"),
    "TOOMANYREQUESTS": (429, "too many requests"),
    "UNAUTHORIZED": (401, "authentication required"),
    "UNSUPPORTED": (405, "the operation is unsupported"),
    "UNAVAILABLE": (503, "service unavailable"),
    "UNKNOWN": (500, "unknown error"),
}


class Refusal(CortenError):
    """An answer that says no.

    code:   of the specification; status: other than the code's own; detail: what it is about
    closes: the connection cannot be used any further
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        detail: Any = None,
        headers: Headers = (),
        closes: bool = False,
    ) -> None:
        usual, text = _CODES[code]
        super().__init__(message or text)
        self.code = code
        self.status = status or usual
        self.detail = detail
        self.headers = headers
        self.closes = closes

    def document(self) -> bytes:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return documents.encode({"errors": [error]})


def unsupported(message: str, allowed: str) -> Refusal:
    """``allowed``: the methods that are, as the header ``Allow`` lists them."""
    return Refusal("UNSUPPORTED", message, headers=(("Allow", allowed),))
