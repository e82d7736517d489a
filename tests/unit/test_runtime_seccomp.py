"""The seccomp compiler: its programs are run in a BPF machine and compared with what the profiles say."""

from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import bpf
import pytest

from corten.errors import InvalidParameter
from corten.runtime import seccomp, seccomp_profile

TABLES: dict[str, dict[str, int]] = json.loads((Path(seccomp.__file__).parent / "profiles/syscalls.json").read_text())
AMD64 = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
ARM64 = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
MACHINES = [("x86_64", "x86_64"), ("x86_64", "x86"), ("x86_64", "x32"), ("aarch64", "aarch64"), ("aarch64", "arm")]
DOCKERS = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
        "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
]  # fmt: skip
DENIED = bpf.ERRNO | errno.EPERM


class Machine:
    """uname of another machine."""

    def __init__(self, machine: str, release: str = "6.1.0-13-amd64") -> None:
        self.machine = machine
        self.release = release


def dockers(monkeypatch: pytest.MonkeyPatch, machine: str, capabilities: list[str]) -> dict[str, Any]:
    monkeypatch.setattr(os, "uname", lambda: Machine(machine))
    return seccomp_profile.resolve_profile(seccomp_profile.default_profile(), capabilities)


@pytest.mark.parametrize(("native", "architecture"), MACHINES)
def test_dockers_profile_decides_every_call_as_it_says(
    monkeypatch: pytest.MonkeyPatch, native: str, architecture: str
) -> None:
    profile = dockers(monkeypatch, native, DOCKERS)
    program = seccomp.compile_filter(profile)
    assert len(program) // 8 <= 4096
    samples = [
        (0, 0, 0, 0, 0, 0),
        (38, 0, 0, 0, 0, 0),
        (39,) * 6,
        (40,) * 6,
        (41,) * 6,
        (0x7E020000,) * 6,
        (0x20000,) * 6,
    ]
    samples += [(0xFFFFFFFF,) * 6, (8,) * 6, (1 << 32,) * 6, (0x10000000,) * 6]
    for name, number in TABLES[architecture].items():
        for arguments in samples:
            wanted = bpf.expected(profile, name, arguments)
            if number >= 0xF0000 and wanted == DENIED:
                wanted = bpf.ERRNO | errno.ENOSYS  # ARM's private calls lie beyond all others
            assert bpf.decide(program, architecture, number, *arguments) == wanted, (name, arguments)


@pytest.mark.parametrize(("native", "architecture"), MACHINES)
def test_numbers_that_nobody_knows_are_not_implemented(
    monkeypatch: pytest.MonkeyPatch, native: str, architecture: str
) -> None:
    program = seccomp.compile_filter(dockers(monkeypatch, native, DOCKERS))
    newest = max(number for number in TABLES[architecture].values() if number < 0xF0000)
    for number in (newest + 1, newest + 2, 1000, 0x3FFFFFF):
        assert bpf.decide(program, architecture, number) == bpf.ERRNO | errno.ENOSYS
    gap = next(number for number in range(newest) if number not in TABLES[architecture].values())
    assert bpf.decide(program, architecture, gap) == DENIED


def test_architectures_that_the_profile_does_not_name_are_shut() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}
    program = seccomp.compile_filter(profile, "x86_64")
    assert bpf.decide(program, "x86_64", 0) == bpf.ALLOW
    assert bpf.decide(program, "x86", 3) == bpf.KILL_PROCESS
    assert bpf.decide(program, "x32", 0) == bpf.KILL_PROCESS
    assert bpf.decide(program, "aarch64", 0) == bpf.KILL_PROCESS


@pytest.mark.parametrize(
    "name",
    [
        "mount", "umount2", "pivot_root", "setns", "unshare", "bpf", "perf_event_open", "add_key", "keyctl",
        "request_key",
        "userfaultfd",
        "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load", "kexec_file_load",
        "init_module", "finit_module", "delete_module", "open_by_handle_at", "fsopen", "fsmount", "move_mount",
        "open_tree",
        "mount_setattr", "swapon", "reboot", "acct", "quotactl", "settimeofday", "clock_settime", "sethostname", "iopl",
        "ioperm", "get_mempolicy", "mbind", "move_pages", "kcmp", "pidfd_getfd", "process_madvise", "lookup_dcookie",
        "fanotify_init", "syslog", "vhangup",
    ],
)  # fmt: skip
def test_dangerous_calls_are_denied_through_every_door(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    program = seccomp.compile_filter(dockers(monkeypatch, "x86_64", DOCKERS))
    for architecture in ("x86_64", "x86", "x32"):
        if name in TABLES[architecture]:
            assert bpf.decide(program, architecture, TABLES[architecture][name]) == DENIED


def test_clone_may_not_make_namespaces_and_clone3_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = TABLES["x86_64"]
    program = seccomp.compile_filter(dockers(monkeypatch, "x86_64", DOCKERS))
    assert bpf.decide(program, "x86_64", numbers["clone"], 0x1200011) == bpf.ALLOW
    for flag in (0x10000000, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000):
        assert bpf.decide(program, "x86_64", numbers["clone"], flag | 17) == DENIED
    assert bpf.decide(program, "x86_64", numbers["clone3"]) == bpf.ERRNO | errno.ENOSYS
    free = seccomp.compile_filter(dockers(monkeypatch, "x86_64", [*DOCKERS, "CAP_SYS_ADMIN"]))
    assert bpf.decide(free, "x86_64", numbers["clone"], 0x10000000) == bpf.ALLOW
    assert bpf.decide(free, "x86_64", numbers["clone3"]) == bpf.ALLOW
    assert bpf.decide(free, "x86_64", numbers["mount"]) == bpf.ALLOW


@pytest.mark.parametrize(
    ("family", "allowed"), [(1, True), (2, True), (37, True), (38, False), (39, True), (40, False), (41, True)]
)
def test_socket_families(monkeypatch: pytest.MonkeyPatch, family: int, allowed: bool) -> None:
    program = seccomp.compile_filter(dockers(monkeypatch, "x86_64", DOCKERS))
    for architecture in ("x86_64", "x86", "x32"):
        decided = bpf.decide(program, architecture, TABLES[architecture]["socket"], family, 1, 0)
        assert decided == (bpf.ALLOW if allowed else DENIED)


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ],
)
def test_capabilities_unlock_calls(monkeypatch: pytest.MonkeyPatch, capability: str, name: str) -> None:
    number = TABLES["x86_64"][name]
    without = seccomp.compile_filter(dockers(monkeypatch, "x86_64", DOCKERS))
    having = seccomp.compile_filter(dockers(monkeypatch, "x86_64", [*DOCKERS, capability]))
    assert bpf.decide(without, "x86_64", number) == DENIED
    assert bpf.decide(having, "x86_64", number) == bpf.ALLOW


INTERESTING = [
    0,
    1,
    5,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 32,
    (5 << 32) | 5,
    (5 << 32) | 6,
    (6 << 32) | 4,
    2**64 - 1,
]


@pytest.mark.parametrize("operator", seccomp.OPERATORS)
def test_operators_compare_64_bits(operator: str) -> None:
    for value, second in itertools.product(INTERESTING, (0, 5)):
        argument = {"index": 2, "op": operator, "value": value, "valueTwo": second}
        profile = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [argument]}],
        }
        program = seccomp.compile_filter(profile, "x86_64")
        for given in INTERESTING:
            arguments = (99, 99, given, 99, 99, 99)
            assert bpf.decide(program, "x86_64", 0, *arguments) == bpf.expected(profile, "read", arguments), (
                value,
                given,
            )


def rule(action: str, *args: tuple[int, str, int], names: str = "read", **fields: Any) -> dict[str, Any]:
    conditions = [{"index": index, "op": f"SCMP_CMP_{op}", "value": value} for index, op, value in args]
    return {"names": [names], "action": f"SCMP_ACT_{action}", **({"args": conditions} if conditions else {}), **fields}


def decide_read(rules: list[dict[str, Any]], *arguments: int, default: str = "SCMP_ACT_ERRNO") -> int:
    program = seccomp.compile_filter({"defaultAction": default, "syscalls": rules}, "x86_64")
    return bpf.decide(program, "x86_64", 0, *arguments)


def test_arguments_of_a_rule_must_all_match() -> None:
    rules = [rule("ALLOW", (0, "EQ", 1), (1, "EQ", 2))]
    assert decide_read(rules, 1, 2) == bpf.ALLOW
    assert decide_read(rules, 1, 3) == DENIED
    assert decide_read(rules, 0, 2) == DENIED


def test_conditions_on_one_argument_are_alternatives() -> None:
    rules = [rule("ALLOW", (0, "EQ", 1), (0, "EQ", 2))]
    assert decide_read(rules, 1) == decide_read(rules, 2) == bpf.ALLOW
    assert decide_read(rules, 3) == DENIED


def test_a_rule_without_arguments_stands_above_those_with() -> None:
    for rules in (
        [rule("ALLOW", (0, "EQ", 1)), rule("TRAP")],
        [rule("TRAP"), rule("ALLOW", (0, "EQ", 1))],
    ):
        assert decide_read(rules, 1) == bpf.TRAP


def test_a_rule_that_says_what_is_so_anyway_overrules_nothing() -> None:
    assert decide_read([rule("ALLOW", (0, "EQ", 1)), rule("ERRNO")], 1) == bpf.ALLOW


@pytest.mark.parametrize(
    ("action", "errno_ret", "wanted"),
    [
        ("KILL", None, bpf.KILL_THREAD),
        ("KILL_THREAD", None, bpf.KILL_THREAD),
        ("KILL_PROCESS", None, bpf.KILL_PROCESS),
        ("TRAP", None, bpf.TRAP),
        ("ERRNO", None, DENIED),
        ("ERRNO", 38, bpf.ERRNO | 38),
        ("ERRNO", 0, bpf.ERRNO),
        ("TRACE", 7, bpf.TRACE | 7),
        ("LOG", None, bpf.LOG),
    ],
)
def test_actions(action: str, errno_ret: int | None, wanted: int) -> None:
    fields = {} if errno_ret is None else {"errnoRet": errno_ret}
    assert decide_read([rule(action, **fields)], default="SCMP_ACT_ALLOW") == wanted


@pytest.mark.parametrize(
    ("default", "wanted"),
    [
        ("SCMP_ACT_ALLOW", bpf.ALLOW),
        ("SCMP_ACT_LOG", bpf.LOG),
        ("SCMP_ACT_KILL_PROCESS", bpf.ERRNO | errno.ENOSYS),
        ("SCMP_ACT_TRAP", bpf.ERRNO | errno.ENOSYS),
    ],
)
def test_unknown_numbers_where_the_default_refuses(default: str, wanted: int) -> None:
    program = seccomp.compile_filter({"defaultAction": default, "syscalls": []}, "x86_64")
    assert bpf.decide(program, "x86_64", 5000) == wanted


def test_names_of_other_architectures_are_passed_over() -> None:
    assert (
        decide_read([{"names": ["read", "s390_runtime_instr", "nosuchcall"], "action": "SCMP_ACT_ALLOW"}]) == bpf.ALLOW
    )


def test_common_calls_are_decided_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    import struct

    program = seccomp.compile_filter(dockers(monkeypatch, "x86_64", DOCKERS))
    for number in TABLES["x86_64"].values():
        _, steps = bpf.execute(program, struct.pack("<IIQ6Q", number, bpf.ARCHITECTURES["x86_64"], 0, *[0] * 6))
        assert steps <= 40


def test_includes_and_excludes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: Machine("x86_64", "4.19.0"))

    def names(**conditions: Any) -> list[str]:
        profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{**rule("ALLOW"), **conditions}]}
        resolved = seccomp_profile.resolve_profile(profile, ["CAP_A", "CAP_B"])
        return [name for item in resolved["syscalls"] for name in item["names"]]

    assert names(includes={"caps": ["CAP_A", "CAP_B"]}) == ["read"]
    assert names(includes={"caps": ["CAP_A", "CAP_C"]}) == []
    assert names(excludes={"caps": ["CAP_C"]}) == ["read"]
    assert names(excludes={"caps": ["CAP_A"]}) == []
    assert names(includes={"arches": ["amd64"]}) == ["read"]
    assert names(includes={"arches": ["arm64"]}) == []
    assert names(excludes={"arches": ["amd64"]}) == []
    assert names(includes={"minKernel": "4.8"}) == ["read"]
    assert names(includes={"minKernel": "4.19"}) == ["read"]
    assert names(includes={"minKernel": "4.20"}) == []
    assert names(includes={"minKernel": "5.0"}) == []
    assert names(excludes={"minKernel": "4.19"}) == []


def test_profiles_of_the_older_form() -> None:
    old = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "read", "action": "SCMP_ACT_KILL"}]}
    seccomp_profile.check(old)
    assert seccomp_profile.resolve_profile(old, [])["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_KILL"}]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ([], "seccomp profile: the document must be an object"),
        ({}, "defaultAction is missing"),
        ({"syscalls": "x"}, "defaultAction is missing"),
        ({"defaultAction": ""}, "seccomp action  is not supported"),
        ({"defaultAction": 1}, "defaultAction must be a string"),
        ({"syscalls": "x"}, "syscalls must be a list"),
        ({"syscalls": [{"names": ["read"]}]}, r"syscalls\[0\].action is missing"),
        ({"syscalls": [{"names": "read", "action": "SCMP_ACT_KILL"}]}, r"syscalls\[0\].names must be a list"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_MAYBE"}]}, "SCMP_ACT_MAYBE is not supported"),
        ({"syscalls": [{"name": "read", "names": ["x"], "action": "SCMP_ACT_KILL"}]}, "both 'name' and 'names'"),
        ({"syscalls": [{"action": "SCMP_ACT_KILL", "includes": {"minKernel": "x"}}]}, "invalid minKernel 'x'"),
        ({"syscalls": [{"action": "SCMP_ACT_KILL", "excludes": {"caps": "x"}}]}, "excludes.caps must be a list"),
        (
            {"syscalls": [{**rule("KILL", (0, "EQ", -1)), "excludes": {"arches": ["s390"]}}]},
            r"syscalls\[0\].args: .*-1",
        ),
        ({"syscalls": [rule("KILL", (0, "EQ", 1 << 64))]}, r"syscalls\[0\].args"),
        ({"syscalls": [{**rule("ERRNO"), "errnoRet": -1}]}, r"syscalls\[0\].errnoRet: -1"),
        ({"architectures": ["SCMP_ARCH_X68"]}, "seccomp profile: architectures: unknown architecture 'SCMP_ARCH_X68'"),
        ({"archMap": [{"architecture": "SCMP_ARCH_X68"}]}, "unknown architecture 'SCMP_ARCH_X68'"),
        (
            {"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]},
            "both 'architectures'",
        ),
    ],
)
def test_profiles_that_are_wrong_are_refused_before_a_start(profile: Any, text: str) -> None:
    if isinstance(profile, dict) and text != "defaultAction is missing":
        profile = {"defaultAction": "SCMP_ACT_ALLOW", **profile}
    with pytest.raises(InvalidParameter, match=text):
        seccomp_profile.check(profile)


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY cannot be the default"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NOPE"]}, "FLAG_NOPE is not supported"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, "there is no listenerPath"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]}, "unknown architecture 'amd64'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X68"]}, "architecture 'SCMP_ARCH_X68'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 70000}, "linux.seccomp.defaultErrnoRet: 70000"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("KILL", (6, "EQ", 0))]},
            r"linux.seccomp.syscalls\[0\].args",
        ),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("KILL", (0, "LIKE", 0))]},
            r"linux.seccomp.syscalls\[0\].args",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(profile: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        seccomp.check(profile)


def test_programs_are_kept_on_disk_and_damaged_ones_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_memory", {})
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("ALLOW")]}
    program = seccomp.compiled(profile, str(tmp_path / "cache"))
    (stored,) = (tmp_path / "cache").iterdir()

    def compiles(*_: Any) -> bytes:
        raise AssertionError("compiled again")

    with monkeypatch.context() as patched:
        patched.setattr(seccomp, "compile_filter", compiles)
        assert seccomp.compiled(profile, "") == program  # from memory
        patched.setattr(seccomp, "_memory", {})
        assert seccomp.compiled(profile, str(tmp_path / "cache")) == program  # from the disk
    whole = stored.read_bytes()
    for damaged in (b"", whole[:-8], whole[:40] + b"\0" * 8 + whole[48:]):
        stored.write_bytes(damaged)
        monkeypatch.setattr(seccomp, "_memory", {})
        assert seccomp.compiled(profile, str(tmp_path / "cache")) == program
        assert stored.read_bytes() == whole


def test_tables_have_what_every_kernel_has() -> None:
    assert TABLES["x86_64"]["execve"] == 59
    assert TABLES["x86"]["socketcall"] == 102
    assert TABLES["x32"]["execve"] == 520
    assert TABLES["aarch64"]["openat"] == 56
    assert TABLES["arm"]["set_tls"] == 0xF0005
    for table in TABLES.values():
        assert table["openat2"] == 437
        assert table["mseal"] == 462


def test_dockers_profile_is_complete() -> None:
    seccomp_profile.check(seccomp_profile.default_profile())
    profile = seccomp_profile.default_profile()
    unconditional = next(entry for entry in profile["syscalls"] if "read" in entry["names"])
    assert len(unconditional["names"]) == 361
    assert profile["defaultErrnoRet"] == 1
