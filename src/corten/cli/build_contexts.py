"""What a build is made from, as the command line says it, and how it gets to the daemon.

A daemon on this machine is told which directory it is and reads what it needs of it; to one elsewhere, or one that
sees other directories than this process does, the files are sent as a tar.
"""

from __future__ import annotations

import json
import os
import sys

from corten.cli.output import binary_input
from corten.dockerapi.build_frames import frame
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from typing import Any

_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


class Source:
    """One context.

    document: what the daemon is told; pieces: makes the tar that is sent, None for what is not sent
    """

    __slots__ = ("directory", "document", "pieces")

    def __init__(
        self,
        document: dict[str, Any],
        pieces: Callable[[], Iterator[bytes]] | None = None,
        directory: str = "",
    ) -> None:
        self.document = document
        self.pieces = pieces
        self.directory = directory


class Contexts:
    """The contexts of one command.

    sources: by name, "" is the build's own; dockerfile: its path in that; text: its content, when it is not in it
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.dockerfile = "Dockerfile"
        self.text: str | None = None

    @property
    def can_be_sent_again(self) -> bool:
        """Nothing of it was read from standard input."""
        return all(source.pieces is None or source.directory for source in self.sources.values())

    def body(self, document: dict[str, Any], *, send: bool) -> Iterator[bytes]:
        """The request's body.  send: also directories of this machine"""
        sources = {name: _chosen(source, send=send) for name, source in self.sources.items()}
        document["contexts"] = {name: source[0] for name, source in sources.items()}
        if self.text is not None:
            document["dockerfile"] = self.text
        yield frame(json.dumps(document).encode())
        for _, pieces in sources.values():
            if pieces is not None:
                for piece in pieces():
                    if piece:
                        yield frame(piece)
                yield frame(b"")


def _chosen(source: Source, *, send: bool) -> tuple[dict[str, Any], Callable[[], Iterator[bytes]] | None]:
    if not source.directory:
        return source.document, source.pieces
    if send:
        return {"sent": True}, source.pieces
    status = os.stat(source.directory)
    place = {"path": os.path.realpath(source.directory), "device": status.st_dev, "inode": status.st_ino}
    return {"directory": place, **source.document}, None


def standard_input() -> bytes:
    return b"".join(binary_input(sys.stdin.fileno()))


def is_remote(place: str) -> bool:
    return place.startswith(_REMOTE)


def gather(place: str, file: str) -> Contexts:
    """What the context argument and ``--file`` mean.  Errors: InvalidParameter, NotFound, OSError."""
    found = Contexts()
    if place == "-":
        if file == "-":
            raise InvalidParameter("invalid argument: can't use stdin for both build context and dockerfile")
        _from_input(found, file)
    elif is_remote(place):
        found.sources[""] = Source({"url": place})
        found.dockerfile = file or "Dockerfile"
        if file == "-":
            found.dockerfile, found.text = "Dockerfile", _text(standard_input())
    else:
        _check_directory(place)
        _from_directory(found, place, file)
    return found


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _check_directory(place: str) -> None:
    if os.path.isdir(place):
        return
    if os.path.exists(place):
        raise InvalidParameter(f"unable to prepare context: context must be a directory: {place}")
    raise NotFound(f"unable to prepare context: path {place!r} not found")


def _from_input(found: Contexts, file: str) -> None:
    pieces = binary_input(sys.stdin.fileno())
    start = next(pieces, b"")
    while 0 < len(start) < 512 and (more := next(pieces, b"")):
        start += more
    if start.startswith(_ARCHIVES) or start[257:262] == b"ustar":

        def whole() -> Iterator[bytes]:
            yield start
            yield from pieces

        found.sources[""] = Source({"sent": True}, whole)
        found.dockerfile = file or "Dockerfile"
        return
    if file:
        raise InvalidParameter("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    found.text = _text(start + b"".join(pieces))


def _from_directory(found: Contexts, place: str, file: str) -> None:
    document: dict[str, Any] = {}
    if file == "-":
        found.text = _text(standard_input())
    else:
        path = file or os.path.join(place, "Dockerfile")
        if not file and not os.path.exists(path) and os.path.exists(os.path.join(place, "dockerfile")):
            path = os.path.join(place, "dockerfile")
        if not os.path.exists(path):
            raise NotFound(
                f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: {path} not found"
            )
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        name = os.path.relpath(real, os.path.realpath(place))
        if name.startswith("../"):
            found.text = _text(_read(path))
            if os.path.exists(f"{path}.dockerignore"):
                document["ignore"] = _text(_read(f"{path}.dockerignore"))
        else:
            found.dockerfile = name
    keep = (found.dockerfile, f"{found.dockerfile}.dockerignore", ".dockerignore")

    def pieces() -> Iterator[bytes]:
        from corten.cli.context_tar import find_ignore, pack_context  # tarfile costs time that few need

        ignore = find_ignore(place, found.dockerfile, document.get("ignore"))
        return pack_context(place, ignore, keep)

    found.sources[""] = Source(document, pieces, place)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# -- named contexts ---------------------------------------------------------------------------------------------------


def add_named(found: Contexts, texts: list[str], load_layout: Callable[[str], str]) -> None:
    """``NAME=PLACE``: a directory, an address, ``docker-image://REF``, ``oci-layout://DIRECTORY[:TAG|@DIGEST]``.

    load_layout: takes an image out of a layout into the daemon's store; its id
    Errors: InvalidParameter, NotFound.
    """
    for text in texts:
        name, equals, place = text.partition("=")
        if not name or not equals or not place:
            raise InvalidParameter(f"invalid context value: {text}, expected key=value")
        if place.startswith("docker-image://"):
            found.sources[name] = Source({"image": place.removeprefix("docker-image://")})
        elif place.startswith("oci-layout://"):
            found.sources[name] = Source({"image": load_layout(place.removeprefix("oci-layout://"))})
        elif is_remote(place):
            found.sources[name] = Source({"url": place})
        elif place.startswith("target:"):
            raise InvalidParameter(f"build context {name}: targets are known to bake files alone")
        else:
            _check_named(name, place)
            found.sources[name] = Source({}, _named_pieces(place), place)


def _check_named(name: str, place: str) -> None:
    if not os.path.isdir(place):
        raise NotFound(f"failed to get build context path {{{place}}}: {name} is no directory")


def _named_pieces(place: str) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        from corten.cli.context_tar import find_ignore, pack_context

        return pack_context(place, find_ignore(place, "Dockerfile"), (".dockerignore",))

    return pieces


# -- secrets and agents -----------------------------------------------------------------------------------------------


def secrets(texts: list[str]) -> dict[str, str]:
    """``id=x[,src=file][,env=NAME]`` -> base64.  Errors: InvalidParameter, NotFound."""
    if not texts:
        return {}
    import base64

    found = {}
    for text in texts:
        options = dict(item.partition("=")[::2] for item in text.split(","))
        name = options.pop("id", "")
        source = options.pop("src", options.pop("source", ""))
        variable = options.pop("env", "")
        kind = options.pop("type", "file" if source else "env" if variable else "")
        if not name or options or kind not in ("", "file", "env"):
            raise InvalidParameter(f"invalid secret {text!r}: id=NAME and src=FILE or env=VARIABLE are needed")
        if kind == "env" or (not kind and name in os.environ):
            content = os.environ.get(variable or source or name, "").encode("utf-8", "surrogateescape")
        else:
            try:
                content = _read(source or name)
            except OSError as error:
                raise NotFound(f"failed to read secret {name}: {error.strerror}") from None
        found[name] = base64.b64encode(content).decode()
    return found


def agents(texts: list[str], stack: ExitStack) -> dict[str, str]:
    """``default``, ``ID[=SOCKET]`` or ``ID=KEY[,KEY]`` -> path of a socket; of an agent of our own for keys of files.

    stack: when it is left, our own agents end
    Errors: InvalidParameter, NotFound, Unavailable.
    """
    import stat

    found = {}
    for text in texts:
        name, _, given = text.partition("=")
        paths = given.split(",") if given else [os.environ.get("SSH_AUTH_SOCK", "")]
        if name in found:
            raise InvalidParameter(f"the ssh agent {name} is given twice")
        if not all(paths):
            raise InvalidParameter(f"invalid empty ssh agent socket for {name}: make sure SSH_AUTH_SOCK is set")
        try:
            modes = [os.stat(path).st_mode for path in paths]
        except OSError as error:
            raise NotFound(f"the ssh agent {name} at {error.filename} cannot be used: {error.strerror}") from None
        if not any(map(stat.S_ISSOCK, modes)):
            from corten.cli.ssh_agent import serving
            from corten.cli.ssh_keys import read_key

            found[name] = stack.enter_context(serving([read_key(path) for path in paths]))
        elif len(paths) > 1:
            raise InvalidParameter(f"--ssh {name}: either one agent's socket or files of keys")
        else:
            found[name] = os.path.realpath(paths[0])
    return found
