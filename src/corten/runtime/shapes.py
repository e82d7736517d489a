"""Which types the fields of ``config.json`` have, as data, and the walk that compares.

A shape is a type, a list of one shape ``[shape]``, a map of one shape ``{"*": shape}``, or an object
``{"field": shape, "field!": shape}`` whose fields marked with "!" must be there.  Source: runtime-spec schema/.
"""

from __future__ import annotations

from typing import Any

from corten.errors import InvalidParameter

Shape = type | list[Any] | dict[str, Any]

_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    object: "",
}

_STRINGS = [str]
_MAPPINGS = [{"containerID!": int, "hostID!": int, "size!": int}]
_HOOKS = [{"path!": str, "args": _STRINGS, "env": _STRINGS, "timeout": int}]
_SIZE = {"height": int, "width": int}

PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": _SIZE,
    "user": {
        "uid": int,
        "gid": int,
        "umask": int,
        "additionalGids": [int],
        "username": str,
        "additionalGroups": _STRINGS,
    },
    "args!": _STRINGS,
    "env": _STRINGS,
    "cwd!": str,
    "capabilities": {
        "bounding": _STRINGS,
        "effective": _STRINGS,
        "permitted": _STRINGS,
        "inheritable": _STRINGS,
        "ambient": _STRINGS,
    },
    "rlimits": [{"type!": str, "soft!": int, "hard!": int}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "selinuxLabel": str,
    "oomScoreAdj": int,
    "scheduler": {
        "policy!": str,
        "nice": int,
        "priority": int,
        "flags": _STRINGS,
        "runtime": int,
        "deadline": int,
        "period": int,
    },
    "ioPriority": {"class!": str, "priority": int},
    "execCPUAffinity": {"initial": str, "final": str},
}

MOUNT: dict[str, Any] = {
    "destination!": str,
    "type": str,
    "source": str,
    "options": _STRINGS,
    "uidMappings": _MAPPINGS,
    "gidMappings": _MAPPINGS,
}

_RATES = [{"major!": int, "minor!": int, "rate!": int}]

RESOURCES: dict[str, Any] = {
    "devices": [{"allow!": bool, "type": str, "major": int, "minor": int, "access": str}],
    "memory": {
        "limit": int,
        "reservation": int,
        "swap": int,
        "kernel": int,
        "kernelTCP": int,
        "swappiness": int,
        "disableOOMKiller": bool,
        "useHierarchy": bool,
        "checkBeforeUpdate": bool,
    },
    "cpu": {
        "shares": int,
        "quota": int,
        "burst": int,
        "period": int,
        "realtimeRuntime": int,
        "realtimePeriod": int,
        "cpus": str,
        "mems": str,
        "idle": int,
    },
    "pids": {"limit": int},
    "blockIO": {
        "weight": int,
        "leafWeight": int,
        "weightDevice": [{"major!": int, "minor!": int, "weight": int, "leafWeight": int}],
        "throttleReadBpsDevice": _RATES,
        "throttleWriteBpsDevice": _RATES,
        "throttleReadIOPSDevice": _RATES,
        "throttleWriteIOPSDevice": _RATES,
    },
    "hugepageLimits": [{"pageSize!": str, "limit!": int}],
    "network": {"classID": int, "priorities": [{"name!": str, "priority!": int}]},
    "rdma": {"*": {"hcaHandles": int, "hcaObjects": int}},
    "unified": {"*": str},
}

SPEC: dict[str, Any] = {
    "ociVersion!": str,
    "root!": {"path!": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "process": PROCESS,
    "mounts": [MOUNT],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "annotations": {"*": str},
    "linux": {
        "namespaces": [{"type!": str, "path": str}],
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": {"*": {"secs": int, "nanosecs": int}},
        "devices": [
            {"type!": str, "path!": str, "major": int, "minor": int, "fileMode": int, "uid": int, "gid": int},
        ],
        "cgroupsPath": str,
        "resources": RESOURCES,
        "sysctl": {"*": str},
        "seccomp": {
            "defaultAction!": str,
            "defaultErrnoRet": int,
            "architectures": _STRINGS,
            "flags": _STRINGS,
            "listenerPath": str,
            "listenerMetadata": str,
            "syscalls": [
                {
                    "names!": _STRINGS,
                    "action!": str,
                    "errnoRet": int,
                    "args": [{"index!": int, "value!": int, "valueTwo": int, "op!": str}],
                }
            ],
        },
        "rootfsPropagation": str,
        "maskedPaths": _STRINGS,
        "readonlyPaths": _STRINGS,
        "mountLabel": str,
        "intelRdt": {
            "closID": str,
            "l3CacheSchema": str,
            "memBwSchema": str,
            "schemata": _STRINGS,
            "enableMonitoring": bool,
            "enableCMT": bool,
            "enableMBM": bool,
        },
        "memoryPolicy": {"mode!": str, "nodes": str, "flags": _STRINGS},
        "personality": {"domain!": str, "flags": _STRINGS},
    },
}


def check_shape(value: Any, shape: Shape, path: str = "", *, document: str = "config.json") -> None:
    """Compare a document with a shape; null counts as absent.

    document: what it is called in errors
    Errors: InvalidParameter naming the path of the first field that differs.
    """
    if isinstance(shape, list):
        _check_type(value, list, path, document)
        if isinstance(shape[0], type) and set(map(type, value)) <= {shape[0]}:
            return  # most lists are long and plain
        for index, item in enumerate(value):
            check_shape(item, shape[0], f"{path}[{index}]", document=document)
    elif isinstance(shape, dict):
        _check_type(value, dict, path, document)
        _check_object(value, shape, path, document)
    else:
        _check_type(value, shape, path, document)


def _check_object(value: dict[str, Any], shape: dict[str, Any], path: str, document: str) -> None:
    every = shape.get("*")
    if every is not None:
        for key, item in value.items():
            check_shape(item, every, f"{path}.{key}", document=document)
        return
    for field, inner in shape.items():
        name = field.removesuffix("!")
        item = value.get(name)
        if item is None:
            if name != field:
                raise InvalidParameter(f"{document}: {_below(path, name)} is missing")
        elif type(item) is not inner:
            check_shape(item, inner, _below(path, name), document=document)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_type(value: Any, kind: type, path: str, document: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidParameter(f"{document}: {path or 'the document'} must be {_NAMES[kind]}")
