"""A classic BPF machine for seccomp programs, and the decision that a profile means, worked out the slow way."""

from __future__ import annotations

import errno
import struct
from typing import Any

LOAD, JA, JEQ, JGT, JGE, AND, RET = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06

ARCHITECTURES = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
X32_BIT = 0x40000000

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW = (
    0x80000000, 0x00000000, 0x00030000, 0x00050000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000,
)  # fmt: skip


def execute(program: bytes, data: bytes) -> tuple[int, int]:
    """(answer, instructions that it took) for one ``struct seccomp_data``."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, position, steps = 0, 0, 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        steps += 1
        if code == RET:
            return constant, steps
        if code == LOAD:
            assert constant % 4 == 0
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == AND:
            accumulator &= constant
        elif code == JA:
            position += constant
        else:
            taken = {
                JEQ: accumulator == constant,
                JGT: accumulator > constant,
                JGE: accumulator >= constant,
            }[code]
            position += if_true if taken else if_false


def decide(program: bytes, architecture: str, number: int, *arguments: int) -> int:
    if architecture == "x32":
        number |= X32_BIT
    values = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, *[0] * (6 - len(arguments)))]
    return execute(program, struct.pack("<IIQ6Q", number & 0xFFFFFFFF, ARCHITECTURES[architecture], 0, *values))[0]


def answer(action: str, errno_ret: int | None) -> int:
    value = errno.EPERM if errno_ret is None else errno_ret
    return {
        "SCMP_ACT_KILL": KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
        "SCMP_ACT_TRAP": TRAP,
        "SCMP_ACT_ERRNO": ERRNO | value,
        "SCMP_ACT_TRACE": TRACE | value,
        "SCMP_ACT_LOG": LOG,
        "SCMP_ACT_ALLOW": ALLOW,
    }[action]


def matches(argument: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    value = arguments[argument["index"]] & 0xFFFFFFFFFFFFFFFF
    wanted = argument["value"] & 0xFFFFFFFFFFFFFFFF
    return {
        "SCMP_CMP_NE": value != wanted,
        "SCMP_CMP_LT": value < wanted,
        "SCMP_CMP_LE": value <= wanted,
        "SCMP_CMP_EQ": value == wanted,
        "SCMP_CMP_GE": value >= wanted,
        "SCMP_CMP_GT": value > wanted,
        "SCMP_CMP_MASKED_EQ": value & wanted == argument.get("valueTwo", 0) & 0xFFFFFFFFFFFFFFFF,
    }[argument["op"]]


def expected(profile: dict[str, Any], name: str, arguments: tuple[int, ...]) -> int:
    """What a profile (OCI form) says of a system call, rule by rule."""
    default = answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
    conditional = default
    for rule in reversed(profile.get("syscalls") or []):
        if name not in rule["names"] or answer(rule["action"], rule.get("errnoRet")) == default:
            continue
        if rule.get("args") and all(matches(argument, arguments) for argument in rule["args"]):
            conditional = answer(rule["action"], rule.get("errnoRet"))
    for rule in profile.get("syscalls") or []:
        if name in rule["names"] and not rule.get("args"):
            found = answer(rule["action"], rule.get("errnoRet"))
            if found != default:
                return found
    return conditional
