"""What builds keep: ``builder prune``, ``builder du``."""

from __future__ import annotations

import sys

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.filters import filter_flag, gathered
from corten.cli.units import decimal_size, read_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


_SPACE = {
    "keep-storage": "Space that may stay in use",
    "max-used-space": "Space that the cache may take",
    "min-free-space": "Space that should be free on the disk",
    "reserved-space": "Space that stays in use in any case",
}


def _prune(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    every = options.switch("all")
    if not options.switch("force"):
        what = "all build cache" if every else "all dangling build cache"
        context.write(f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ")
        context.out.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ExitStatus(GENERAL, "builder prune has been cancelled")
    query = {
        "all": every or None,
        **{name: options.value(name) or None for name in _SPACE},
        "filters": gathered(options.many("filter")),
    }
    answer = context.api.post("/build/prune", {name: value for name, value in query.items() if value is not None})
    for name in answer.get("CachesDeleted") or ():
        context.print(name[:25])
    context.print(f"Total reclaimed space: {decimal_size(int(answer.get('SpaceReclaimed') or 0))}")


def _used(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    rows: list[Document] = context.api.get("/system/df", {"type": "build-cache"}).get("BuildCache") or []
    rows.sort(key=lambda row: row["Size"], reverse=True)
    if options.switch("verbose"):
        for row in rows:
            for title, name in (("ID", "ID"), ("Parent", "Parent"), ("Created at", "CreatedAt"), ("Type", "Type")):
                context.print(f"{title + ':':<15}{row.get(name) or ''}")
            context.print(f"{'Description:':<15}{row['Description']}")
            context.print(f"{'Usage count:':<15}{row['UsageCount']}")
            context.print(f"{'Shared:':<15}{str(row['Shared']).lower()}")
            context.print(f"{'Size:':<15}{decimal_size(row['Size'])}\n")
    else:
        context.print(f"{'ID':<28}{'SHARED':<10}{'SIZE':<12}DESCRIPTION")
        for row in rows:
            shared = str(row["Shared"]).lower()
            description = " ".join(row["Description"].split())[:70]
            context.print(f"{row['ID'][:25]:<28}{shared:<10}{decimal_size(row['Size']):<12}{description}")
    own = sum(row["Size"] for row in rows if not row["Shared"])
    shared_size = sum(row["Size"] for row in rows if row["Shared"])
    context.print(f"Shared:        {decimal_size(shared_size)}\nPrivate:       {decimal_size(own)}")
    context.print(f"Total:         {decimal_size(own + shared_size)}")


PRUNE = Command(
    _prune,
    "[OPTIONS]",
    (
        flags.switch("all", "a", "Also steps that named images are made of"),
        filter_flag("", "Prune only what fits (e.g. until=24h, type=exec.cachemount)"),
        flags.switch("force", "f", "Do not ask for confirmation"),
        *(flags.single(name, "", summary, read_size, metavar="bytes", default=0) for name, summary in _SPACE.items()),
    ),
    examples=("builder prune -f", "builder prune -af --filter until=48h", "builder prune -f --keep-storage 10GB"),
)
USED = Command(
    _used,
    "[OPTIONS]",
    (flags.switch("verbose", "", "Show all that is known of each entry"),),
    examples=("builder du", "builder du --verbose"),
)
