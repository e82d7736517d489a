"""Archives on standard output, standard input and in files."""

from __future__ import annotations

import contextlib
import os
import sys

from corten.cli.terminal import write_all
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from corten.cli.context import Context

_CHUNK = 1024 * 1024


@contextlib.contextmanager
def binary_output(context: Context, path: str) -> Iterator[Callable[[bytes], None]]:
    """A function that writes to the file ``path``, or to standard output.

    The file has its name only when everything is in it; it is made with mode 0600.

    Errors: InvalidParameter when standard output is a terminal; NotFound when the file's directory does not exist.
    """
    if not path:
        if context.is_out_terminal:
            raise InvalidParameter("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        context.out.flush()
        yield lambda data: write_all(sys.stdout.fileno(), data)
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise NotFound(f'invalid output path: directory "{directory}" does not exist')
    if os.path.exists(path) and not os.path.isfile(path):
        if os.path.isdir(path):
            raise InvalidParameter(f"open {path}: is a directory")
        with open(path, "wb", buffering=0) as device:  # a pipe or a device cannot be replaced
            yield lambda data: write_all(device.fileno(), data)
        return
    temporary = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield lambda data: write_all(fd, data)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def binary_input(fd: int) -> Iterator[bytes]:
    """What can be read from a descriptor, in pieces as they come."""
    while piece := os.read(fd, _CHUNK):
        yield piece


def file_pieces(path: str) -> Iterator[bytes]:
    """The bytes of a file.  Errors: NotFound, InvalidParameter at the first piece."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"open {path}: no such file or directory") from None
    except OSError as error:
        raise InvalidParameter(f"open {path}: {(error.strerror or '').lower()}") from None
    try:
        yield from binary_input(fd)
    finally:
        os.close(fd)
