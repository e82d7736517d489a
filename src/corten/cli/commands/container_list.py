"""``corten ps``."""

from __future__ import annotations

import time

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.filters import filter_flag, gathered
from corten.cli.render import FORMAT_HELP, Kind, Listing, ellipsis, go_time, short_id
from corten.cli.units import decimal_size
from corten.dockerapi.human import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context


class ContainerRow:
    """A container of the list.  ``trunc``: long values are cut."""

    __slots__ = ("document", "trunc")

    def __init__(self, document: dict[str, Any], *, trunc: bool) -> None:
        self.document = document
        self.trunc = trunc


def _id(row: ContainerRow) -> str:
    return short_id(row.document["Id"]) if row.trunc else str(row.document["Id"])


def _names(row: ContainerRow) -> str:
    names = [name.removeprefix("/") for name in row.document.get("Names") or ()]
    if not row.trunc:
        return ",".join(names)
    return next((name for name in names if "/" not in name), "")  # the others are names of links


def _image(row: ContainerRow) -> str:
    image: str = row.document.get("Image") or ""
    if not image:
        return "<no image>"
    if not row.trunc:
        return image
    if short_id(row.document.get("ImageID") or "") == short_id(image):
        return short_id(image)
    return image.partition("@")[0]


def _command(row: ContainerRow) -> str:
    command = row.document.get("Command") or ""
    if row.trunc:
        command = ellipsis(command, 20)
    if command.isascii() and command.isprintable() and '"' not in command and "\\" not in command:
        return f'"{command}"'
    from corten.cli.gotemplate.values import quote

    return quote(command)


def _running_for(row: ContainerRow) -> str:
    return human_duration(time.time() - int(row.document["Created"])) + " ago"


def _size(row: ContainerRow) -> str:
    text = decimal_size(row.document.get("SizeRw") or 0, 3)
    whole = row.document.get("SizeRootFs") or 0
    return f"{text} (virtual {decimal_size(whole, 3)})" if whole > 0 else text


def _labels(row: ContainerRow) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (row.document.get("Labels") or {}).items()))


def _mounts(row: ContainerRow) -> str:
    names = [mount.get("Name") or mount.get("Source") or "" for mount in row.document.get("Mounts") or ()]
    return ",".join(ellipsis(name, 15) if row.trunc else name for name in names)


def _local_volumes(row: ContainerRow) -> str:
    return str(sum(mount.get("Driver") == "local" for mount in row.document.get("Mounts") or ()))


def _networks(row: ContainerRow) -> str:
    return ",".join((row.document.get("NetworkSettings") or {}).get("Networks") or ())


def _health(row: ContainerRow) -> str:
    _, _, inside = str(row.document.get("Status") or "").partition("(")
    health = inside.removesuffix(")").removeprefix("health: ")
    return health if inside.endswith(")") and health in ("healthy", "unhealthy", "starting") else ""


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def displayed_ports(ports: list[dict[str, Any]]) -> str:
    """The column PORTS: neighbouring ports as ranges, "0.0.0.0:8080->80/tcp, 443/tcp"."""
    order = sorted(
        ports,
        key=lambda port: (port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"]),
    )
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    done: list[str] = []
    mapped: list[str] = []

    def close(key: tuple[str, str]) -> str:
        address, protocol = key
        first, last = groups[key]
        text = str(first) if first == last else f"{first}-{last}"
        return f"{_host(address)}:{text}->{text}/{protocol}" if address else f"{text}/{protocol}"

    for port in order:
        private, address = port["PrivatePort"], port.get("IP") or ""
        if address and port.get("PublicPort") != private:
            mapped.append(f"{_host(address)}:{port.get('PublicPort')}->{private}/{port['Type']}")
            continue
        key = (address, port["Type"])
        if key in groups and private == groups[key][1] + 1:
            groups[key] = (groups[key][0], private)
            continue
        if key in groups:
            done.append(close(key))
        groups[key] = (private, private)
    return ", ".join([*done, *(close(key) for key in groups), *mapped])


KIND = Kind(
    "ContainerContext",
    {
        "ID": ("CONTAINER ID", _id),
        "Names": ("NAMES", _names),
        "Image": ("IMAGE", _image),
        "Command": ("COMMAND", _command),
        "CreatedAt": ("CREATED AT", lambda row: go_time(int(row.document["Created"]))),
        "RunningFor": ("CREATED", _running_for),
        "Ports": ("PORTS", lambda row: displayed_ports(row.document.get("Ports") or [])),
        "State": ("STATE", lambda row: row.document.get("State") or ""),
        "Status": ("STATUS", lambda row: row.document.get("Status") or ""),
        "HealthStatus": ("HEALTH STATUS", _health),
        "Size": ("SIZE", _size),
        "Labels": ("LABELS", _labels),
        "Mounts": ("MOUNTS", _mounts),
        "LocalVolumes": ("LOCAL VOLUMES", _local_volumes),
        "Networks": ("NETWORKS", _networks),
    },
    ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
    methods={"Label": lambda row, name: str((row.document.get("Labels") or {}).get(name, ""))},
)


def _list(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    source = options.text("format")
    quiet = options.switch("quiet")
    if quiet and source:
        context.warning("Ignoring custom format, because both --format and --quiet are set.")
    size = options.switch("size")
    columns = (*KIND.columns, "Size") if size else KIND.columns
    listing = Listing(KIND, source, quiet=quiet, columns=columns)
    wants_size = size or (not options.is_given("size") and listing.uses("Size"))
    limit = options.integer("last")
    if options.switch("latest") and limit == -1:
        limit = 1
    query = {
        "all": True if options.switch("all") else None,
        "limit": limit if limit > 0 else None,
        "size": True if wants_size else None,
        "filters": gathered(options.many("filter")),
    }
    documents = context.api.get("/containers/json", query)
    trunc = not options.switch("no-trunc")
    listing.print(context, (ContainerRow(document, trunc=trunc) for document in documents))


LIST = Command(
    _list,
    "[OPTIONS]",
    (
        flags.switch("all", "a", "Show all containers, not only those that run"),
        filter_flag(),
        flags.text("format", "", FORMAT_HELP),
        flags.integer("last", "n", "Show the N newest containers, whatever their state", default=-1),
        flags.switch("latest", "l", "Show the newest container, whatever its state"),
        flags.switch("no-trunc", "", "Show long values whole"),
        flags.switch("quiet", "q", "Show only the ids of the containers"),
        flags.switch("size", "s", "Show how much space files take"),
    ),
    examples=(
        "ps -a --filter status=exited",
        "ps --format 'table {{.Names}}\\t{{.Status}}'",
        "ps --format '{{.ID}}: {{.Label \"com.example.role\"}}'",
        "rm $(corten ps -aq)",
    ),
)
