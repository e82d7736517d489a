"""Device rules as an eBPF program: run in a small machine and compared with the rules themselves."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from corten.cgroup import devices
from corten.runtime import groups

READ, WRITE, MAKE = 2, 4, 1
KINDS = {"b": 1, "c": 2}


def execute(program: bytes, access: int, kind: int, major: int, minor: int) -> int:
    """r0 at the end, for one ``struct bpf_cgroup_dev_ctx``."""
    instructions = list(struct.iter_unpack("<BBhi", program))
    context = struct.pack("<III", access << 16 | kind, major, minor)
    registers = [0] * 11
    position = 0
    while True:
        code, both, offset, immediate = instructions[position]
        target, source = both & 15, both >> 4
        position += 1
        if code == 0x95:
            return registers[0]
        if code == 0x61:
            registers[target] = struct.unpack_from("<I", context, offset)[0]
        elif code == 0xBC:
            registers[target] = registers[source] & 0xFFFFFFFF
        elif code == 0x54:
            registers[target] &= immediate
        elif code == 0x74:
            registers[target] >>= immediate
        elif code == 0xB7:
            registers[target] = immediate
        elif code == 0x55:
            position += offset if registers[target] != immediate else 0
        elif code == 0x5D:
            position += offset if registers[target] != registers[source] else 0
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def allowed(rules: list[dict[str, Any]], access: int, kind: str, major: int, minor: int) -> bool:
    """The last rule that matches decides; none matching refuses."""
    bits = {"r": READ, "w": WRITE, "m": MAKE}
    for rule in reversed(rules):
        rule_bits = sum(bits[letter] for letter in rule.get("access", "rwm"))
        if rule.get("type", "a") not in ("a", kind) or access & ~rule_bits:
            continue
        if rule.get("major") not in (None, -1, major) or rule.get("minor") not in (None, -1, minor):
            continue
        return bool(rule["allow"])
    return False


def reachable(program: bytes) -> set[int]:
    instructions = list(struct.iter_unpack("<BBhi", program))
    found: set[int] = set()
    waiting = [0]
    while waiting:
        position = waiting.pop()
        if position in found:
            continue
        found.add(position)
        code, _, offset, _ = instructions[position]
        if code != 0x95:
            waiting.append(position + 1)
        if code in (0x55, 0x5D):
            waiting.append(position + 1 + offset)
    return found


DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
RULES: list[list[dict[str, Any]]] = [
    [],
    [DENY_ALL],
    [DENY_ALL, NULL],
    [NULL, DENY_ALL],
    [{"allow": True, "type": "a", "access": "rwm"}],
    [DENY_ALL, {"allow": True, "type": "c", "major": -1, "minor": -1, "access": "m"}, NULL],
    [
        DENY_ALL,
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": False, "type": "b", "major": 8, "minor": 1},
    ],
    [
        {"allow": True, "type": "a", "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"},
    ],
    groups.normalised({"devices": [DENY_ALL]})["devices"],
    [DENY_ALL, *groups.normalised({"devices": [{"allow": True, "type": "a"}]})["devices"]],
]


@pytest.mark.parametrize("rules", RULES)
def test_program_decides_as_the_rules_say(rules: list[dict[str, Any]]) -> None:
    program = devices.program(rules)
    for access, kind in itertools.product((READ, WRITE, MAKE, READ | WRITE, 7), KINDS):
        for major, minor in itertools.product((0, 1, 5, 8, 10, 136, 200), (0, 1, 3, 7, 200)):
            decided = execute(program, access, KINDS[kind], major, minor)
            assert decided == allowed(rules, access, kind, major, minor), (access, kind, major, minor)


@pytest.mark.parametrize("rules", RULES)
def test_every_instruction_can_be_reached(rules: list[dict[str, Any]]) -> None:
    """The kernel's verifier refuses a program with one that cannot (kernel/bpf/verifier.c, "unreachable insn")."""
    program = devices.program(rules)
    assert reachable(program) == set(range(len(program) // 8))


def test_version_1_writes() -> None:
    assert devices.v1_writes([DENY_ALL, NULL, {"allow": True, "type": "b", "major": 8}]) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rwm"),
        ("devices.allow", "b 8:* rwm"),
    ]
