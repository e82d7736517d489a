"""A CDI file, JSON or YAML: read strictly, as the specification has it up to version 1.1.0.

Source: SPEC.md of the Container Device Interface; an unknown field, or one that is newer than the version that the file
says it has, makes the file invalid.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from corten.dockerapi.device_names import is_kind, is_name
from corten.errors import InvalidParameter

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_KINDS = ("", "b", "c", "u", "p")


class _Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class DeviceNode(_Part):
    """path: in the container; host_path: "" for the same; major, minor: 0 for the host's; permissions: "" for all

    type: b, c, u or p, "" for the host's
    """

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Part):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Part):
    """timeout: seconds"""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class IntelRdt(_Part):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    schemata: list[str] | None = None
    enable_monitoring: bool = False


class NetDevice(_Part):
    host_interface_name: str
    name: str


class Edits(_Part):
    """What is added to a container's configuration."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    net_devices: list[NetDevice] = []
    hooks: list[Hook] = []
    mounts: list[Mount] = []
    intel_rdt: IntelRdt | None = None
    additional_gids: list[int] = []

    @property
    def is_empty(self) -> bool:
        return self == Edits()


class DeviceEntry(_Part):
    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = msgspec.field(default_factory=Edits)


class CdiFile(_Part):
    """container_edits: for every container that gets any of the devices"""

    cdi_version: str
    kind: str
    devices: list[DeviceEntry]
    annotations: dict[str, str] = {}
    container_edits: Edits = msgspec.field(default_factory=Edits)


def read(content: bytes, *, is_yaml: bool) -> CdiFile:
    """Errors: InvalidParameter, saying what is wrong."""
    try:
        document = msgspec.yaml.decode(content) if is_yaml else json.loads(content)
        found = msgspec.convert(_normal(document), CdiFile)
    except (ValueError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidParameter(f"failed to parse CDI Spec: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidParameter("failed to parse CDI Spec: it is nested too deeply") from None
    _check(found)
    return found


def _normal(document: Any) -> Any:
    """Without nulls, which stand for nothing; texts where YAML reads a number or a boolean."""
    if isinstance(document, dict):
        made = {str(key): _normal(value) for key, value in document.items() if value is not None}
        if "name" in made:
            made["name"] = _text(made["name"])
        if isinstance(made.get("annotations"), dict):
            made["annotations"] = {key: _text(value) for key, value in made["annotations"].items()}
        return made
    if isinstance(document, list):
        return [_normal(item) for item in document if item is not None]
    if isinstance(document, str) and "\0" in document:
        raise ValueError("a text contains a NUL byte")
    return document


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


# -- checks -----------------------------------------------------------------------------------------------------------


def _check(file: CdiFile) -> None:
    version = file.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        raise InvalidParameter(f'invalid CDI Spec: invalid version "{file.cdi_version}"')
    needed = _needed_version(file)
    if VERSIONS.index(version) < VERSIONS.index(needed):
        raise InvalidParameter(f"invalid CDI Spec: the spec version must be at least v{needed}")
    if not is_kind(file.kind):
        raise InvalidParameter(f'invalid CDI Spec: invalid kind "{file.kind}", vendor/class is needed')
    _check_edits(file.container_edits, "invalid CDI Spec")
    names = [device.name for device in file.devices]
    if not names:
        raise InvalidParameter("invalid CDI Spec: invalid spec, no devices")
    for device in file.devices:
        if not is_name(device.name):
            raise InvalidParameter(f'invalid CDI Spec: invalid device name "{device.name}"')
        if names.count(device.name) > 1:
            raise InvalidParameter(f'invalid CDI Spec: invalid spec, multiple device "{device.name}"')
        if device.container_edits.is_empty:
            raise InvalidParameter(f'invalid CDI Spec: invalid device "{device.name}", empty device edits')
        _check_edits(device.container_edits, f'invalid CDI Spec: invalid device "{device.name}"')


def _needed_version(file: CdiFile) -> str:
    """The lowest version that has all that the file uses."""
    all_edits = [file.container_edits, *(device.container_edits for device in file.devices)]
    rdt = [edits.intel_rdt for edits in all_edits if edits.intel_rdt is not None]
    if any(edits.net_devices for edits in all_edits) or any(
        item.schemata is not None or item.enable_monitoring for item in rdt
    ):
        return "1.1.0"
    if rdt or any(edits.additional_gids for edits in all_edits):
        return "0.7.0"
    if file.annotations or any(device.annotations for device in file.devices) or "." in file.kind.partition("/")[2]:
        return "0.6.0"
    if any(device.name[:1].isdigit() for device in file.devices) or any(
        node.host_path for edits in all_edits for node in edits.device_nodes
    ):
        return "0.5.0"
    if any(mount.type for edits in all_edits for mount in edits.mounts):
        return "0.4.0"
    return "0.3.0"


def _check_edits(edits: Edits, where: str) -> None:
    for problem in (*_environment_flaws(edits.env), *_node_flaws(edits), *_hook_flaws(edits), *_other_flaws(edits)):
        raise InvalidParameter(f"{where}: {problem}")


def _environment_flaws(variables: list[str]) -> list[str]:
    return [f'invalid environment variable "{item}"' for item in variables if item.find("=") < 1]


def _node_flaws(edits: Edits) -> list[str]:
    flaws = []
    for node in edits.device_nodes:
        if not node.path:
            flaws.append("invalid (empty) device path")
        if node.type not in _KINDS:
            flaws.append(f'device "{node.path}": invalid type "{node.type}"')
        if node.permissions != "none" and node.permissions.strip("rwm"):
            flaws.append(f'device "{node.path}": invalid permissions "{node.permissions}"')
    return flaws


def _hook_flaws(edits: Edits) -> list[str]:
    flaws = []
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            flaws.append(f'invalid hook name "{hook.hook_name}"')
        if not hook.path.startswith("/"):
            flaws.append(f'invalid hook "{hook.hook_name}": "{hook.path}" is no absolute path')
        if hook.timeout is not None and hook.timeout <= 0:
            flaws.append(f'invalid hook "{hook.hook_name}": the timeout must be greater than zero')
        flaws += [f'invalid hook "{hook.hook_name}": {flaw}' for flaw in _environment_flaws(hook.env)]
    return flaws


def _other_flaws(edits: Edits) -> list[str]:
    flaws = ["invalid mount, empty host path" for mount in edits.mounts if not mount.host_path]
    flaws += ["invalid mount, empty container path" for mount in edits.mounts if not mount.container_path]
    for field in ("host_interface_name", "name"):
        values = [getattr(device, field) for device in edits.net_devices]
        if not all(values) or len(set(values)) != len(values):
            flaws.append("invalid linux net device, its names must not be empty and must differ")
    flaws += [f"additional group {gid} is out of range" for gid in edits.additional_gids if not 0 <= gid < 1 << 32]
    group = edits.intel_rdt.clos_id if edits.intel_rdt is not None else ""
    if group != "/" and (len(group) >= 4096 or group in (".", "..") or "/" in group or "\n" in group):
        flaws.append("invalid ClosID")
    return flaws
