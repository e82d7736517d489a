"""``corten images``, ``history``, ``tag``, ``rmi``."""

from __future__ import annotations

import time

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.filters import filter_flag, gathered
from corten.cli.messages import describe
from corten.cli.render import FORMAT_HELP, Kind, Listing, ellipsis, go_time, short_id
from corten.cli.units import decimal_size
from corten.client.api import path_of
from corten.client.references import split_reference
from corten.dockerapi.human import human_duration
from corten.errors import CortenError, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]

_NONE = "<none>"
_UNKNOWN_BEFORE_S = 946_684_800  # the year 2000: images whose date was taken out begin in 1970


class ImageRow:
    """An image under one of its names."""

    __slots__ = ("digest", "document", "repository", "tag", "trunc")

    def __init__(self, document: Document, *, repository: str, tag: str, digest: str, trunc: bool) -> None:
        self.document = document
        self.repository = repository
        self.tag = tag
        self.digest = digest
        self.trunc = trunc


def _size_or_unknown(size_bytes: int) -> str:
    return "N/A" if size_bytes == -1 else decimal_size(size_bytes)


def _unique(row: ImageRow) -> str:
    size, shared = row.document["Size"], row.document.get("SharedSize", -1)
    return "N/A" if -1 in (size, shared) else decimal_size(size - shared)


def _containers(row: ImageRow) -> str:
    count = row.document.get("Containers", -1)
    return "N/A" if count == -1 else str(count)


KIND = Kind(
    "imageContext",
    {
        "Repository": ("REPOSITORY", lambda row: row.repository),
        "Tag": ("TAG", lambda row: row.tag),
        "Digest": ("DIGEST", lambda row: row.digest),
        "ID": ("IMAGE ID", lambda row: short_id(row.document["Id"]) if row.trunc else row.document["Id"]),
        "CreatedSince": ("CREATED", lambda row: human_duration(time.time() - row.document["Created"]) + " ago"),
        "CreatedAt": ("CREATED AT", lambda row: go_time(row.document["Created"])),
        "Size": ("SIZE", lambda row: decimal_size(row.document["Size"], 3)),
        "VirtualSize": ("SIZE", lambda row: decimal_size(row.document["Size"], 3)),
        "SharedSize": ("SHARED SIZE", lambda row: _size_or_unknown(row.document.get("SharedSize", -1))),
        "UniqueSize": ("UNIQUE SIZE", _unique),
        "Containers": ("CONTAINERS", _containers),
    },
    ("Repository", "Tag", "ID", "CreatedSince", "Size"),
)


def rows_of(document: Document, *, digests: bool, trunc: bool) -> Iterator[ImageRow]:
    """A row for each name; one without a name for a dangling image.

    digests: also a row for each digest
    """
    names: dict[str, list[str]] = {}
    for reference in document.get("RepoTags") or ():
        repository, tag = split_reference(reference)
        if repository != _NONE:
            names.setdefault(repository, []).append(tag)
    known: dict[str, list[str]] = {}
    for reference in document.get("RepoDigests") or ():
        repository, _, digest = reference.partition("@")
        if repository != _NONE:
            known.setdefault(repository, []).append(digest)

    def row(repository: str, tag: str, digest: str) -> ImageRow:
        return ImageRow(document, repository=repository, tag=tag, digest=digest, trunc=trunc)

    if not names and not known:
        yield row(_NONE, _NONE, _NONE)
    for repository, tags in names.items():
        found = known.pop(repository, []) if digests else []
        if not digests:
            known.pop(repository, None)
        for tag in tags:
            for digest in found or [_NONE]:
                yield row(repository, tag, digest)
    for repository, found in known.items():
        for digest in found if digests else [""]:
            yield row(repository, _NONE, digest)


def _list(context: Context, options: flags.Options, arguments: list[str]) -> None:
    source, quiet, digests = options.text("format"), options.switch("quiet"), options.switch("digests")
    if options.switch("tree"):
        for other in ("quiet", "no-trunc", "digests", "format"):
            if options.is_given(other):
                raise InvalidParameter(f"conflicting options: cannot specify both --tree and --{other}")
    columns = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size") if digests else KIND.columns
    listing = Listing(KIND, source, quiet=quiet, columns=columns)
    digests = digests or listing.uses("Digest")
    filters = gathered(options.many("filter") + [("reference", name) for name in arguments])
    query = {"all": True if options.switch("all") else None, "filters": filters, "digests": True if digests else None}
    documents = context.api.get("/images/json", query)
    if options.switch("tree"):
        from corten.cli.image_tree import show_tree

        show_tree(context, documents)
        return
    trunc = not options.switch("no-trunc")
    listing.print(context, (row for document in documents for row in rows_of(document, digests=digests, trunc=trunc)))


class HistoryRow:
    """One step of an image.  ``human``: sizes and ages in words."""

    __slots__ = ("document", "human", "trunc")

    def __init__(self, document: Document, *, human: bool, trunc: bool) -> None:
        self.document = document
        self.human = human
        self.trunc = trunc


def _step_id(row: HistoryRow) -> str:
    identifier = row.document["Id"]
    return short_id(identifier) if row.trunc else str(identifier)


def _step_time(row: HistoryRow) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(row.document["Created"]))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"


def _step_age(row: HistoryRow) -> str:
    if not row.human:
        return _step_time(row)
    if row.document["Created"] <= _UNKNOWN_BEFORE_S:
        return "N/A"
    return human_duration(time.time() - row.document["Created"]) + " ago"


def _step_command(row: HistoryRow) -> str:
    command = (row.document.get("CreatedBy") or "").replace("\t", " ")
    return ellipsis(command, 45) if row.trunc else command


HISTORY_KIND = Kind(
    "historyContext",
    {
        "ID": ("IMAGE", _step_id),
        "CreatedSince": ("CREATED", _step_age),
        "CreatedAt": ("CREATED AT", _step_time),
        "CreatedBy": ("CREATED BY", _step_command),
        "Size": ("SIZE", lambda row: decimal_size(row.document["Size"], 3) if row.human else str(row.document["Size"])),
        "Comment": ("COMMENT", lambda row: row.document.get("Comment") or ""),
    },
    ("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
)


def _history(context: Context, options: flags.Options, arguments: list[str]) -> None:
    human, trunc = options.switch("human"), not options.switch("no-trunc")
    columns = HISTORY_KIND.columns if human else ("ID", "CreatedAt", "CreatedBy", "Size", "Comment")
    listing = Listing(HISTORY_KIND, options.text("format"), quiet=options.switch("quiet"), columns=columns)
    steps = context.api.get(path_of("/images/", arguments[0], "/history"))
    listing.print(context, (HistoryRow(step, human=human, trunc=trunc) for step in steps))


def _tag(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    source, target = arguments
    if "@" in target:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    repository, tag = split_reference(target)
    context.api.post(path_of("/images/", source, "/tag"), {"repo": repository, "tag": tag or None})


def _remove(context: Context, options: flags.Options, names: list[str]) -> int:
    force = options.switch("force")
    query = {"force": True if force else None, "noprune": True if options.switch("no-prune") else None}
    code = 0
    for name in names:
        try:
            deleted = context.api.delete(path_of("/images/", name), query)
        except CortenError as error:
            context.complain(describe(error))
            if not (force and isinstance(error, NotFound)):
                code = 1
            continue
        for entry in deleted or ():
            context.print(f"Deleted: {entry['Deleted']}" if entry.get("Deleted") else f"Untagged: {entry['Untagged']}")
    return code


LIST = Command(
    _list,
    "[OPTIONS] [REPOSITORY[:TAG]]",
    (
        flags.switch("all", "a", "Show intermediate images too"),
        flags.switch("digests", "", "Show digests"),
        filter_flag(),
        flags.text("format", "", FORMAT_HELP),
        flags.switch("no-trunc", "", "Show long values whole"),
        flags.switch("quiet", "q", "Show only the ids of the images"),
        flags.switch("tree", "", "Show which image was made from which, and what each added"),
    ),
    most=1,
    examples=("images", "images --filter dangling=true -q", "images --format '{{.Repository}}:{{.Tag}} {{.Size}}'"),
)
HISTORY = Command(
    _history,
    "[OPTIONS] IMAGE",
    (
        flags.text("format", "", FORMAT_HELP),
        flags.switch("human", "H", "Print sizes and ages in words", default=True),
        flags.switch("no-trunc", "", "Show long values whole"),
        flags.switch("quiet", "q", "Show only the ids of the images"),
    ),
    least=1,
    most=1,
    examples=("history nginx", "history --no-trunc --human=false nginx"),
)
TAG = Command(_tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", least=2, most=2, examples=("tag debian debian:stable",))
REMOVE = Command(
    _remove,
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        flags.switch("force", "f", "Remove the image also when it has several names or stopped containers use it"),
        flags.switch("no-prune", "", "Keep untagged parents"),
    ),
    least=1,
    most=None,
    examples=("rmi debian:old", "rmi $(corten images -q --filter dangling=true)"),
)
