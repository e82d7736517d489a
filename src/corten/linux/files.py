"""Small files as whole texts: four system calls where ``open`` makes eight."""

from __future__ import annotations

import os

_SMALL = 4096


def read_text(path: str | os.PathLike[str]) -> str:
    """Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        # a short piece is not the last one: the kernel's own files come in whole lines
        while part := os.read(descriptor, _SMALL):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode()


def write_text(path: str | os.PathLike[str], text: str, mode: int = 0o666) -> None:
    """Make the file, or replace what is in it.

    mode: of a new file, cut by the umask
    Errors: OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(text.encode())
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def write_knob(file: str, *texts: str) -> None:
    """Into a file of the kernel's, one write(2) for each text.  Errors: OSError naming text and file."""
    text = texts[0]
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for text in texts:
                os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"write {text!r}: {(error.strerror or '').lower()}", file) from error
