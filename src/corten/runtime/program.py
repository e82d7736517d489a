"""Finding and executing the program, with the words that Docker's clients look for."""

from __future__ import annotations

import errno
import json
import os
import stat

from corten.errors import CommandNotExecutable, CommandNotFound, InvalidParameter


def find(name: str, environment: dict[bytes, bytes]) -> str:
    """The file to execute: ``name`` itself, or the first executable of that name on the PATH of the container.

    Errors: CommandNotFound, CommandNotExecutable.
    """
    quoted = json.dumps(name, ensure_ascii=False)
    if "/" in name:
        _check(name, quoted)
        return name
    denied = False
    for directory in os.fsdecode(environment.get(b"PATH", b"")).split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            status = os.stat(candidate)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        denied = denied or stat.S_ISREG(status.st_mode)
    if denied:
        raise CommandNotExecutable(f"exec: {quoted}: permission denied")
    raise CommandNotFound(f"exec: {quoted}: executable file not found in $PATH")


def _check(path: str, quoted: str) -> None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandNotFound(f"exec: {quoted}: stat {path}: {(error.strerror or '').lower()}") from None
    except OSError as error:
        raise CommandNotExecutable(f"exec: {quoted}: stat {path}: {(error.strerror or '').lower()}") from None
    if stat.S_ISDIR(status.st_mode):
        raise CommandNotExecutable(f"exec: {quoted}: is a directory")
    if not os.access(path, os.X_OK, effective_ids=True):
        raise CommandNotExecutable(f"exec: {quoted}: permission denied")


def environment_of(items: list[str]) -> dict[bytes, bytes]:
    """Errors: InvalidParameter for an entry without a name."""
    environment = {}
    for item in items:
        name, equals, value = item.encode("utf-8", "surrogateescape").partition(b"=")
        if not name or b"\0" in name + value:
            raise InvalidParameter(f"process.env: invalid entry {json.dumps(item)}")
        if equals:
            environment[name] = value
    return environment


def execute(path: str, arguments: list[str], environment: dict[bytes, bytes]) -> None:
    """Become the program; returns never.

    Errors: CommandNotFound (also of an absent interpreter), CommandNotExecutable.
    """
    quoted = json.dumps(arguments[0], ensure_ascii=False)
    try:
        os.execve(path, [item.encode("utf-8", "surrogateescape") for item in arguments], environment)
    except (FileNotFoundError, NotADirectoryError):
        raise CommandNotFound(f"exec {path}: no such file or directory") from None
    except OSError as error:
        text = "exec format error" if error.errno == errno.ENOEXEC else (error.strerror or "").lower()
        raise CommandNotExecutable(f"exec {path}: {text}" if error.errno == errno.ENOEXEC else f"exec: {quoted}: {text}") from None
