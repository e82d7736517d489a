"""``corten volume``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.filters import filter_flag, gathered
from corten.cli.many import for_each
from corten.cli.options.environment import as_map, read_label
from corten.cli.render import FORMAT_HELP, Kind, Listing
from corten.cli.units import decimal_size
from corten.client.api import path_of
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


def _labels(volume: Document) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (volume.get("Labels") or {}).items()))


def _usage(volume: Document, key: str) -> int | None:
    usage = volume.get("UsageData")
    return None if usage is None else int(usage[key])


def _links(volume: Document) -> str:
    count = _usage(volume, "RefCount")
    return "N/A" if count is None else str(count)


def _size(volume: Document) -> str:
    size = _usage(volume, "Size")
    return "N/A" if size is None else decimal_size(size)


KIND = Kind(
    "volumeContext",
    {
        "Name": ("VOLUME NAME", lambda volume: volume["Name"]),
        "Driver": ("DRIVER", lambda volume: volume["Driver"]),
        "Scope": ("SCOPE", lambda volume: volume.get("Scope") or ""),
        "Mountpoint": ("MOUNTPOINT", lambda volume: volume.get("Mountpoint") or ""),
        "Labels": ("LABELS", _labels),
        "Links": ("LINKS", _links),
        "Size": ("SIZE", _size),
        "Availability": ("AVAILABILITY", lambda _: "N/A"),
        "Group": ("GROUP", lambda _: "N/A"),
        "Status": ("STATUS", lambda _: "N/A"),
    },
    ("Driver", "Name"),
    quiet="Name",
    methods={"Label": lambda volume, name: str((volume.get("Labels") or {}).get(name, ""))},
)


def _create(context: Context, options: flags.Options, arguments: list[str]) -> None:
    name = options.text("name")
    if arguments and name and name != arguments[0]:
        raise InvalidParameter(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    document = {
        "Name": arguments[0] if arguments else name,
        "Driver": options.text("driver"),
        "DriverOpts": as_map(options.many("opt")),
        "Labels": as_map(options.many("label")),
    }
    context.print(context.api.post("/volumes/create", None, document)["Name"])


def _list(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    listing = Listing(KIND, options.text("format"), quiet=options.switch("quiet"))
    answer = context.api.get("/volumes", {"filters": gathered(options.many("filter"))})
    for warning in answer.get("Warnings") or ():
        context.warning(warning)
    listing.print(context, sorted(answer.get("Volumes") or (), key=lambda volume: str(volume["Name"])))


def _remove(context: Context, options: flags.Options, names: list[str]) -> int:
    api = context.api
    force = options.switch("force")
    query = {"force": True if force else None}
    return for_each(
        context,
        names,
        lambda name: api.send("DELETE", path_of("/volumes/", name), query),
        forgive=lambda error: force and isinstance(error, NotFound),
    )


CREATE = Command(
    _create,
    "[OPTIONS] [VOLUME]",
    (
        flags.text("driver", "d", "Driver of the volume", default="local"),
        flags.many("label", "", "Label of the volume (KEY=VALUE)", read_label),
        flags.text("name", "", "Name of the volume", hidden=True),
        flags.many("opt", "o", "Option of the driver (KEY=VALUE)", metavar="map"),
    ),
    most=1,
    examples=("volume create data", "volume create -o type=tmpfs -o device=tmpfs -o o=size=100m scratch"),
)
LIST = Command(
    _list,
    "[OPTIONS]",
    (
        filter_flag(summary="Filter the list (e.g. dangling=true)"),
        flags.text("format", "", FORMAT_HELP),
        flags.switch("quiet", "q", "Show only the names of the volumes"),
    ),
    examples=("volume ls", "volume ls -q --filter dangling=true"),
)
REMOVE = Command(
    _remove,
    "[OPTIONS] VOLUME [VOLUME...]",
    (flags.switch("force", "f", "A volume that does not exist is no error"),),
    least=1,
    most=None,
    examples=("volume rm data",),
)
