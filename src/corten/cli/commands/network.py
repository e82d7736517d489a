"""``corten network``."""

from __future__ import annotations

import ipaddress

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.filters import filter_flag, gathered
from corten.cli.many import for_each
from corten.cli.options.environment import as_map, read_label
from corten.cli.options.network import read_address, read_link
from corten.cli.render import FORMAT_HELP, Kind, Listing, short_id
from corten.client.api import path_of
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


def _labels(network: Document) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (network.get("Labels") or {}).items()))


def _truth(value: object) -> str:
    return "true" if value else "false"


def kind(*, whole: bool) -> Kind:
    """whole: ids are not shortened"""
    return Kind(
        "networkContext",
        {
            "ID": ("NETWORK ID", lambda network: network["Id"] if whole else short_id(network["Id"])),
            "Name": ("NAME", lambda network: network["Name"]),
            "Driver": ("DRIVER", lambda network: network["Driver"]),
            "Scope": ("SCOPE", lambda network: network["Scope"]),
            "IPv4": ("IPV4", lambda network: _truth(network.get("EnableIPv4"))),
            "IPv6": ("IPV6", lambda network: _truth(network.get("EnableIPv6"))),
            "Internal": ("INTERNAL", lambda network: _truth(network.get("Internal"))),
            "Labels": ("LABELS", _labels),
            "CreatedAt": ("CREATED AT", lambda network: str(network.get("Created") or "")),
        },
        ("ID", "Name", "Driver", "Scope"),
        methods={"Label": lambda network, name: str((network.get("Labels") or {}).get(name, ""))},
    )


def _inside(address: str, subnet: str) -> bool:
    try:
        network = ipaddress.ip_network(subnet, strict=False)
        wanted = ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"invalid address or subnet: {error}") from None
    return wanted.version == network.version and wanted[0] in network and wanted[-1] in network


def subnets(options: flags.Options) -> list[Document]:
    """``IPAM.Config``: ranges, gateways and auxiliary addresses go with the subnet that they lie in.

    Errors: InvalidParameter for one that lies in none, or twice in one.
    """
    found: list[Document] = [{"Subnet": subnet} for subnet in options.many("subnet")]
    for key, texts in (("IPRange", options.many("ip-range")), ("Gateway", options.many("gateway"))):
        for text in texts:
            home = next((item for item in found if _inside(text, item["Subnet"]) and key not in item), None)
            if home is None:
                raise InvalidParameter(f"no matching subnet for {'range' if key == 'IPRange' else 'gateway'} {text}")
            home[key] = text
    for name, address in as_map(options.many("aux-address")).items():
        home = next((item for item in found if _inside(address, item["Subnet"])), None)
        if home is None:
            raise InvalidParameter(f"no matching subnet for aux-address {address}")
        home.setdefault("AuxiliaryAddresses", {})[name] = address
    return found


def _create(context: Context, options: flags.Options, arguments: list[str]) -> None:
    document: Document = {
        "Name": arguments[0],
        "Driver": options.text("driver"),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Config": subnets(options),
            "Options": as_map(options.many("ipam-opt")),
        },
        "Internal": options.switch("internal"),
        "Attachable": options.switch("attachable"),
        "ConfigOnly": options.switch("config-only"),
        "Ingress": options.switch("ingress"),
        "Scope": options.text("scope"),
        "Options": as_map(options.many("opt")),
        "Labels": as_map(options.many("label")),
    }
    if options.is_given("ipv6"):
        document["EnableIPv6"] = options.switch("ipv6")
    if options.is_given("ipv4"):
        document["EnableIPv4"] = options.switch("ipv4")
    if options.text("config-from"):
        document["ConfigFrom"] = {"Network": options.text("config-from")}
    answer = context.api.post("/networks/create", None, document)
    if answer.get("Warning"):
        context.warning(answer["Warning"])
    context.print(answer["Id"])


def _list(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    listing = Listing(kind(whole=options.switch("no-trunc")), options.text("format"), quiet=options.switch("quiet"))
    answer = context.api.get("/networks", {"filters": gathered(options.many("filter"))})
    listing.print(context, sorted(answer, key=lambda network: str(network["Name"])))


def _remove(context: Context, options: flags.Options, names: list[str]) -> int:
    api = context.api
    force = options.switch("force")
    return for_each(
        context,
        names,
        lambda name: api.delete(path_of("/networks/", name)),
        forgive=lambda error: force and isinstance(error, NotFound),
    )


def _connect(context: Context, options: flags.Options, arguments: list[str]) -> None:
    network, container = arguments
    settings: Document = {"GwPriority": options.integer("gw-priority")}
    for key, name in (("Aliases", "alias"), ("Links", "link")):
        if options.many(name):
            settings[key] = options.many(name)
    if options.many("driver-opt"):
        settings["DriverOpts"] = as_map(options.many("driver-opt"))
    wanted = {
        "IPv4Address": options.text("ip"),
        "IPv6Address": options.text("ip6"),
        "LinkLocalIPs": options.many("link-local-ip"),
    }
    if any(wanted.values()):
        settings["IPAMConfig"] = {key: value for key, value in wanted.items() if value}
    document = {"Container": container, "EndpointConfig": settings}
    context.api.post(path_of("/networks/", network, "/connect"), None, document)


def _disconnect(context: Context, options: flags.Options, arguments: list[str]) -> None:
    network, container = arguments
    document = {"Container": container, "Force": options.switch("force")}
    context.api.post(path_of("/networks/", network, "/disconnect"), None, document)


CREATE = Command(
    _create,
    "[OPTIONS] NETWORK",
    (
        flags.switch("attachable", "", "Let containers connect by hand (always so here)"),
        flags.many("aux-address", "", "Address that no container gets (NAME=ADDRESS)", metavar="map"),
        flags.text("config-from", "", "Network whose configuration is taken over"),
        flags.switch("config-only", "", "Make only a configuration that other networks take over"),
        flags.text("driver", "d", "Driver of the network: bridge, macvlan, ipvlan", default="bridge"),
        flags.many("gateway", "", "Gateway of a subnet", read_address),
        flags.switch("ingress", "", "Make the routing mesh of a swarm, which this engine leaves to others"),
        flags.switch("internal", "", "Nothing goes out and nothing comes in"),
        flags.many("ip-range", "", "Part of a subnet that containers get addresses from"),
        flags.text("ipam-driver", "", "Driver of addresses", default="default"),
        flags.many("ipam-opt", "", "Option of the driver of addresses (KEY=VALUE)", metavar="map"),
        flags.switch("ipv4", "", "Give containers IPv4 addresses", default=True),
        flags.switch("ipv6", "", "Give containers IPv6 addresses"),
        flags.many("label", "", "Label of the network (KEY=VALUE)", read_label),
        flags.many("opt", "o", "Option of the driver (KEY=VALUE)", metavar="map"),
        flags.text("scope", "", "Scope of the network: local"),
        flags.many("subnet", "", "Subnet of the network (CIDR)"),
    ),
    least=1,
    most=1,
    examples=("network create back", "network create --subnet 10.5.0.0/24 --internal private"),
)
LIST = Command(
    _list,
    "[OPTIONS]",
    (
        filter_flag(summary="Filter the list (e.g. driver=bridge)"),
        flags.text("format", "", FORMAT_HELP),
        flags.switch("no-trunc", "", "Do not shorten what is long"),
        flags.switch("quiet", "q", "Show only the ids of the networks"),
    ),
    examples=("network ls", "network ls --filter type=custom"),
)
REMOVE = Command(
    _remove,
    "[OPTIONS] NETWORK [NETWORK...]",
    (flags.switch("force", "f", "A network that does not exist is no error"),),
    least=1,
    most=None,
    examples=("network rm back",),
)
CONNECT = Command(
    _connect,
    "[OPTIONS] NETWORK CONTAINER",
    (
        flags.many("alias", "", "Further name of the container in the network"),
        flags.many("driver-opt", "", "Option of the driver (KEY=VALUE)"),
        flags.single(
            "gw-priority", "", "The highest is the container's way out", flags.read_integer, metavar="int", default=0
        ),
        flags.single("ip", "", "IPv4 address of the container", read_address, metavar="string", default=""),
        flags.single("ip6", "", "IPv6 address of the container", read_address, metavar="string", default=""),
        flags.many("link", "", "Name for another container (CONTAINER:ALIAS)", read_link),
        flags.many("link-local-ip", "", "Link-local address of the container", read_address),
    ),
    least=2,
    most=2,
    examples=("network connect back web", "network connect --ip 10.5.0.9 --alias db back web"),
)
DISCONNECT = Command(
    _disconnect,
    "[OPTIONS] NETWORK CONTAINER",
    (flags.switch("force", "f", "A container that does not exist is no error"),),
    least=2,
    most=2,
    examples=("network disconnect back web",),
)
