"""Seccomp: from Docker's profile format to the OCI form, and from the OCI form to classic BPF.

The filter starts with the architecture (amd64 guards its i386 and x32 doors too), then walks a binary tree over ranges of
system call numbers with the same answer.  Numbers above the newest known one get ENOSYS, so that programs fall back.

Sources: seccomp(2); runtime-spec config-linux.md "Seccomp"; moby profiles (format with includes and excludes).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import process as kernel

_PROFILES = Path(__file__).parent / "profiles"

_RET_KILL_PROCESS = 0x80000000
_RET_KILL_THREAD = 0x00000000
_RET_TRAP = 0x00030000
_RET_ERRNO = 0x00050000
_RET_TRACE = 0x7FF00000
_RET_LOG = 0x7FFC0000
_RET_ALLOW = 0x7FFF0000

_LD_ABS = 0x20
_JMP_JA = 0x05
_JMP_JEQ = 0x15
_JMP_JGT = 0x25
_JMP_JGE = 0x35
_ALU_AND = 0x54
_RET = 0x06

_OFFSET_NR = 0
_OFFSET_ARCH = 4
_OFFSET_ARGS = 16

_X32_BIT = 0x40000000
_AUDIT = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7}
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GO_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def default_profile() -> dict[str, Any]:
    """Docker's default profile in Docker's format."""
    profile: dict[str, Any] = json.loads((_PROFILES / "default_seccomp.json").read_text())
    return profile


def _kernel_at_least(text: str) -> bool:
    wanted = tuple(int(part) for part in text.split("."))
    release = os.uname().release.split("-")[0].split(".")
    return tuple(int(part) for part in release[: len(wanted)] if part.isdigit()) >= wanted


def _applies(rule: dict[str, Any], capabilities: set[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if includes.get("caps") and not set(includes["caps"]) <= capabilities:
        return False
    if includes.get("minKernel") and not _kernel_at_least(includes["minKernel"]):
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if set(excludes.get("caps") or ()) & capabilities:
        return False
    return not (excludes.get("minKernel") and _kernel_at_least(excludes["minKernel"]))


def resolve_profile(profile: dict[str, Any], capabilities: list[str]) -> dict[str, Any]:
    """Docker's format -> ``linux.seccomp`` for these capabilities on this machine.

    Errors: InvalidParameter for a malformed profile.
    """
    machine = os.uname().machine
    architecture = _GO_ARCHITECTURE.get(machine, machine)
    held = set(capabilities)
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if profile.get("flags"):
        resolved["flags"] = profile["flags"]
    architectures = list(profile.get("architectures") or ())
    if profile.get("archMap"):
        if architectures:
            raise InvalidParameter("Loading seccomp profile failed: both 'architectures' and 'archMap' are specified")
        for entry in profile["archMap"]:
            if entry["architecture"] == _NATIVE.get(machine):
                architectures = [entry["architecture"], *(entry.get("subArchitectures") or ())]
    resolved["architectures"] = architectures
    resolved["syscalls"] = []
    for rule in profile.get("syscalls") or ():
        if rule.get("name") and rule.get("names"):
            raise InvalidParameter("Loading seccomp profile failed: both 'name' and 'names' are specified")
        if _applies(rule, held, architecture):
            names = rule.get("names") or [rule["name"]]
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
            resolved["syscalls"].append({"names": names, **kept})
    return resolved


# -- compiler --------------------------------------------------------------------------------------------------------


ACTIONS = (
    "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG", "SCMP_ACT_ALLOW",
)  # fmt: skip


def _answer(action: str, errno_ret: int | None) -> int:
    value = errno.EPERM if errno_ret is None else errno_ret
    answers = {
        "SCMP_ACT_KILL": _RET_KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": _RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": _RET_KILL_PROCESS,
        "SCMP_ACT_TRAP": _RET_TRAP,
        "SCMP_ACT_ERRNO": _RET_ERRNO | (value & 0xFFFF),
        "SCMP_ACT_TRACE": _RET_TRACE | (value & 0xFFFF),
        "SCMP_ACT_LOG": _RET_LOG,
        "SCMP_ACT_ALLOW": _RET_ALLOW,
    }
    if action not in answers:
        raise InvalidParameter(f"seccomp action {action} is not supported")
    return answers[action]


def _return(answer: int) -> list[Instruction]:
    return [(_RET, 0, 0, answer)]


def _test_argument(argument: dict[str, Any]) -> list[list[Any]]:
    """Instructions that fall through when the argument matches; "no" marks a jump to the next rule."""
    index, operator = argument["index"], argument["op"]
    if operator not in OPERATORS or not 0 <= index <= 5:
        raise InvalidParameter(f"invalid seccomp argument: {json.dumps(argument)}")
    value = argument["value"] & 0xFFFFFFFFFFFFFFFF
    second = (argument.get("valueTwo") or 0) & 0xFFFFFFFFFFFFFFFF
    low, high = _OFFSET_ARGS + 8 * index, _OFFSET_ARGS + 8 * index + 4
    value_low, value_high = value & 0xFFFFFFFF, value >> 32
    load_low, load_high = [_LD_ABS, 0, 0, low], [_LD_ABS, 0, 0, high]
    if operator == "SCMP_CMP_MASKED_EQ":
        return [
            load_high, [_ALU_AND, 0, 0, value_high], [_JMP_JEQ, 0, "no", second >> 32],
            load_low, [_ALU_AND, 0, 0, value_low], [_JMP_JEQ, 0, "no", second & 0xFFFFFFFF],
        ]  # fmt: skip
    if operator == "SCMP_CMP_EQ":
        return [load_high, [_JMP_JEQ, 0, "no", value_high], load_low, [_JMP_JEQ, 0, "no", value_low]]
    if operator == "SCMP_CMP_NE":
        return [load_high, [_JMP_JEQ, 0, 2, value_high], load_low, [_JMP_JEQ, "no", 0, value_low]]
    # ordered comparisons: the high word decides unless it is equal
    decided = {
        "SCMP_CMP_GT": ([_JMP_JGT, 3, 0, value_high], [_JMP_JGT, 0, "no", value_low]),
        "SCMP_CMP_GE": ([_JMP_JGT, 3, 0, value_high], [_JMP_JGE, 0, "no", value_low]),
        "SCMP_CMP_LT": ([_JMP_JGE, 0, 4, value_high], [_JMP_JGE, "no", 0, value_low]),
        "SCMP_CMP_LE": ([_JMP_JGE, 0, 4, value_high], [_JMP_JGT, "no", 0, value_low]),
    }
    first, last = decided[operator]
    if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        return [load_high, first, [_JMP_JEQ, 0, "no", value_high], load_low, last]
    return [load_high, [_JMP_JGE, 0, 3, value_high], [_JMP_JEQ, 0, "no", value_high], load_low, last]


def _conditional(rules: list[tuple[list[dict[str, Any]], int]], otherwise: int) -> list[Instruction]:
    """Try each rule's arguments in turn."""
    code: list[Instruction] = []
    for arguments, answer in rules:
        draft = [instruction for argument in arguments for instruction in _test_argument(argument)]
        draft.append([_RET, 0, 0, answer])
        for position, (operation, if_true, if_false, constant) in enumerate(draft):
            distance = len(draft) - position - 1
            code.append(
                (operation, distance if if_true == "no" else if_true, distance if if_false == "no" else if_false, constant)
            )
    return code + _return(otherwise)


def _tree(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Binary search: (first number, code) sorted by number."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    boundary = ranges[middle][0]
    if len(left) <= 255:
        return [(_JMP_JGE, len(left), 0, boundary), *left, *right]
    return [(_JMP_JGE, 0, 1, boundary), (_JMP_JA, 0, 0, len(left)), *left, *right]


def _section(seccomp: dict[str, Any], numbers: dict[str, int], offset: int) -> list[Instruction]:
    """The decision tree of one architecture."""
    default = _answer(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    fixed: dict[int, int] = {}
    conditional: dict[int, list[tuple[list[dict[str, Any]], int]]] = {}
    for rule in seccomp.get("syscalls") or ():
        answer = _answer(rule["action"], rule.get("errnoRet"))
        for name in rule["names"]:
            number = numbers.get(name)
            if number is None:
                continue  # not a system call of this architecture
            if rule.get("args"):
                conditional.setdefault(number, []).append((rule["args"], answer))
            else:
                fixed.setdefault(number, answer)
    newest = max(numbers.values())
    beyond = _RET_ERRNO | errno.ENOSYS if default & 0xFFFF0000 == _RET_ERRNO else default
    ranges: list[tuple[int, list[Instruction]]] = []
    for number in range(newest + 1):
        if number in conditional:
            code = _conditional(conditional[number], fixed.get(number, default))
        else:
            code = _return(fixed.get(number, default))
        if not ranges or ranges[-1][1] != code:
            ranges.append((number + offset, code))
    ranges.append((newest + 1 + offset, _return(beyond)))
    return [(_LD_ABS, 0, 0, _OFFSET_NR), *_tree(ranges)]


def compile_filter(seccomp: dict[str, Any]) -> bytes:
    """``linux.seccomp`` -> BPF program.

    Errors: InvalidParameter for an unknown action, operator or architecture.
    """
    tables: dict[str, dict[str, int]] = json.loads((_PROFILES / "syscalls.json").read_text())
    native = os.uname().machine
    names = {ARCHITECTURES[name] for name in seccomp.get("architectures") or () if name in ARCHITECTURES}
    names.add(native)
    code: list[Instruction] = [(_LD_ABS, 0, 0, _OFFSET_ARCH)]
    if native == "x86_64":
        wide = _section(seccomp, tables["x86_64"], 0)
        x32 = _section(seccomp, tables["x32"], _X32_BIT) if "x32" in names else _return(_RET_KILL_PROCESS)
        split = [(_LD_ABS, 0, 0, _OFFSET_NR), (_JMP_JGE, 0, 1, _X32_BIT), (_JMP_JA, 0, 0, len(wide)), *wide, *x32]
        sections = [("x86_64", split)]
        if "x86" in names:
            sections.append(("x86", _section(seccomp, tables["x86"], 0)))
    else:
        sections = [(native, _section(seccomp, tables[native], 0))]
    for architecture, section in sections:
        code += [(_JMP_JEQ, 1, 0, _AUDIT[architecture]), (_JMP_JA, 0, 0, len(section)), *section]
    # a door that the profile does not know stays shut
    code += _return(_RET_KILL_PROCESS)
    if len(code) > 4096:
        raise InvalidParameter(f"the seccomp profile compiles to {len(code)} instructions, the kernel takes 4096")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def filter_flags(seccomp: dict[str, Any]) -> int:
    flags = 0
    for name in seccomp.get("flags") or ():
        if name not in _FLAGS:
            raise InvalidParameter(f"seccomp flag {name} is not supported")
        flags |= _FLAGS[name]
    return flags & ~_FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]  # one thread only: nothing to synchronise


_memory: dict[str, bytes] = {}


def compiled(seccomp: dict[str, Any], cache: str) -> bytes:
    """The program of a profile, from memory, from the directory ``cache``, or compiled now and kept in both."""
    key = hashlib.sha256(json.dumps([2, os.uname().machine, seccomp], sort_keys=True).encode()).hexdigest()
    if key in _memory:
        return _memory[key]
    file = f"{cache}/{key}.bpf" if cache else ""
    if file:
        try:
            with open(file, "rb") as stored:
                program = stored.read()
            if program and len(program) % 8 == 0:
                _memory[key] = program
                return program
        except OSError:
            pass  # not compiled yet
    program = _memory[key] = compile_filter(seccomp)
    if file:
        _keep(cache, file, program)
    return program


def _keep(cache: str, file: str, program: bytes) -> None:
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        temporary = f"{file}.{os.getpid()}"
        with open(temporary, "wb") as stored:
            stored.write(program)
        os.replace(temporary, file)
    except OSError:
        pass  # a cache that cannot be written costs time only


def install(program: bytes, flags: int) -> None:
    kernel.seccomp_filter(program, flags)
