"""Documents by API version: the engine gives the newest ones together with what went away; older clients see theirs.

Source: the version history of the Engine API (moby, api/docs/CHANGELOG.md); each rule names the version it begins or
ends with.  Nothing here changes a document that was given: others may hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corten.dockerapi.container import (
    ContainerCreate,
    ContainerUpdate,
    ExecCreate,
    ExecStart,
    HostConfig,
    Mount,
    PortBinding,
)
from corten.dockerapi.network import NetworkConnect, NetworkCreate
from corten.dockerapi.version import ApiVersion
from corten.errors import InvalidParameter

Document = dict[str, Any]

_LEGACY_NETWORK = frozenset(
    "Bridge HairpinMode LinkLocalIPv6Address LinkLocalIPv6PrefixLen SecondaryIPAddresses SecondaryIPv6Addresses "
    "EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen IPAddress IPPrefixLen IPv6Gateway MacAddress".split()
)
_BUILTIN_NETWORKS = frozenset(("none", "host", "bridge", "default"))
_USAGE = {"Images": "ImageUsage", "Containers": "ContainerUsage", "Volumes": "VolumeUsage",
          "BuildCache": "BuildCacheUsage"}  # fmt: skip
# what image inspect told of a container's configuration that no image has
_NEVER_IN_IMAGES: Document = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "Tty": False,
    "OpenStdin": False, "StdinOnce": False, "Image": "",
}  # fmt: skip
_IMAGE_CONFIG: Document = {
    "User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
    "Labels": None,
}  # fmt: skip


def _without(document: Document, names: Sequence[str] | frozenset[str]) -> Document:
    return {key: value for key, value in document.items() if key not in names}


# -- containers -------------------------------------------------------------------------------------------------------


def container_row(document: Document, version: ApiVersion) -> Document:
    """A row of ``GET /containers/json``."""
    if version < (1, 46) and "Annotations" in document["HostConfig"]:
        document = {**document, "HostConfig": _without(document["HostConfig"], ("Annotations",))}
    if version < (1, 48) and "ImageManifestDescriptor" in document:
        document = _without(document, ("ImageManifestDescriptor",))
    if version < (1, 52):
        document = _without(document, ("Health",))
    return document


def container(document: Document, version: ApiVersion) -> Document:
    """``GET /containers/{id}/json``."""
    settings, config = document["NetworkSettings"], document["Config"]
    if version < (1, 45):
        networks = {name: _aliased(name, point, document) for name, point in (settings.get("Networks") or {}).items()}
        settings = {**settings, "Networks": networks}
    if version >= (1, 52):
        settings = _without(settings, _LEGACY_NETWORK)
        config = _without(config, ("MacAddress",) if config.get("OnBuild") else ("MacAddress", "OnBuild"))
    found = {**document, "NetworkSettings": settings, "Config": config}
    host = document["HostConfig"]
    gone = [name for name, until in (("KernelMemory", (1, 42)), ("KernelMemoryTCP", (1, 52))) if version >= until]
    if any(name in host for name in gone):
        found["HostConfig"] = _without(host, gone)
    if version < (1, 48):
        found.pop("ImageManifestDescriptor", None)
    return found


def _aliased(name: str, endpoint: Document, document: Document) -> Document:
    """Up to 1.44 the aliases of a user's network hold the container's short id and its host name."""
    if name in _BUILTIN_NETWORKS or name.startswith("container:"):
        return endpoint
    own = (document["Id"][:12], document["Config"].get("Hostname", ""))
    aliases = dict.fromkeys([*(endpoint.get("Aliases") or ()), *(alias for alias in own if alias)])
    return {**endpoint, "Aliases": list(aliases)}


def adapt_create(document: ContainerCreate, version: ApiVersion, *, cgroup_v2: bool) -> list[str]:
    """Take from a create document what its version does not know, and check what a version does not allow.

    The answer's warnings.  Errors: InvalidParameter.
    """
    host = document.host_config
    if version < (1, 40) and not host.ipc_mode:
        host.ipc_mode = "shareable"
    if version < (1, 41) and not host.cgroupns_mode and not cgroup_v2:
        host.cgroupns_mode = "host"
    if version < (1, 42):
        host.console_size = [0, 0]
    else:
        host.kernel_memory = 0
    if version < (1, 43):
        host.annotations = {}
    if version < (1, 44):
        if document.healthcheck is not None:
            document.healthcheck.start_interval = 0
        endpoints = document.networking_config.endpoints_config
        if len(endpoints) > 1:
            raise InvalidParameter(
                f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}"
            )
    if version < (1, 48):
        for endpoint in document.networking_config.endpoints_config.values():
            if endpoint is not None:
                endpoint.gw_priority = 0
    if version >= (1, 52):
        document.mac_address = ""
        host.kernel_memory_tcp = 0
    for mount in host.mounts:
        _adapt_mount(mount, version)
    return [*_adapt_ports(host, version), *_driver_ignored(host, version)]


def _adapt_ports(host: HostConfig, version: ApiVersion) -> list[str]:
    """A port with an empty list of bindings is published at any port of the host."""
    empty = [port for port, bindings in host.port_bindings.items() if not bindings]
    for port in empty:
        host.port_bindings[port] = [PortBinding()]
    if not empty or version < (1, 52):
        return []
    return [
        f"Following container port(s) have an empty list of port-bindings: {', '.join(empty)}. "
        "Such bindings will be discarded in a future version."
    ]


def _driver_ignored(host: HostConfig, version: ApiVersion) -> list[str]:
    if version >= (1, 48) and host.volume_driver and any(mount.type == "volume" for mount in host.mounts):
        return [
            "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. "
            "Use '--mount type=volume,volume-driver=...' instead"
        ]
    return []


def _adapt_mount(mount: Mount, version: ApiVersion) -> None:
    bind = mount.bind_options
    if bind is not None:
        if version < (1, 40):
            bind.non_recursive = False
        if version < (1, 42):
            bind.create_mountpoint = False
        if version < (1, 44) and mount.type == "bind" and bind.read_only_force_recursive:
            raise InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 42):  # what does not belong to the type was not looked at
        mount.volume_options = mount.volume_options if mount.type == "volume" else None
        mount.tmpfs_options = mount.tmpfs_options if mount.type == "tmpfs" else None
    if version < (1, 45) and mount.volume_options is not None and mount.volume_options.subpath:
        raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 46) and mount.tmpfs_options is not None:
        mount.tmpfs_options.options = []
    if version < (1, 48) and mount.type == "image":
        raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')


def adapt_update(document: ContainerUpdate, version: ApiVersion) -> None:
    """Take from an update what its version does not know."""
    if version < (1, 40):
        document.pids_limit = None
    if version >= (1, 42):
        document.kernel_memory = 0
    if version >= (1, 52):
        document.kernel_memory_tcp = 0
    if version < (1, 55):
        document.blkio_weight_device = None
        document.blkio_device_read_bps = None
        document.blkio_device_write_bps = None
        document.blkio_device_read_iops = None
        document.blkio_device_write_iops = None


def adapt_exec(document: ExecCreate | ExecStart, version: ApiVersion) -> None:
    """Take from a further program what its version does not know."""
    if version < (1, 42):
        document.console_size = None


# -- networks ---------------------------------------------------------------------------------------------------------


def network(document: Document, version: ApiVersion) -> Document:
    """``GET /networks/{id}``."""
    return document if version >= (1, 52) else _without(document, ("Status",))


def adapt_network(document: NetworkCreate, version: ApiVersion) -> None:
    """Take from a create document what its version does not know."""
    if version < (1, 48):
        document.enable_ipv4 = True


def adapt_connect(document: NetworkConnect, version: ApiVersion) -> None:
    """Take from a connection what its version does not know."""
    if version < (1, 54):
        document.endpoint_config.mac_address = ""
    if version < (1, 48):
        document.endpoint_config.gw_priority = 0


# -- images -----------------------------------------------------------------------------------------------------------


def image_row(document: Document, version: ApiVersion) -> Document:
    """A row of ``GET /images/json`` and of older disk usages."""
    if version >= (1, 51):
        return document
    found = {**document, "Containers": -1}
    return _sized(_named(found, version), version)


def _named(document: Document, version: ApiVersion) -> Document:
    if version < (1, 43) and not document["RepoTags"] and not document["RepoDigests"]:
        return {**document, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    return document


def _sized(document: Document, version: ApiVersion) -> Document:
    if version < (1, 44) and "VirtualSize" not in document:
        return {**document, "VirtualSize": document["Size"]}
    return document


def image(document: Document, version: ApiVersion) -> Document:
    """``GET /images/{name}/json``."""
    config = {key: value for key, value in document["Config"].items() if key not in _NEVER_IN_IMAGES}
    found = dict(document)
    if version >= (1, 52):
        config = {key: value for key, value in config.items() if value or key not in _IMAGE_CONFIG}
        for name in ("Parent", "Comment", "DockerVersion", "Author"):
            if not found.get(name):
                found.pop(name, None)
    else:
        config = {**_IMAGE_CONFIG, **config}
    if version < (1, 50):
        config = {**_NEVER_IN_IMAGES, **config}
    if version >= (1, 44) and found.get("Created", "").startswith("0001-01-01"):
        del found["Created"]
    # gone since 1.45, but Compose 1.29, which takes the newest version, cannot recreate a container without it
    found["ContainerConfig"] = {**_NEVER_IN_IMAGES, **_IMAGE_CONFIG, "Volumes": config.get("Volumes")}
    if version < (1, 45):
        found["Container"] = ""
    return _sized({**found, "Config": config}, version)


# -- the engine -------------------------------------------------------------------------------------------------------


def info(document: Document, version: ApiVersion) -> Document:
    """``GET /info``."""
    found = dict(document)
    if version < (1, 44):
        found["Runtimes"] = {name: _without(about, ("status",)) for name, about in found["Runtimes"].items()}
        found.pop("CDISpecDirs", None)
    if version < (1, 46):
        found.pop("Containerd", None)
    if version < (1, 47):
        nothing = {"AllowNondistributableArtifactsCIDRs": None, "AllowNondistributableArtifactsHostnames": None}
        found["RegistryConfig"] = {**nothing, **found["RegistryConfig"]}
    if version < (1, 49):
        found.pop("FirewallBackend", None)
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            found[name] = {**found[name], "Expected": found[name]["ID"]}
    if version < (1, 50):
        found.pop("DiscoveredDevices", None)
        found |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if version < (1, 53):
        found.pop("NRI", None)
    return found


def event(document: Document, version: ApiVersion) -> Document | None:
    """One event of ``GET /events``; None when clients of this version do not know it."""
    if version < (1, 46) and document["Type"] == "image" and document["Action"] == "create":
        return None
    return document if version < (1, 52) else _without(document, ("status", "id", "from"))


def disk_usage(document: Document, version: ApiVersion, *, verbose: bool) -> Document:
    """``GET /system/df``.  verbose: with the single objects, from 1.52 on."""
    if version < (1, 52):
        found = dict(document)
        if "Images" in found:
            found["Images"] = [_sized(row, version) for row in found["Images"]]
        if version < (1, 42) and "BuildCache" in found:
            found["BuilderSize"] = 0
        return found
    found = {} if verbose else dict(document)
    for legacy, name in _USAGE.items():
        if legacy in document:
            found[name] = _summed(legacy, document[legacy] or [], document.get("LayersSize", 0), verbose=verbose)
    return found


def _summed(kind: str, items: list[Document], layers_size: int, *, verbose: bool) -> Document:
    """Counts and bytes of the objects of one kind; what is 0 is left out."""
    if kind == "Images":
        sizes = [item["Size"] - max(item["SharedSize"], 0) for item in items]
        active = [item["Containers"] > 0 for item in items]
        total = layers_size
    elif kind == "Containers":
        sizes = [item.get("SizeRw", 0) for item in items]
        active = [item["State"] in ("running", "paused", "restarting") for item in items]
        total = sum(sizes)
    elif kind == "Volumes":
        usage = [item["UsageData"] for item in items]
        sizes = [max(item["Size"], 0) for item in usage]
        active = [item["RefCount"] > 0 for item in usage]
        total = sum(sizes)
    else:
        sizes = [item["Size"] for item in items]
        active = [item["InUse"] for item in items]
        total = sum(sizes)
    used = sum(size for size, is_active in zip(sizes, active, strict=True) if is_active)
    summary = {
        "ActiveCount": sum(active),
        "Items": items if verbose else [],
        "Reclaimable": max(total - used, 0),
        "TotalCount": len(items),
        "TotalSize": total,
    }
    return {name: value for name, value in summary.items() if value}
