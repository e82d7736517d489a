"""How images come and go as archives, and out of containers: ``load``, ``save``, ``import``, ``commit``."""

from __future__ import annotations

import os
import sys

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.output import binary_input, binary_output, file_pieces
from corten.cli.progress import show_progress
from corten.client.api import TAR
from corten.client.references import split_reference
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from corten.cli.context import Context

_FORMATS = ("docker", "oci")


def _packed_directory(path: str) -> Iterator[bytes]:
    from corten.cli.archive import pack

    return pack(path, ".")


def _source(path: str, what: str) -> Iterator[bytes]:
    """An archive from a file, from standard input ("-"), or made of a directory.

    Errors: InvalidParameter, NotFound.
    """
    if path.startswith(("http://", "https://")):
        raise InvalidParameter(f"{what} from a URL is not supported: download {path} and give the file")
    if path == "-":
        if os.isatty(sys.stdin.fileno()):
            raise InvalidParameter(f"requested {what} from stdin, but stdin is empty")
        return binary_input(sys.stdin.fileno())
    if os.path.isdir(path):
        return _packed_directory(path)
    if not os.path.exists(path):
        raise NotFound(f"open {path}: no such file or directory")
    return file_pieces(path)


def _load(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    quiet = options.switch("quiet") or not context.is_out_terminal
    pieces = _source(options.text("input") or "-", "load")
    with context.api.stream("POST", "/images/load", {"quiet": quiet}, body=pieces, headers=TAR) as response:
        if response.headers.get("content-type", "").startswith("application/json"):
            show_progress(response, context.out)
        else:
            for piece in response:
                context.write(piece.decode("utf-8", "replace"))


def _save(context: Context, options: flags.Options, names: list[str]) -> None:
    form = options.text("format")
    if form not in ("", *_FORMATS):
        raise InvalidParameter(f"unknown format '{form}': must be one of {', '.join(_FORMATS)}")
    query = {"names": names, "format": form if options.is_given("format") else None}
    with binary_output(context, options.text("output")) as write:
        with context.api.stream("GET", "/images/get", query) as response:
            for piece in response:
                write(piece)


def _import(context: Context, options: flags.Options, arguments: list[str]) -> None:
    pieces = _source(arguments[0], "import")
    repository, tag = split_reference(arguments[1]) if len(arguments) > 1 else ("", "")
    query = {
        "fromSrc": "-",
        "repo": repository or None,
        "tag": tag or None,
        "message": options.text("message") or None,
        "changes": options.many("change"),
        "platform": options.text("platform") or None,
    }
    with context.api.stream("POST", "/images/create", query, body=pieces, headers=TAR) as response:
        show_progress(response, context.out)


def _commit(context: Context, options: flags.Options, arguments: list[str]) -> None:
    if options.is_given("pause") and options.is_given("no-pause"):
        raise InvalidParameter("conflicting options: --no-pause and --pause cannot be used together")
    repository, tag = split_reference(arguments[1]) if len(arguments) > 1 else ("", "")
    pause = options.switch("pause") and not options.switch("no-pause")
    query = {
        "container": arguments[0],
        "repo": repository or None,
        "tag": tag or None,
        "comment": options.text("message") or None,
        "author": options.text("author") or None,
        "changes": options.many("change"),
        "pause": None if pause else False,
    }
    context.print(context.api.post("/commit", query)["Id"])


_CHANGE = flags.many(
    "change", "c", "Dockerfile instruction for the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, …"
)

LOAD = Command(
    _load,
    "[OPTIONS]",
    (
        flags.text("input", "i", "Archive, or directory of an OCI layout, to read in the place of standard input"),
        flags.switch("quiet", "q", "Show only the names of the images"),
    ),
    description="Reads archives of docker save and of OCI layouts, plain or compressed with gzip, zstd or xz.",
    examples=("load -i nginx.tar", "load < images.tar.gz"),
)
SAVE = Command(
    _save,
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        flags.text("format", "", "Kind of archive: docker (which has an OCI layout too) or oci", default="docker"),
        flags.text("output", "o", "Write to a file rather than to standard output"),
    ),
    least=1,
    most=None,
    examples=("save -o nginx.tar nginx", "save debian nginx | zstd > images.tar.zst"),
)
IMPORT = Command(
    _import,
    "[OPTIONS] file|directory|- [REPOSITORY[:TAG]]",
    (
        _CHANGE,
        flags.text("message", "m", "Comment in the image's history"),
        flags.text("platform", "", "Platform of the image (os/architecture)"),
    ),
    least=1,
    most=2,
    description="A directory is packed on the way.",
    examples=(
        "import rootfs.tar debian:mine",
        "import -c 'CMD [\"nginx\"]' ./rootfs nginx",
        "import - base < base.tar.xz",
    ),
)
COMMIT = Command(
    _commit,
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    (
        flags.text("author", "a", "Author of the image"),
        _CHANGE,
        flags.text("message", "m", "Comment in the image's history"),
        flags.switch("pause", "p", "Pause the container meanwhile", default=True),
        flags.switch("no-pause", "", "Do not pause the container meanwhile"),
    ),
    least=1,
    most=2,
    interspersed=False,
    examples=("commit web web:snapshot", "commit -c 'CMD [\"nginx\"]' -m 'with modules' build nginx:mine"),
)
