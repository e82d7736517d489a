"""What is refused of a config.json, and by which name."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from corten.errors import InvalidParameter
from corten.linux import selinux
from corten.runtime import labels, spec_check
from corten.runtime.defaults import default_spec

DELETE = object()


@pytest.fixture(autouse=True)
def plain_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without mandatory access control."""
    monkeypatch.setattr(selinux, "is_enabled", lambda: False)
    monkeypatch.setattr(labels, "has_apparmor", lambda: False)


def changed(path: str, value: Any) -> dict[str, Any]:
    """A valid specification with one field set ("a.b[0].c"), appended to ("a.b[+]") or deleted."""
    spec = copy.deepcopy(default_spec())
    place: Any = spec
    parts = path.replace("[", ".[").split(".")
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        key: Any = part
        if part.startswith("["):
            if part == "[+]":
                place.append({} if following else None)
            key = -1 if part == "[+]" else int(part[1:-1])
        if following is None:
            if value is DELETE:
                del place[key]
            else:
                place[key] = value
        else:
            if isinstance(place, dict):
                place.setdefault(key, [] if following.startswith("[") else {})
            place = place[key]
    return spec


def test_the_default_specification_is_valid() -> None:
    spec_check.check(default_spec())


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("ociVersion", DELETE, "ociVersion is missing"),
        ("ociVersion", "2.0.0", "ociVersion: 2.0.0 is not supported"),
        ("ociVersion", 1, "ociVersion must be a string"),
        ("root", DELETE, "root is missing"),
        ("root.path", DELETE, "root.path is missing"),
        ("root.path", "", "root.path: must not be empty"),
        ("root.readonly", "yes", "root.readonly must be true or false"),
        ("process", [], "process must be an object"),
        ("process.args", DELETE, "process.args is missing"),
        ("process.args", [], "process.args: must be a list of strings that is not empty"),
        ("process.args", ["sh", 1], r"process.args\[1\] must be a string"),
        ("process.args", ["s\0h"], "process.args"),
        ("process.cwd", DELETE, "process.cwd is missing"),
        ("process.cwd", "tmp", "process.cwd: 'tmp' is not an absolute path"),
        ("process.env", ["A=b", "novalue"], r"process.env\[1\]: invalid environment variable 'novalue'"),
        ("process.env", ["=b"], r"process.env\[0\]"),
        ("process.user.uid", True, "process.user.uid must be a whole number"),
        ("process.user.uid", 2**31, "uids and gids must be in range"),
        ("process.user.umask", 0o1000, "process.user.umask: 512 is out of range"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj: must lie between"),
        (
            "process.rlimits",
            [{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}],
            r"process.rlimits\[0\].type: unknown limit",
        ),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "soft limit 2 is above hard limit 1"),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1}], r"process.rlimits\[0\].hard is missing"),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2, "'RLIMIT_CORE' is listed twice"),
        ("process.capabilities.bounding", "CAP_KILL", "process.capabilities.bounding must be a list"),
        ("process.scheduler.policy", "SCHED_BEST", "process.scheduler.policy: unknown value 'SCHED_BEST'"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_X"}, "process.ioPriority.class: unknown value"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority"),
        ("process.selinuxLabel", "a:b:c:d", "process.selinuxLabel 'a:b:c:d': SELinux is not enabled"),
        ("process.apparmorProfile", "mine", "process.apparmorProfile 'mine': AppArmor is not enabled"),
        ("linux.mountLabel", "a:b:c:d", "linux.mountLabel 'a:b:c:d': SELinux is not enabled"),
        ("mounts", {}, "mounts must be a list"),
        ("mounts[+]", {"type": "tmpfs"}, r"mounts\[7\].destination is missing"),
        ("mounts[+]", {"destination": "/x"}, r"mounts\[7\].type: is missing"),
        ("mounts[+]", {"destination": "/x", "options": ["rbind"]}, r"mounts\[7\].source: a bind mount needs one"),
        (
            "mounts[+]",
            {"destination": "/x", "type": "tmpfs", "options": [1]},
            r"mounts\[7\].options\[0\] must be a string",
        ),
        (
            "mounts[+]",
            {
                "destination": "/x",
                "type": "bind",
                "source": "/",
                "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
            },
            "uidMappings and gidMappings go together",
        ),
        ("hooks.nosuch", [{"path": "/x"}], "'nosuch' is not a hook"),
        ("hooks.prestart", [{"path": "x"}], "path must be absolute"),
        ("hooks.prestart", [{"args": ["x"]}], r"hooks.prestart\[0\].path is missing"),
        ("hooks.poststop", [{"path": "/x", "timeout": 0}], "timeout must be greater than zero"),
        ("annotations", {"a": 1}, "annotations.a must be a string"),
        ("linux.namespaces[+]", {"type": "planet"}, r"linux.namespaces\[6\].type: 'planet' is not a namespace"),
        ("linux.namespaces[+]", {"type": "pid"}, "'pid' is listed twice"),
        ("linux.namespaces[+]", {"type": "time", "path": "x"}, "'x' is not an absolute path"),
        ("linux.namespaces", [], "a container needs a mount namespace"),
        (
            "linux.namespaces",
            [{"type": "mount", "path": "/proc/self/ns/mnt"}],
            "own mount namespace cannot be a container's",
        ),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "mappings need a user namespace"),
        ("linux.timeOffsets", {"boottime": {"secs": 1}}, "linux.timeOffsets: needs a new time namespace"),
        (
            "linux.sysctl",
            {"kernel.core_pattern": "|/x"},
            "'kernel.core_pattern': is not in a separate kernel namespace",
        ),
        ("linux.sysctl", {"kernel.shmmax": "1\nkernel.core_pattern=x"}, "is malformed"),
        ("linux.sysctl", {"net/ipv4/../../kernel/core_pattern": "x"}, "is malformed"),
        ("linux.sysctl", {"net": "x"}, "not in a separate"),
        ("linux.sysctl", {"net.ipv4.ip_forward": 1}, "must be a string"),
        ("linux.sysctl", {"kernel/msgmax/x": "1"}, "not in a separate"),
        ("linux.sysctl", {"vm.swappiness": "1"}, "not in a separate"),
        ("linux.rootfsPropagation", "open", "linux.rootfsPropagation: 'open' is not a propagation"),
        ("linux.maskedPaths", ["proc/kcore"], r"linux.maskedPaths\[0\]: 'proc/kcore' is not an absolute path"),
        ("linux.readonlyPaths", ["x"], r"linux.readonlyPaths\[0\]"),
        (
            "linux.devices",
            [{"type": "x", "path": "/dev/a", "major": 1, "minor": 1}],
            r"linux.devices\[0\].type: unknown type 'x'",
        ),
        ("linux.devices", [{"type": "c", "path": "/dev/a"}], "major and minor are needed"),
        ("linux.devices", [{"type": "p", "path": "dev/a"}], "is not an absolute path of a file"),
        ("linux.intelRdt", {"closID": "a/b"}, "linux.intelRdt.closID: 'a/b' cannot be the name of a class"),
        ("linux.intelRdt", {"closID": ".."}, "linux.intelRdt.closID"),
        ("linux.intelRdt", {"closID": "mon_groups"}, "linux.intelRdt.closID"),
        ("linux.intelRdt", {"closID": 1}, "linux.intelRdt.closID must be a string"),
        ("linux.intelRdt", {"memBwSchema": "L3:0=1"}, "linux.intelRdt.memBwSchema: 'L3:0=1' is no line"),
        ("linux.intelRdt", {"memBwSchema": "MB:0=1\nL3:0=1"}, "linux.intelRdt.memBwSchema"),
        ("linux.intelRdt", {"schemata": ["L3:0=1\nL2:0=1"]}, r"linux.intelRdt.schemata\[0\]"),
        ("linux.intelRdt", {"enableMonitoring": 1}, "linux.intelRdt.enableMonitoring must be true or false"),
        ("linux.netDevices", {"eth0": {}}, "linux.netDevices: moving network devices is not supported"),
        ("linux.personality.domain", "BSD", "linux.personality.domain: unknown value 'BSD'"),
        ("linux.personality", {"domain": "LINUX", "flags": ["X"]}, "linux.personality.flags"),
        ("linux.memoryPolicy", {"mode": "MPOL_X"}, "linux.memoryPolicy.mode"),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "3-1"}, "linux.memoryPolicy.nodes: invalid list '3-1'"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOPE"}, "seccomp action SCMP_ACT_NOPE is not supported"),
        ("linux.seccomp", {"syscalls": []}, "linux.seccomp.defaultAction is missing"),
        ("linux.resources.memory.limit", "1g", "linux.resources.memory.limit must be a whole number"),
        ("linux.resources.unified", {"memory.max": 1}, "linux.resources.unified.memory.max must be a string"),
        ("hostname", "x" * 65, "hostname: is longer than 64 characters"),
        ("vm", {"kernel": {}}, "vm: virtual machines are not supported"),
        ("windows", {"layerFolders": []}, "windows: this is a Linux runtime"),
    ],
)
def test_refusals_name_the_field(path: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        spec_check.check(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("process.user", None),
        ("process.env", None),
        ("linux.resources", None),
        ("x-vendor", {"any": "thing"}),
        ("linux.newField", 1),
        ("mounts[+]", {"destination": "relative", "type": "tmpfs"}),
        ("linux.sysctl", {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/rp_filter": "1", "kernel.shmmax": "1"}),
        ("linux.sysctl", {"fs.mqueue.msg_max": "1", "kernel.domainname": "x"}),
        ("process.apparmorProfile", "unconfined"),
        ("linux.namespaces[+]", {"type": "time"}),
        ("process.execCPUAffinity", {"initial": "0", "final": "0-1"}),
    ],
)
def test_what_is_fine(path: str, value: Any) -> None:
    spec_check.check(changed(path, value))


def test_sysctls_of_namespaces_that_are_shared() -> None:
    for kind, name in (("network", "net.ipv4.ip_forward"), ("ipc", "kernel.sem"), ("ipc", "fs.mqueue.msg_max")):
        spec = changed("linux.sysctl", {name: "1"})
        spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != kind]
        with pytest.raises(InvalidParameter, match=f"not allowed in the host's {kind} namespace"):
            spec_check.check(spec)
        # a path that leads to our own is no better
        file = {"network": "net", "ipc": "ipc"}[kind]
        spec["linux"]["namespaces"].append({"type": kind, "path": f"/proc/self/ns/{file}"})
        with pytest.raises(InvalidParameter, match=f"not allowed in the host's {kind} namespace"):
            spec_check.check(spec)


def test_names_need_a_namespace_of_their_own() -> None:
    spec = default_spec()
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "uts"]
    with pytest.raises(InvalidParameter, match="hostname: needs a uts namespace"):
        spec_check.check(spec)


@pytest.mark.parametrize("document", [None, [], "x", 1])
def test_no_object_at_all(document: Any) -> None:
    with pytest.raises(InvalidParameter, match="the document must be an object"):
        spec_check.check(document)


def test_process_of_an_exec() -> None:
    process = default_spec()["process"]
    spec_check.check_process(process)
    with pytest.raises(InvalidParameter, match=r"process.args\[0\] must be a string"):
        spec_check.check_process({**process, "args": [None]})


def test_resources_of_an_update() -> None:
    spec_check.check_resources({"memory": {"limit": 1 << 20}})
    with pytest.raises(InvalidParameter, match=r"linux\.resources\.pids\.limit must be a whole number"):
        spec_check.check_resources({"pids": {"limit": "many"}})
