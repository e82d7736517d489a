"""``corten system df --verbose``: every image, container, volume and piece of build cache."""

from __future__ import annotations

import time

from corten.cli.commands import container_list, image, volume
from corten.cli.render import Kind, Listing, parse_template, short_id
from corten.cli.units import decimal_size
from corten.dockerapi.human import human_duration
from corten.dockerapi.timestamps import parse_rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


def _ago(text: str | None) -> str:
    return f"{human_duration(time.time() - parse_rfc3339(text) / 1e9)} ago" if text else ""


def _moment(text: str | None) -> str:
    return f"{text.replace('T', ' ').removesuffix('Z')} +0000 UTC" if text else ""


def _yes(value: Any) -> str:
    return str(bool(value)).lower()


CACHE_KIND = Kind(
    "buildCacheContext",
    {
        "ID": ("CACHE ID", lambda row: row["ID"]),
        "Parent": ("PARENT", lambda row: ",".join(row.get("Parents") or ()) or row.get("Parent") or ""),
        "CacheType": ("CACHE TYPE", lambda row: row.get("Type") or ""),
        "Description": ("", lambda row: row.get("Description") or ""),
        "Size": ("SIZE", lambda row: decimal_size(row.get("Size") or 0)),
        "CreatedAt": ("", lambda row: _moment(row.get("CreatedAt"))),
        "CreatedSince": ("CREATED", lambda row: _ago(row.get("CreatedAt"))),
        "LastUsedAt": ("", lambda row: _moment(row.get("LastUsedAt"))),
        "LastUsedSince": ("LAST USED", lambda row: _ago(row.get("LastUsedAt"))),
        "UsageCount": ("USAGE", lambda row: str(row.get("UsageCount") or 0)),
        "InUse": ("IN USE", lambda row: _yes(row.get("InUse"))),
        "Shared": ("SHARED", lambda row: _yes(row.get("Shared"))),
    },
    ("ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"),
)
_IMAGE_COLUMNS = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers")
_CONTAINER_COLUMNS = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")


def _images(usage: Document, *, trunc: bool) -> list[Any]:
    found: list[Any] = []
    for entry in usage.get("Images") or ():
        found += list(image.rows_of(entry, digests=False, trunc=trunc))[:1]
    return found


def _containers(usage: Document, *, trunc: bool) -> list[Any]:
    return [
        container_list.ContainerRow({**entry, "SizeRootFs": 0}, trunc=trunc) for entry in usage.get("Containers") or ()
    ]


def _caches(usage: Document, *, trunc: bool) -> list[Document]:
    found = usage.get("BuildCache") or []
    if not trunc:
        return list(found)
    return [{**row, "ID": short_id(row["ID"]) + ("*" if row.get("InUse") else "")} for row in found]


def print_tables(context: Context, usage: Document) -> None:
    """One table after the other."""
    caches = _caches(usage, trunc=True)
    in_cache = sum(row.get("Size") or 0 for row in caches if not row.get("Shared"))
    for title, listing, rows in (
        ("Images space usage:", Listing(image.KIND, columns=_IMAGE_COLUMNS), _images(usage, trunc=True)),
        (
            "Containers space usage:",
            Listing(container_list.KIND, columns=_CONTAINER_COLUMNS),
            _containers(usage, trunc=True),
        ),
        (
            "Local Volumes space usage:",
            Listing(volume.KIND, columns=("Name", "Links", "Size")),
            usage.get("Volumes") or [],
        ),
        (f"Build cache usage: {decimal_size(in_cache)}", Listing(CACHE_KIND), caches),
    ):
        context.print(f"{title}\n" if title.startswith("Images") else f"\n{title}\n")
        listing.print(context, rows)


def print_by_template(context: Context, usage: Document, source: str) -> None:
    """What a template makes of everything together.  Errors: TemplateError."""
    from corten.cli.gotemplate import Object
    from corten.cli.rows import Row

    kinds: dict[str, tuple[Kind, list[Any]]] = {
        "Images": (image.KIND, _images(usage, trunc=False)),
        "Containers": (container_list.KIND, _containers(usage, trunc=False)),
        "Volumes": (volume.KIND, usage.get("Volumes") or []),
        "BuildCache": (CACHE_KIND, _caches(usage, trunc=False)),
    }

    def rows(name: str) -> Iterator[Row]:
        kind, found = kinds[name]
        return (Row(kind, row) for row in found)

    class Usage(Object):
        type_name = "diskUsageContext"

        def field(self, name: str, arguments: list[Any]) -> Any:
            return list(rows(name))

        def document(self) -> Any:
            return {name: [row.document() for row in rows(name)] for name in kinds}

    template = parse_template("{{json .}}" if source == "json" else source)
    context.write(template.render(Usage()))  # without an end of line, as Docker's
