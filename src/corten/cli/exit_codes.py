"""Exit codes: the one table from an error's kind to the code that the ``corten`` command ends with.

``run``, ``create``, ``start -a`` and ``exec`` end with the program's own code when there was a program.
Source: Docker's documentation of ``docker run``, "Exit status".
"""

from __future__ import annotations

from corten import errors
from corten.cli.flags import UsageError
from corten.client.failures import is_from_daemon

GENERAL = 1
DAEMON = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130
BROKEN_PIPE = 141

KINDS: dict[type[errors.CortenError], int] = {
    UsageError: DAEMON,
    errors.CommandNotFound: NOT_FOUND,
    errors.CommandNotExecutable: NOT_EXECUTABLE,
    errors.CortenError: GENERAL,
}

# what engines say when the program of a container cannot be started; the kind does not cross the socket
_NOT_FOUND_WORDS = ("executable file not found", "no such file or directory", "system cannot find the file specified")
_NOT_EXECUTABLE_WORDS = ("permission denied", "is a directory", "exec format error")


class ExitStatus(Exception):
    """End the command with ``code`` and, when there is one, a message on standard error."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def code_of(error: errors.CortenError) -> int:
    """The code of the nearest kind in the table."""
    for kind in type(error).__mro__:
        if kind in KINDS:
            return KINDS[kind]
    return GENERAL


def code_of_start(error: errors.CortenError) -> int:
    """The code when a container could not be created or started: 127, 126, or 125."""
    if not is_from_daemon(error):
        return DAEMON
    text = str(error).lower()
    if isinstance(error, errors.CommandNotFound) or any(words in text for words in _NOT_FOUND_WORDS):
        return NOT_FOUND
    if isinstance(error, errors.CommandNotExecutable) or any(words in text for words in _NOT_EXECUTABLE_WORDS):
        return NOT_EXECUTABLE
    return DAEMON
