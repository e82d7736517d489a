"""``builder history``: what was built here, with its log."""

from __future__ import annotations

import json
import time

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.many import for_each
from corten.cli.render import FORMAT_HELP, Kind, Listing
from corten.client.api import path_of
from corten.dockerapi.human import human_duration
from corten.dockerapi.timestamps import format_ns
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


class _Row:
    """One build in a list."""

    def __init__(self, record: Document, *, trunc: bool) -> None:
        self.record = record
        self.trunc = trunc

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def duration(self) -> str:
        ended = self.record["completed"] or time.time_ns()
        return f"{(ended - self.record['started']) / 1e9:.1f}s"


HISTORY_KIND = Kind(
    "historyContext",
    {
        "ID": ("BUILD ID", lambda row: row.id[:12] if row.trunc else row.id),
        "Name": ("NAME", lambda row: row.record["name"]),
        "Status": ("STATUS", lambda row: row.record["status"].capitalize()),
        "CreatedAt": ("CREATED AT", lambda row: human_duration(time.time() - row.record["started"] / 10**9) + " ago"),
        "Duration": ("DURATION", lambda row: row.duration),
        "Steps": ("STEPS", lambda row: f"{row.record['steps']} ({row.record['cached']} cached)"),
        "Image": ("IMAGE", lambda row: row.record["image"].removeprefix("sha256:")[: 12 if row.trunc else None]),
        "Error": ("ERROR", lambda row: row.record["error"]),
    },
    ("ID", "Name", "Status", "CreatedAt", "Duration", "Steps"),
)


def _list_history(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    listing = Listing(HISTORY_KIND, options.text("format"), quiet=options.switch("quiet"))
    records: list[Document] = context.api.get("/corten/builds")
    listing.print(context, (_Row(record, trunc=not options.switch("no-trunc")) for record in records))


def _show_log(context: Context, options: flags.Options, arguments: list[str]) -> None:
    from corten.cli.build_progress import Plain

    documents: list[Document] = context.api.get(path_of("/corten/builds/", _name(arguments), "/log"))
    if options.text("progress") == "rawjson":
        for document in documents:
            context.print(json.dumps(document))
        return
    if options.text("progress") not in ("", "plain"):
        raise InvalidParameter(f"invalid progress mode {options.text('progress')!r}: plain or rawjson")
    plain = Plain(context.out)
    for document in documents:
        plain.show(document)
    plain.close()


def _inspect_history(context: Context, options: flags.Options, arguments: list[str]) -> None:
    record: Document = context.api.get(path_of("/corten/builds/", _name(arguments)))
    if options.text("format") == "json":
        context.print(json.dumps(record, indent=2))
        return
    if options.text("format"):
        raise InvalidParameter(f"unknown format {options.text('format')!r}: json is known")
    for name, value in record.items():
        if name == "definition" or value in ("", [], {}, False):
            continue
        if name in ("started", "completed"):
            value = format_ns(value) if value else "-"
        if isinstance(value, dict):
            value = ", ".join(f"{key}={text}" for key, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(item["type"] if isinstance(item, dict) else item for item in value)
        context.print(f"{name.replace('_', ' ').capitalize() + ':':<14}{value}")
    if record["definition"]:
        context.print(f"\n{record['definition']}")


def _name(arguments: list[str]) -> str:
    """The newest build when none is named."""
    return arguments[0] if arguments else "latest"


def _forget(context: Context, options: flags.Options, arguments: list[str]) -> int:
    if options.switch("all"):
        arguments = [record["id"] for record in context.api.get("/corten/builds")]
    elif not arguments:
        raise flags.UsageError("builder history rm needs a build, or --all")

    return for_each(context, arguments, lambda name: context.api.send("DELETE", path_of("/corten/builds/", name)))


HISTORY = Command(
    _list_history,
    "[OPTIONS]",
    (
        flags.text("format", "", FORMAT_HELP),
        flags.switch("no-trunc", "", "Do not cut ids"),
        flags.switch("quiet", "q", "Show ids alone"),
    ),
    examples=("builder history ls", "builder history ls --format '{{.ID}} {{.Error}}'"),
)
LOGS = Command(
    _show_log,
    "[OPTIONS] [BUILD]",
    (flags.text("progress", "", "plain or rawjson"),),
    most=1,
    description="The newest build when none is named.",
    examples=("builder history logs", "builder history logs 4f1c"),
)
INSPECT = Command(
    _inspect_history,
    "[OPTIONS] [BUILD]",
    (flags.text("format", "", "json"),),
    most=1,
    description="The newest build when none is named.",
    examples=("builder history inspect", "builder history inspect --format json 4f1c"),
)
FORGET = Command(
    _forget,
    "[OPTIONS] [BUILD...]",
    (flags.switch("all", "a", "Forget all builds"),),
    most=None,
    examples=("builder history rm 4f1c", "builder history rm --all"),
)
