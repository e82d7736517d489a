"""Images and registries: ``pull``, ``push``, ``search``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.filters import filter_flag, gathered
from corten.cli.progress import show_progress
from corten.cli.render import FORMAT_HELP, Kind, Listing, ellipsis
from corten.client.credentials import CredentialFile
from corten.client.references import complete, domain_of, split_reference
from corten.client.transfers import auth_headers, open_pull, open_push
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

_DESCRIPTION_WIDTH = 45


def _default_tag(context: Context, reference: str, *, quiet: bool) -> None:
    if not split_reference(reference)[1] and not quiet:
        context.print("Using default tag: latest")


def _pull(context: Context, options: flags.Options, arguments: list[str]) -> None:
    reference, every, quiet = arguments[0], options.switch("all-tags"), options.switch("quiet")
    if every and split_reference(reference)[1]:
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    if not every:
        _default_tag(context, reference, quiet=quiet)
    with open_pull(context.api, reference, platform=options.text("platform"), all_tags=every) as response:
        show_progress(response, None if quiet else context.out)
    name = complete(reference)
    context.print(split_reference(name)[0] if every else name)


def _push(context: Context, options: flags.Options, arguments: list[str]) -> None:
    reference, every, quiet = arguments[0], options.switch("all-tags"), options.switch("quiet")
    if every and split_reference(reference)[1]:
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    if not every:
        _default_tag(context, reference, quiet=quiet)
    with open_push(context.api, reference, all_tags=every) as response:
        show_progress(response, None if quiet else context.out)
    if quiet:
        context.print(complete(reference))


class SearchRow:
    """One repository that was found."""

    __slots__ = ("document", "trunc")

    def __init__(self, document: dict[str, Any], *, trunc: bool) -> None:
        self.document = document
        self.trunc = trunc


def _description(row: SearchRow) -> str:
    text = " ".join((row.document.get("description") or "").split())
    return ellipsis(text, _DESCRIPTION_WIDTH) if row.trunc else text


def _ok(field: str, row: SearchRow) -> str:
    return "[OK]" if row.document.get(field) else ""


SEARCH_KIND = Kind(
    "searchContext",
    {
        "Name": ("NAME", lambda row: row.document["name"]),
        "Description": ("DESCRIPTION", _description),
        "StarCount": ("STARS", lambda row: str(row.document.get("star_count") or 0)),
        "IsOfficial": ("OFFICIAL", lambda row: _ok("is_official", row)),
        "IsAutomated": ("AUTOMATED", lambda row: _ok("is_automated", row)),
    },
    ("Name", "Description", "StarCount", "IsOfficial"),
)


def _search(context: Context, options: flags.Options, arguments: list[str]) -> None:
    listing = Listing(SEARCH_KIND, options.text("format"))
    query = {"term": arguments[0], "limit": options.integer("limit"), "filters": gathered(options.many("filter"))}
    headers = auth_headers(CredentialFile().get(domain_of(arguments[0])))
    with context.api.stream("GET", "/images/search", query, headers=headers) as response:
        import json

        documents = json.loads(response.read())
    trunc = not options.switch("no-trunc")
    documents.sort(key=lambda document: -(document.get("star_count") or 0))
    listing.print(context, (SearchRow(document, trunc=trunc) for document in documents))


PULL = Command(
    _pull,
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    (
        flags.switch("all-tags", "a", "Pull all tags of the repository"),
        flags.text("platform", "", "Platform of the image (os/architecture)"),
        flags.switch("quiet", "q", "Do not show the progress"),
    ),
    least=1,
    most=1,
    examples=("pull debian", "pull --platform linux/arm64 alpine:3", "pull registry.example:5000/team/app@sha256:…"),
)
PUSH = Command(
    _push,
    "[OPTIONS] NAME[:TAG]",
    (
        flags.switch("all-tags", "a", "Push all tags of the repository"),
        flags.switch("quiet", "q", "Do not show the progress"),
    ),
    least=1,
    most=1,
    examples=("push registry.example:5000/team/app:1",),
)
SEARCH = Command(
    _search,
    "[OPTIONS] TERM",
    (
        filter_flag(),
        flags.text("format", "", FORMAT_HELP),
        flags.integer("limit", "", "At most so many results (1 to 100, 0 for the usual 25)"),
        flags.switch("no-trunc", "", "Show long values whole"),
    ),
    least=1,
    most=1,
    examples=("search --filter is-official=true debian",),
)
