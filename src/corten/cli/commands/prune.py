"""``prune`` of containers, images, networks, volumes, and of all of them."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.filters import filter_flag, gathered
from corten.cli.units import decimal_size
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Filters = dict[str, list[str]]


def _confirm(context: Context, options: flags.Options, question: str, noun: str) -> None:
    """Errors: ExitStatus when the answer is not yes."""
    if options.switch("force"):
        return
    context.write(f"{question}\nAre you sure you want to continue? [y/N] ")
    context.out.flush()
    import sys

    answer = sys.stdin.readline().strip().lower()
    if not answer:
        context.print()
    if answer not in ("y", "yes"):
        raise ExitStatus(GENERAL, f"{noun} prune has been cancelled")


def _report(context: Context, title: str, lines: list[str]) -> None:
    if lines:
        context.print(f"{title}:\n" + "\n".join(lines) + "\n")


def _containers(context: Context, filters: Filters | None) -> int:
    answer = context.api.post("/containers/prune", {"filters": filters})
    _report(context, "Deleted Containers", answer.get("ContainersDeleted") or [])
    return int(answer.get("SpaceReclaimed") or 0)


def _images(context: Context, filters: Filters | None, *, every: bool) -> int:
    filters = {**(filters or {}), "dangling": ["false" if every else "true"]}
    answer = context.api.post("/images/prune", {"filters": filters})
    lines = [
        f"untagged: {entry['Untagged']}" if entry.get("Untagged") else f"deleted: {entry['Deleted']}"
        for entry in answer.get("ImagesDeleted") or ()
    ]
    _report(context, "Deleted Images", lines)
    return int(answer.get("SpaceReclaimed") or 0)


def _volumes(context: Context, filters: Filters | None, *, every: bool) -> int:
    if every:
        filters = {**(filters or {}), "all": ["true"]}
    answer = context.api.post("/volumes/prune", {"filters": filters})
    _report(context, "Deleted Volumes", answer.get("VolumesDeleted") or [])
    return int(answer.get("SpaceReclaimed") or 0)


def _networks(context: Context, filters: Filters | None) -> None:
    answer = context.api.post("/networks/prune", {"filters": filters})
    _report(context, "Deleted Networks", answer.get("NetworksDeleted") or [])


def _total(context: Context, size_bytes: int) -> None:
    context.print(f"Total reclaimed space: {decimal_size(size_bytes)}")


def _prune_containers(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    _confirm(context, options, "WARNING! This will remove all stopped containers.", "container")
    _total(context, _containers(context, gathered(options.many("filter"))))


def _prune_images(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    every = options.switch("all")
    what = "all images without at least one container associated to them" if every else "all dangling images"
    _confirm(context, options, f"WARNING! This will remove {what}.", "image")
    _total(context, _images(context, gathered(options.many("filter")), every=every))


def _prune_volumes(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    every = options.switch("all")
    filters = gathered(options.many("filter"))
    if every and "all" in (filters or {}):
        raise InvalidParameter("conflicting options: cannot specify both --all and --filter all=1")
    what = "all local volumes" if every else "anonymous local volumes"
    _confirm(context, options, f"WARNING! This will remove {what} not used by at least one container.", "volume")
    _total(context, _volumes(context, filters, every=every))


def _prune_networks(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    what = "all custom networks not used by at least one container"
    _confirm(context, options, f"WARNING! This will remove {what}.", "network")
    _networks(context, gathered(options.many("filter")))


def _prune_system(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    every, volumes = options.switch("all"), options.switch("volumes")
    filters = gathered(options.many("filter"))
    if volumes and "until" in (filters or {}):
        raise InvalidParameter('the "until" filter is not supported with "--volumes"')
    items = ["all stopped containers", "all networks not used by at least one container"]
    if volumes:
        items.append("all anonymous volumes not used by at least one container")
    items.append("all images without at least one container associated to them" if every else "all dangling images")
    question = "WARNING! This will remove:\n" + "\n".join(f"  - {item}" for item in items) + "\n"
    if filters:
        chosen = sorted(f"{key}={value}" for key, values in filters.items() for value in values)
        question += "\n  Items to be pruned will be filtered with:\n"
        question += "\n".join(f"  - {each}" for each in chosen) + "\n"
    _confirm(context, options, question, "system")
    reclaimed = _containers(context, filters)
    _networks(context, filters)
    if volumes:
        reclaimed += _volumes(context, filters, every=False)
    reclaimed += _images(context, filters, every=every)
    _total(context, reclaimed)


def _flags(*others: Any) -> tuple[flags.Flag, ...]:
    return (
        filter_flag("", "Prune only what fits (e.g. until=24h, label=KEY=VALUE)"),
        flags.switch("force", "f", "Do not ask for confirmation"),
        *others,
    )


CONTAINER = Command(_prune_containers, "[OPTIONS]", _flags(), examples=("container prune -f --filter until=24h",))
IMAGE = Command(
    _prune_images,
    "[OPTIONS]",
    _flags(flags.switch("all", "a", "Remove all images that no container uses, not only dangling ones")),
    examples=("image prune -f", "image prune -a --filter until=240h"),
)
NETWORK = Command(_prune_networks, "[OPTIONS]", _flags(), examples=("network prune -f --filter until=24h",))
VOLUME = Command(
    _prune_volumes,
    "[OPTIONS]",
    _flags(flags.switch("all", "a", "Remove named volumes too")),
    examples=("volume prune -f",),
)
SYSTEM = Command(
    _prune_system,
    "[OPTIONS]",
    _flags(
        flags.switch("all", "a", "Remove all images that no container uses, not only dangling ones"),
        flags.switch("volumes", "", "Remove anonymous volumes too"),
    ),
    examples=("system prune -f", "system prune -a --volumes"),
)
