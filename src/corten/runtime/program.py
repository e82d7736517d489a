"""Finding and executing the program, with the words that Docker's clients look for."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

from corten.errors import CommandNotExecutable, CommandNotFound, InvalidParameter
from corten.linux import mount, paths


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def find(name: str, environment: dict[bytes, bytes]) -> str:
    """The file to execute: ``name`` itself, or the first executable of that name on the PATH of the container.

    Errors: CommandNotFound, CommandNotExecutable.
    """
    if "/" in name:
        _check(name)
        return name
    denied = False
    path = os.fsdecode(environment.get(b"PATH", b""))
    for directory in path.split(":") if path and name else ():
        candidate = f"{directory or '.'}/{name}"
        try:
            status = os.stat(candidate)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and os.access(candidate, os.X_OK, effective_ids=True):
            refuse_our_own(candidate, name)
            return candidate
        denied = denied or stat.S_ISREG(status.st_mode)
    if denied:
        raise CommandNotExecutable(f"exec: {_quoted(name)}: permission denied")
    raise CommandNotFound(f"exec: {_quoted(name)}: executable file not found in $PATH")


def _check(path: str) -> None:
    quoted = _quoted(path)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandNotFound(f"exec: {quoted}: stat {path}: {(error.strerror or '').lower()}") from None
    except OSError as error:
        raise CommandNotExecutable(f"exec: {quoted}: stat {path}: {(error.strerror or '').lower()}") from None
    # of a directory too, as execve says it: clients before 24 do not know another word that means 126
    if stat.S_ISDIR(status.st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise CommandNotExecutable(f"exec: {quoted}: permission denied")
    refuse_our_own(path, path)


def refuse_our_own(path: str, name: str) -> None:
    """A path through a magic link such as /proc/self/exe may lead to the interpreter that runs this (CVE-2019-5736).

    Errors: CommandNotFound: the container has no such file.
    """
    try:
        os.close(paths.openat2(mount.AT_FDCWD, path, os.O_PATH, resolve=paths.RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        if error.errno != errno.ELOOP:
            return  # what is wrong with it is told by execve
    else:
        return
    status = os.stat(path)
    if (status.st_dev, status.st_ino) == _INTERPRETER:
        raise CommandNotFound(f"exec {name}: no such file or directory")


def _interpreter() -> tuple[int, int]:
    status = os.stat("/proc/self/exe")
    return status.st_dev, status.st_ino


_INTERPRETER = _interpreter()


def environment_of(process: dict[str, Any], home: str) -> dict[bytes, bytes]:
    """``process.env``, the last of a name wins, and HOME when it is not there.

    Errors: InvalidParameter for an entry without a name or a value.
    """
    environment = {}
    for item in process.get("env") or ():
        name, equals, value = item.encode("utf-8", "surrogateescape").partition(b"=")
        if not name or not equals or b"\0" in item.encode("utf-8", "surrogateescape"):
            raise InvalidParameter(f"invalid environment variable: {_quoted(item)}")
        environment[name] = value
    if home:
        environment.setdefault(b"HOME", home.encode("utf-8", "surrogateescape"))
    return environment


def enter_directory(path: str) -> None:
    """Change to the working directory.  Errors: InvalidParameter."""
    try:
        os.chdir(path)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameter(f"chdir to cwd ({_quoted(path)}) set in config.json failed: {reason}") from None
    verify_directory(path)


def verify_directory(path: str) -> None:
    """Errors: InvalidParameter when the working directory lies outside the root (CVE-2024-21626)."""
    try:
        inside = os.getcwd()
    except OSError:
        inside = "(unreachable)"
    if not inside.startswith("/"):
        raise InvalidParameter(f"current working directory is outside of container mount namespace root: {path}")


def execute(path: str, arguments: list[str], environment: dict[bytes, bytes]) -> None:
    """Become the program; returns never.

    Errors: CommandNotFound (also of an absent interpreter), CommandNotExecutable.
    """
    try:
        os.execve(path, [item.encode("utf-8", "surrogateescape") for item in arguments], environment)
    except (FileNotFoundError, NotADirectoryError):
        raise CommandNotFound(f"exec {path}: no such file or directory") from None
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            raise CommandNotExecutable(f"exec {path}: exec format error") from None
        raise CommandNotExecutable(f"exec: {_quoted(arguments[0])}: {(error.strerror or '').lower()}") from None
