"""Failures in the words and of the kinds that Docker's clients know."""

from __future__ import annotations

from corten.errors import CortenError, Forbidden, NotFound, Unauthorized
from corten.oci.reference import Reference
from corten.registry.failures import Refused

_DENIED_PULL = "pull access denied for {0}, repository does not exist or may require 'docker login': {1}"
_DENIED_PUSH = "push access to {0} denied: {1}"


def pull_error(error: CortenError, name: Reference) -> CortenError:
    """What a pull fails with."""
    if not isinstance(error, Refused):
        return error
    if error.is_denied:
        return NotFound(_DENIED_PULL.format(name.familiar_repository, error))
    if error.code == "NAME_UNKNOWN":
        return NotFound(f"repository {name.familiar_repository} not found: {error}")
    if error.is_missing:
        text = str(error) if error.code else "manifest unknown: manifest unknown"
        return NotFound(f"manifest for {name.familiar} not found: {text}")
    return error


def push_error(error: CortenError, name: Reference) -> CortenError:
    """What a push fails with."""
    if isinstance(error, Refused) and error.is_denied:
        kind = Unauthorized if error.status == 401 else Forbidden
        return kind(_DENIED_PUSH.format(name.familiar_repository, error))
    return error
