"""``corten cp`` and ``corten export``."""

from __future__ import annotations

import os
import posixpath
import sys

from corten.cli import copy_paths, flags
from corten.cli.command import Command
from corten.cli.copy_paths import Endpoint
from corten.cli.output import binary_input, binary_output
from corten.cli.units import decimal_size
from corten.client.api import TAR, path_of
from corten.errors import CortenError, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from corten.cli.context import Context

# bits of Go's os.FileMode in the daemon's answer
_GO_DIRECTORY = 1 << 31
_GO_LINK = 1 << 27
_GO_SPECIAL = (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19)


def _stat(context: Context, container: str, path: str) -> dict[str, Any]:
    """Errors: the daemon's."""
    with context.api.stream("HEAD", path_of("/containers/", container, "/archive"), {"path": path}) as response:
        return _read_stat(response.headers)


def _read_stat(headers: dict[str, str]) -> dict[str, Any]:
    import base64
    import json

    document: dict[str, Any] = json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))
    return document


def _follow(path: str, target: str) -> str:
    """Where a link of the container leads."""
    return target if target.startswith("/") else posixpath.join(copy_paths.split_entry(path)[0], target)


def _counted(pieces: Iterable[bytes], count: list[int]) -> Iterator[bytes]:
    for piece in pieces:
        count[0] += len(piece)
        yield piece


def _say_copied(context: Context, options: flags.Options, size: int, transferred: int, target: str) -> None:
    quiet = options.switch("quiet") if options.is_given("quiet") else not context.is_out_terminal
    if quiet:
        return
    text = f"Successfully copied {decimal_size(size, 3)}"
    if size != transferred:
        text += f" (transferred {decimal_size(transferred, 3)})"
    context.complain(f"{text} to {target}")


# -- out of a container ---------------------------------------------------------------------------------------------


def _from_container(context: Context, options: flags.Options, container: str, path: str, target: str) -> None:
    endpoint = None if target == "-" else copy_paths.local_target(target)
    name = ""
    if options.switch("follow-link"):
        try:
            found = _stat(context, container, path)
        except CortenError:
            found = {"mode": 0}  # the request for the archive will say what is wrong
        if found["mode"] & _GO_LINK:
            path, name = copy_paths.rebased(path, _follow(path, found["linkTarget"]))
    with context.api.stream("GET", path_of("/containers/", container, "/archive"), {"path": path}) as response:
        if endpoint is None:
            for piece in response:
                context.raw_out.write(piece)
            context.raw_out.flush()
            return
        found = _read_stat(response.headers)
        source = Endpoint(path, exists=True, is_directory=bool(found["mode"] & _GO_DIRECTORY), name=name)
        _unpack(context, options, response, source, endpoint, found["size"])


def _unpack(
    context: Context,
    options: flags.Options,
    pieces: Iterable[bytes],
    source: Endpoint,
    target: Endpoint,
    size: int,
) -> None:
    from corten.cli.archive import unpack

    directory, rename = copy_paths.prepare(source, target)
    if source.name:
        first = copy_paths.renamer(copy_paths.split_entry(source.path)[1], source.name)
        second = rename
        rename = (lambda entry: second(first(entry))) if second else first
    transferred = unpack(pieces, directory, rename=rename, keep_owner=options.switch("archive"))
    _say_copied(context, options, transferred if source.is_directory else size, transferred, target.path)


# -- into a container -----------------------------------------------------------------------------------------------


def _container_target(context: Context, container: str, path: str) -> Endpoint:
    """The place inside, links followed; one that does not exist is for the daemon to judge.

    Errors: InvalidParameter when it is a device or the like.
    """
    inside = path
    try:
        found = _stat(context, container, path)
        if found["mode"] & _GO_LINK:
            inside = _follow(path, found["linkTarget"])
            found = _stat(context, container, inside)
    except CortenError:
        return Endpoint(inside)
    if found["mode"] & _GO_SPECIAL:
        raise InvalidParameter(f'destination "{container}:{path}" must be a directory or a regular file')
    return Endpoint(inside, exists=True, is_directory=bool(found["mode"] & _GO_DIRECTORY))


def _content_size(path: str) -> int:
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size if os.path.isfile(path) else 0
    return sum(
        os.lstat(os.path.join(directory, name)).st_size
        for directory, _, names in os.walk(path)
        for name in names
        if os.path.isfile(os.path.join(directory, name))
    )


def _to_container(context: Context, options: flags.Options, source: str, container: str, path: str) -> None:
    target = _container_target(context, container, path)
    pieces: Iterator[bytes]
    if source == "-":
        if not target.is_directory:
            raise InvalidParameter(f'destination "{container}:{path}" must be a directory')
        directory, size = target.path, -1
        pieces = binary_input(sys.stdin.fileno())
    else:
        endpoint = copy_paths.local_source(source, follow_link=options.switch("follow-link"))
        directory, rename = copy_paths.prepare(endpoint, target)
        size = _content_size(endpoint.path)
        pieces = _packed(endpoint, rename)
    query = {
        "path": directory,
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if options.switch("archive") else None,
    }
    count = [0]
    context.api.stream(
        "PUT",
        path_of("/containers/", container, "/archive"),
        query,
        body=_counted(pieces, count),
        headers=TAR,
    ).close()
    _say_copied(context, options, count[0] if size < 0 else size, count[0], f"{container}:{target.path}")


def _packed(source: Endpoint, rename: Any) -> Iterator[bytes]:
    from corten.cli.archive import pack

    entry = copy_paths.split_entry(source.path)[1]
    name = source.name or ("." if entry == "/" else entry)
    path = source.path if source.path == "/" else source.path.rstrip("/")
    return pack(path, rename(name) if rename else name)


def _copy(context: Context, options: flags.Options, arguments: list[str]) -> None:
    source, target = arguments
    if not source:
        raise InvalidParameter("source can not be empty")
    if not target:
        raise InvalidParameter("destination can not be empty")
    source_container, source_path = copy_paths.split_argument(source)
    target_container, target_path = copy_paths.split_argument(target)
    if source_container and target_container:
        raise InvalidParameter("copying between containers is not supported")
    if source_container:
        _from_container(context, options, source_container, source_path, target_path)
    elif target_container:
        _to_container(context, options, source_path, target_container, target_path)
    else:
        raise InvalidParameter("must specify at least one container source")


def _export(context: Context, options: flags.Options, arguments: list[str]) -> None:
    # the place for the archive is checked before the daemon is asked
    with binary_output(context, options.text("output")) as write:
        with context.api.stream("GET", path_of("/containers/", arguments[0], "/export")) as response:
            for piece in response:
                write(piece)


COPY = Command(
    _copy,
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        corten cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    (
        flags.switch(
            "archive", "a", "Keep owners: of the container's user on the way in, of the source on the way out"
        ),
        flags.switch("follow-link", "L", "Follow a symbolic link in SRC_PATH"),
        flags.switch("quiet", "q", "Do not say what was copied; nothing is said without a terminal anyway"),
    ),
    least=2,
    most=2,
    description=(
        "A directory is copied into one that exists, and becomes one that does not. 'DIR/.' stands for what is in DIR. "
        "With '-' in the place of a local path a tar archive is read from standard input or written to standard output."
    ),
    examples=("cp web:/etc/nginx ./conf", "cp ./site/. web:/var/www/html", "cp web:/var/log - | tar t"),
)
EXPORT = Command(
    _export,
    "[OPTIONS] CONTAINER",
    (flags.text("output", "o", "Write to a file rather than to standard output"),),
    least=1,
    most=1,
    examples=("export -o web.tar web", "export web | tar t"),
)
