"""``corten system df``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.render import FORMAT_HELP, Kind, Listing
from corten.cli.units import decimal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]

_ACTIVE_STATES = ("running", "paused", "restarting")


class _Total:
    """One line: how much there is, and how much of it nothing needs."""

    __slots__ = ("active", "count", "name", "reclaimable", "shows_percent", "size")

    def __init__(
        self, name: str, count: int, active: int, size: int, reclaimable: int, *, shows_percent: bool = True
    ) -> None:
        self.name = name
        self.count = count
        self.active = active
        self.size = size
        self.reclaimable = reclaimable
        self.shows_percent = shows_percent


def _reclaimable(row: _Total) -> str:
    text = decimal_size(row.reclaimable)
    return f"{text} ({row.reclaimable * 100 // row.size}%)" if row.shows_percent and row.size > 0 else text


KIND = Kind(
    "diskUsageContext",
    {
        "Type": ("TYPE", lambda row: row.name),
        "TotalCount": ("TOTAL", lambda row: str(row.count)),
        "Active": ("ACTIVE", lambda row: str(row.active)),
        "Size": ("SIZE", lambda row: decimal_size(row.size)),
        "Reclaimable": ("RECLAIMABLE", _reclaimable),
    },
    ("Type", "TotalCount", "Active", "Size", "Reclaimable"),
)


def _totals(usage: Document) -> list[_Total]:
    images = usage.get("Images") or []
    containers = usage.get("Containers") or []
    volumes = usage.get("Volumes") or []
    caches = usage.get("BuildCache") or []
    layers = int(usage.get("LayersSize") or 0)
    used = sum(
        entry["Size"] - max(entry.get("SharedSize", 0), 0)
        for entry in images
        if entry.get("Containers", 0) > 0 and entry["Size"] != -1
    )
    running = [entry for entry in containers if entry.get("State") in _ACTIVE_STATES]
    container_size = sum(entry.get("SizeRw") or 0 for entry in containers)
    known = [entry["UsageData"] for entry in volumes if (entry.get("UsageData") or {}).get("Size", -1) != -1]
    cache_size = sum(entry.get("Size") or 0 for entry in caches if not entry.get("Shared"))
    in_use = sum(entry.get("Size") or 0 for entry in caches if entry.get("InUse") and not entry.get("Shared"))
    return [
        _Total(
            "Images",
            len(images),
            sum(entry.get("Containers", 0) > 0 for entry in images),
            layers,
            max(layers - used, 0),
        ),
        _Total(
            "Containers",
            len(containers),
            len(running),
            container_size,
            container_size - sum(entry.get("SizeRw") or 0 for entry in running),
        ),
        _Total(
            "Local Volumes",
            len(volumes),
            sum((entry.get("UsageData") or {}).get("RefCount", 0) > 0 for entry in volumes),
            sum(data["Size"] for data in known),
            sum(data["Size"] for data in known if data["RefCount"] == 0),
        ),
        _Total(
            "Build Cache",
            len(caches),
            sum(bool(entry.get("InUse")) for entry in caches),
            cache_size,
            cache_size - in_use,
            shows_percent=False,
        ),
    ]


def _disk_usage(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    source, verbose = options.text("format"), options.switch("verbose")
    if verbose:
        from corten.cli.commands import disk_usage_detail as detail

        usage = context.api.get("/system/df")
        if source in ("", "table"):
            detail.print_tables(context, usage)
        else:
            detail.print_by_template(context, usage, source)
        return
    listing = Listing(KIND, source)
    listing.print(context, _totals(context.api.get("/system/df")))


DISK_USAGE = Command(
    _disk_usage,
    "[OPTIONS]",
    (
        flags.text("format", "", FORMAT_HELP),
        flags.switch("verbose", "v", "Show every image, container and volume"),
    ),
    examples=("system df", "system df -v", "system df -v --format '{{range .Volumes}}{{.Name}} {{.Size}}{{end}}'"),
)
