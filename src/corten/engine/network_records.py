"""Networks in the engine's database, and what a record means: plan, document, subnets."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from typing import Any

import msgspec
from msgspec import Struct, field

from corten.dockerapi.network import IPAM
from corten.dockerapi.timestamps import ZERO_TIME_NS, format_ns
from corten.errors import InvalidParameter, SystemFailure
from corten.network.plans import NetworkPlan, Subnet

_SCHEMA = """
CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, document BLOB NOT NULL)
WITHOUT ROWID;
"""
BRIDGE_NAME = "com.docker.network.bridge.name"
_MTU = "com.docker.network.driver.mtu"
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_ICC = "com.docker.network.bridge.enable_icc"
_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
_GATEWAY_MODES = {version: f"com.docker.network.bridge.gateway_mode_ipv{version}" for version in (4, 6)}
_PREFIX = "com.docker.network.container_iface_prefix"
_DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
_KNOWN_OPTIONS = {
    "bridge": {
        BRIDGE_NAME, _MTU, _MASQUERADE, _ICC, _HOST_BINDING, _INHIBIT_IPV4, _PREFIX, _DEFAULT_BRIDGE,
        *_GATEWAY_MODES.values(),
    },
    "macvlan": {"parent", "macvlan_mode", _MTU, _PREFIX},
    "ipvlan": {"parent", "ipvlan_mode", "ipvlan_flag", _MTU, _PREFIX},
}  # fmt: skip


class Record(Struct, kw_only=True):
    """All that survives a restart of the daemon.

    chosen:      subnets that nobody asked for
    owns_device: its interface on the host was made for it, and goes with it
    """

    id: str
    name: str
    created_ns: int
    driver: str
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    config_only: bool = False
    config_from: str = ""
    scope: str = "local"
    ipam: IPAM = field(default_factory=IPAM)
    chosen: list[str] = field(default_factory=list)
    owns_device: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def is_predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")

    @property
    def has_sandboxes(self) -> bool:
        """Its containers have a network namespace of their own, with an interface in it."""
        return self.driver not in ("host", "null")

    @property
    def resolves_names(self) -> bool:
        """Containers find each other by name: everywhere but in the default network."""
        return self.has_sandboxes and self.name != "bridge"

    def plan(self) -> NetworkPlan:
        """What the kernel needs for it.  Errors: InvalidParameter for an option's value."""
        options = self.options
        if self.driver == "bridge":
            device = options.get(BRIDGE_NAME) or f"br-{self.id[:12]}"
            mode = ""
        else:
            device = options.get("parent", "")
            mode = options.get(f"{self.driver}_mode", "")
        modes = {version: self._gateway_mode(version) for version in (4, 6)}
        inhibited = _truth(options, _INHIBIT_IPV4, default=False)
        return NetworkPlan(
            id=self.id,
            driver=self.driver,
            device=device,
            mode=mode,
            flag=options.get("ipvlan_flag", "bridge"),
            ipv4=tuple(Subnet(item.subnet, item.gateway) for item in self.ipam.config if ":" not in item.subnet),
            ipv6=tuple(Subnet(item.subnet, item.gateway) for item in self.ipam.config if ":" in item.subnet),
            internal=self.internal,
            icc=_truth(options, _ICC, default=True),
            masquerade=_truth(options, _MASQUERADE, default=True),
            mtu=_number(options, _MTU),
            prefix=_interface_prefix(options),
            bare=tuple(
                version for version, mode in modes.items() if mode == "isolated" or (version == 4 and inhibited)
            ),
            routed=tuple(version for version, mode in modes.items() if mode == "routed"),
            open=tuple(version for version, mode in modes.items() if mode == "nat-unprotected"),
        )

    def _gateway_mode(self, version: int) -> str:
        option = _GATEWAY_MODES[version]
        mode = self.options.get(option, "") or "nat"
        if mode not in ("nat", "nat-unprotected", "routed", "isolated"):
            raise InvalidParameter(f"unknown gateway mode {mode!r} of option {option}")
        if mode == "isolated" and not self.internal:
            raise InvalidParameter(f"gateway mode 'isolated' can only be used for an internal network: {option}")
        return mode

    @property
    def host_binding(self) -> str:
        """The host address of ports that are published without one."""
        address = self.options.get(_HOST_BINDING, "")
        return "" if address == "0.0.0.0" else address

    def document(self, containers: dict[str, Any]) -> dict[str, Any]:
        """What ``docker network inspect`` prints."""
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": format_ns(self.created_ns),
            "Scope": self.scope,
            "Driver": self.driver,
            "EnableIPv4": self.enable_ipv4,
            "EnableIPv6": self.enable_ipv6,
            "IPAM": {
                "Driver": self.ipam.driver or "default",
                "Options": self.ipam.options or (None if self.is_predefined else {}),
                "Config": [_subnet_document(item) for item in self.ipam.config],
            },
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": False,
            "ConfigFrom": {"Network": self.config_from},
            "ConfigOnly": self.config_only,
            "Containers": containers,
            "Options": self.options,
            "Labels": self.labels,
        }


def _subnet_document(item: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"Subnet": item.subnet}
    if item.ip_range:
        document["IPRange"] = item.ip_range
    if item.gateway:
        document["Gateway"] = item.gateway
    if item.auxiliary_addresses:
        document["AuxiliaryAddresses"] = item.auxiliary_addresses
    return document


def _truth(options: dict[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name, "").lower()
    if not text:
        return default
    if text in ("1", "t", "true"):
        return True
    if text in ("0", "f", "false"):
        return False
    raise InvalidParameter(f'invalid value for option {name}: "{options[name]}" is no boolean')


def _number(options: dict[str, str], name: str) -> int:
    text = options.get(name, "")
    if not text:
        return 0
    if not text.isdigit() or not 68 <= int(text) <= 65535:
        raise InvalidParameter(f'invalid value for option {name}: "{text}" is no size of packets')
    return int(text)


def _interface_prefix(options: dict[str, str]) -> str:
    prefix = options.get(_PREFIX, "")
    # a number follows, and 15 characters are all that a name can have
    if prefix and (not re.fullmatch(r"[^\s/:%.]{1,12}", prefix) or prefix == "lo"):
        raise InvalidParameter(f'invalid value for option {_PREFIX}: "{prefix}" cannot begin the name of an interface')
    return prefix or "eth"


def check_options(driver: str, options: dict[str, str]) -> None:
    """Errors: InvalidParameter for an option that would have no effect."""
    unknown = sorted(set(options) - _KNOWN_OPTIONS.get(driver, set()))
    if unknown:
        raise InvalidParameter(f"unknown option of network driver {driver}: {', '.join(unknown)}")


def host_record(name: str) -> Record:
    """``host`` and ``none``: their ids are the same on every machine."""
    return Record(
        id=hashlib.sha256(f"corten network {name}".encode()).hexdigest(),
        name=name,
        created_ns=ZERO_TIME_NS,
        driver={"none": "null", "host": "host"}[name],
    )


class NetworkTable:
    """The records on disk.  Errors of all methods: SystemFailure when the disk refuses."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """database: in autocommit mode, not bound to a thread"""
        self._database = database
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Record).decode
        database.executescript(_SCHEMA)

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise SystemFailure(f"cannot read or save networks: {error}", step="save state") from error

    def all(self) -> list[Record]:
        return [self._decode(row[0]) for row in self._run("SELECT document FROM networks")]

    def save(self, record: Record) -> None:
        self._run(
            "INSERT INTO networks VALUES (?, ?, ?) ON CONFLICT(id) DO UPDATE SET document=excluded.document",
            *(record.id, record.name, self._encode(record)),
        )

    def remove(self, network_id: str) -> None:
        self._run("DELETE FROM networks WHERE id=?", network_id)
