"""The one error tree of Corten.

Ten kinds, chosen so that a caller can act on them.  A kind becomes an HTTP status only in
``corten.api.errors`` and an exit code only in ``corten.cli.exit_codes``.  ``OSError`` passes through
unwrapped inside ``corten.linux`` and gets its kind where its meaning is known.

Messages are lower case without a full stop and name the object, except where Docker's clients parse
a wording ("No such container: x").
"""

from __future__ import annotations


class CortenError(Exception):
    """Base of every error that Corten raises on purpose."""

    def __init__(self, message: str, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    def __str__(self) -> str:
        return self.message


class NotFound(CortenError):
    """The named object does not exist."""


class InvalidParameter(CortenError):
    """The request is malformed or asks for something that can never work."""


class Conflict(CortenError):
    """The object's present state forbids the request."""


class NotModified(CortenError):
    """The object is already in the requested state."""


class Unauthorized(CortenError):
    """Credentials are missing or wrong."""


class Forbidden(CortenError):
    """The caller is known and not allowed."""


class Unavailable(CortenError):
    """A service that is needed does not answer or is not part of this engine."""


class NotImplementedYet(CortenError):
    """A valid request for something this version does not do."""


class DataLoss(CortenError):
    """Stored or received content does not match its digest, or an archive tries to leave its root."""


class SystemFailure(CortenError):
    """The kernel refused a step.

    step:   name of the step that failed, e.g. ``"mount /proc"``
    errno:  the kernel's error number, 0 when there is none
    """

    def __init__(self, message: str, *, step: str = "", errno: int = 0, **context: object) -> None:
        super().__init__(message, **context)
        self.step = step
        self.errno = errno


class CommandNotFound(InvalidParameter):
    """The program to run does not exist in the container (exit code 127)."""


class CommandNotExecutable(InvalidParameter):
    """The program to run exists and cannot be executed (exit code 126)."""
