"""Values inside a template: how they print, when they are true, how their fields are found."""

from __future__ import annotations

from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class TemplateError(InvalidParameter):
    """A template that cannot be parsed or executed."""


class _NoValue:
    """What a key that a map does not have gives."""

    def __repr__(self) -> str:
        return "<no value>"


NO_VALUE = _NoValue()


class Object:
    """Something with fields that are computed when they are asked for: a row of a list.

    Subclasses give ``type_name`` for messages and override ``field`` and ``document``.
    """

    type_name = "Object"

    def field(self, name: str, arguments: list[Any]) -> Any:
        """The value of a field or of a method with arguments.

        Errors: KeyError when there is none of this name.
        """
        raise KeyError(name)

    def document(self) -> Any:
        """What ``json`` makes of it."""
        raise NotImplementedError


class NilList(list["Any"]):
    """A list that is ``null`` in the document: empty for every use, ``null`` again as JSON."""


class NilMap(dict[str, "Any"]):
    """A map that is ``null`` in the document."""


# fields that Go's structures always have although their JSON leaves them out when they are empty
_EMPTY_TEXTS = frozenset(
    (
        "Author",
        "CgroupnsMode",
        "Cgroup",
        "Comment",
        "Container",
        "ContainerIDFile",
        "CreatedAt",
        "DockerVersion",
        "Driver",
        "Error",
        "MacAddress",
        "Name",
        "Parent",
        "Runtime",
        "StopSignal",
        "Variant",
        "OsVersion",
        "VolumeDriver",
    )
)
_EMPTY_NUMBERS = frozenset(("KernelMemory", "KernelMemoryTCP", "StartInterval"))
_NULLS = frozenset(
    (
        "Health",
        "Healthcheck",
        "Init",
        "SizeRootFs",
        "SizeRw",
        "StopTimeout",
        "UsageData",
        "BindOptions",
        "VolumeOptions",
        "TmpfsOptions",
        "Node",
        "ImageManifestDescriptor",
    )
)
# fields that are lists and maps also when the document says null
_LISTS = frozenset(
    (
        "Aliases",
        "Args",
        "Binds",
        "BlkioDeviceReadBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceWriteIOps",
        "BlkioWeightDevice",
        "CapAdd",
        "CapDrop",
        "Cmd",
        "DNSNames",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Devices",
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "Entrypoint",
        "Env",
        "ExecIDs",
        "ExtraHosts",
        "GroupAdd",
        "Layers",
        "Links",
        "Log",
        "MaskedPaths",
        "Mounts",
        "OnBuild",
        "ReadonlyPaths",
        "RepoDigests",
        "RepoTags",
        "SecurityOpt",
        "Shell",
        "Test",
        "Ulimits",
        "VolumesFrom",
        "Warnings",
    )
)
_MAPS = frozenset(
    (
        "Annotations",
        "ExposedPorts",
        "Labels",
        "Networks",
        "Options",
        "PortBindings",
        "Ports",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
        "DriverOpts",
    )
)


def _absent(name: str) -> Any:
    """The empty value of a field that a document left out.  Errors: KeyError for a field that nobody knows."""
    if name in _LISTS:
        return NilList()
    if name in _MAPS:
        return NilMap()
    if name in _NULLS:
        return None
    if name in _EMPTY_TEXTS:
        return ""
    if name in _EMPTY_NUMBERS:
        return 0
    raise KeyError(name)


def child(value: Any, name: str) -> Any:
    """``.name`` of a document.

    A key that begins with a small letter can only be one of a map, where Go gives nothing for a missing one; any other
    stands for a field of a structure, whose absence is an error.

    Errors: TemplateError.
    """
    if isinstance(value, dict):
        found = value.get(name)
        if found is not None:
            return found
        if name in value:
            return NilList() if name in _LISTS else NilMap() if name in _MAPS else None
        try:
            return _absent(name)
        except KeyError:
            if not name[:1].isupper():
                return NO_VALUE
            raise TemplateError(f'map has no entry for key "{name}"') from None
    if value is None or value is NO_VALUE:
        raise TemplateError(f"nil pointer evaluating interface {{}}.{name}")
    raise TemplateError(f"can't evaluate field {name} in type {type_name(value)}")


def type_name(value: Any) -> str:
    """Go's name of a value's type, for messages and ``%T``."""
    if isinstance(value, Object):
        return value.type_name
    if value is None or value is NO_VALUE:
        return "<nil>"
    return {
        bool: "bool",
        int: "int",
        float: "float64",
        str: "string",
        list: "[]interface {}",
        dict: "map[string]interface {}",
    }.get(type(value), type(value).__name__)


def is_true(value: Any) -> bool:
    """Go's truth: not the zero value, not empty."""
    if isinstance(value, Object):
        return True
    return value is not NO_VALUE and bool(value)


def show(value: Any) -> str:
    """As ``%v`` prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        return _show_float(value)
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(show, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, Object):
        return show(value.document())
    return str(value)


def _show_float(value: float) -> str:
    """Shortest form, with an exponent below 1e-4 and from 1e21 on."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        sign, digits = exponent[0] if exponent[0] in "+-" else "+", exponent.lstrip("+-")
        return f"{mantissa.removesuffix('.0')}e{sign}{digits:0>2}"
    return text


def quote(text: str) -> str:
    """As ``%q`` and ``strconv.Quote`` write a text."""
    simple = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b"}
    simple |= {"\f": "\\f", "\v": "\\v"}
    pieces = []
    for character in text:
        if character in simple:
            pieces.append(simple[character])
        elif 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that was not UTF-8
            pieces.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character.isprintable():
            pieces.append(character)
        elif ord(character) < 0x80:
            pieces.append(f"\\x{ord(character):02x}")
        elif ord(character) < 0x10000:
            pieces.append(f"\\u{ord(character):04x}")
        else:
            pieces.append(f"\\U{ord(character):08x}")
    return '"' + "".join(pieces) + '"'
