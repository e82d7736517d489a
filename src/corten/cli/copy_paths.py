"""Where ``corten cp`` puts what: the rules for trailing slashes, ``/.`` and directories that do or do not exist.

Source: documentation of ``docker cp``, "Description".
"""

from __future__ import annotations

import os
import posixpath

from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Endpoint:
    """One side of a copy.

    path:   as it was given, made absolute, with its trailing "/" or "/."
    name:   what the entries are to be called when a link that was followed has another name
    """

    __slots__ = ("exists", "is_directory", "name", "path")

    def __init__(self, path: str, *, exists: bool = False, is_directory: bool = False, name: str = "") -> None:
        self.path = path
        self.exists = exists
        self.is_directory = is_directory
        self.name = name


def split_argument(text: str) -> tuple[str, str]:
    """(container, path); no container for a local path, which contains no colon, or begins with "/" or ".".

    >>> split_argument("web:/etc/hosts"), split_argument("./a:b")
    (('web', '/etc/hosts'), ('', './a:b'))
    """
    if text.startswith("/"):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or container.startswith("."):
        return "", text
    return container, path


def names_contents(path: str) -> bool:
    """ "dir/." stands for what is in the directory."""
    return path == "." or path.endswith("/.")


def asserts_directory(path: str) -> bool:
    """A path that can only be a directory's."""
    return path.endswith("/") or names_contents(path)


def keep_ending(path: str, original: str) -> str:
    """A path that was cleaned, with the ending that has a meaning put back."""
    if names_contents(original):
        return path if names_contents(path) else f"{path.rstrip('/')}/."
    return f"{path.rstrip('/')}/" if original.endswith("/") else path


def split_entry(path: str) -> tuple[str, str]:
    """(directory, entry); the entry of "dir/." is "."."""
    clean = posixpath.normpath(path)
    if names_contents(path):
        return clean, "."
    head, tail = posixpath.split(clean)
    return head or ".", tail or "/"


def absolute(path: str) -> str:
    """Seen from the working directory, ending kept."""
    return keep_ending(os.path.abspath(path), path)


def rebased(path: str, resolved: str) -> tuple[str, str]:
    """(resolved path with the ending of ``path``, the name to keep when a followed link changed the last part)."""
    resolved = keep_ending(resolved, path)
    wanted, found = posixpath.basename(path.rstrip("/")), posixpath.basename(resolved.rstrip("/"))
    return resolved, wanted if wanted != found else ""


def local_source(path: str, *, follow_link: bool) -> Endpoint:
    """What is to be read.  Errors: NotFound."""
    path = absolute(path)
    name = ""
    if follow_link:
        resolved, name = rebased(path, os.path.realpath(path))
    else:
        head, tail = os.path.split(path)
        resolved = os.path.join(os.path.realpath(head), tail)
        if path.endswith("/") and posixpath.basename(path.rstrip("/")) != posixpath.basename(resolved.rstrip("/")):
            name = posixpath.basename(path.rstrip("/"))
    if not os.path.lexists(resolved.rstrip("/") or "/"):
        raise NotFound(f"lstat {path}: no such file or directory")
    entry = resolved if asserts_directory(resolved) else resolved.rstrip("/") or "/"
    is_directory = os.path.isdir(entry) and (asserts_directory(entry) or not os.path.islink(entry))
    if asserts_directory(resolved) and not is_directory:
        raise InvalidParameter(f"lstat {path}: not a directory")
    return Endpoint(resolved, exists=True, is_directory=is_directory, name=name)


def local_target(path: str) -> Endpoint:
    """Where files are to be made; links are followed, and the parent directory must exist.

    Errors: NotFound, InvalidParameter.
    """
    path = absolute(path)
    parent = os.path.dirname(path.rstrip("/")) or "/"
    if not asserts_directory(path) and os.path.islink(path):
        path = os.path.realpath(path)
        parent = os.path.dirname(path)
    if os.path.exists(path):
        if not os.path.isdir(path) and not os.path.isfile(path):
            raise InvalidParameter(f"destination {path!r} must be a directory or a regular file")
        return Endpoint(path, exists=True, is_directory=os.path.isdir(path))
    if os.path.lexists(path.rstrip("/")):
        raise InvalidParameter(f"{path}: not a directory")
    if not os.path.isdir(parent):
        raise NotFound(f'invalid output path: directory "{parent}" does not exist')
    return Endpoint(path)


def prepare(source: Endpoint, target: Endpoint) -> tuple[str, Callable[[str], str] | None]:
    """(directory to unpack in, how names of entries change).

    Errors: InvalidParameter when a directory would become a file; NotFound when a file is to go into a directory that
    does not exist.
    """
    directory, wanted = split_entry(target.path)
    _, entry = split_entry(source.path)
    if target.exists and target.is_directory:
        return target.path, None
    if target.exists and source.is_directory:
        raise InvalidParameter("cannot copy directory")
    if not target.exists and not source.is_directory and asserts_directory(target.path):
        raise NotFound("no such directory")
    return directory, renamer(source.name or entry, wanted)


def renamer(old: str, new: str) -> Callable[[str], str]:
    """A function that gives the first part of names another name."""
    old = "" if old == "/" else old

    def rename(name: str) -> str:
        if not old:
            return f"{new}/{name.lstrip('/')}"
        if name == old or name.startswith(f"{old}/"):
            return new + name[len(old) :]
        return name

    return rename
