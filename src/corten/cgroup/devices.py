"""Which devices a container may open: the devices controller of version 1, an eBPF program on version 2.

Rules are those of the runtime specification (config-linux.md, "Allowed Device list"): the last that matches wins.
Sources: Documentation/admin-guide/cgroup-v1/devices.rst, bpf(2), ``BPF_PROG_TYPE_CGROUP_DEVICE``.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from corten.linux.syscall import call

_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8
_BPF_PROG_DETACH = 9
_BPF_PROG_QUERY = 16
_BPF_PROG_GET_FD_BY_ID = 13
_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI = 2

_ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
_KINDS = {"b": 1, "c": 2, "u": 2}


def v1_writes(rules: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(file, text) pairs for devices.allow and devices.deny, in order."""
    pairs = []
    for rule in rules:
        kind = rule.get("type") or "a"
        major, minor = rule.get("major"), rule.get("minor")
        numbers = f"{'*' if major in (None, -1) else major}:{'*' if minor in (None, -1) else minor}"
        file = "devices.allow" if rule["allow"] else "devices.deny"
        pairs.append((file, "a" if kind == "a" else f"{kind} {numbers} {rule.get('access') or 'rwm'}"))
    return pairs


def _instruction(code: int, destination: int, source: int, offset: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", code, destination | source << 4, offset, immediate)


def program(rules: list[dict[str, Any]]) -> bytes:
    """eBPF code: 1 in r0 allows, 0 refuses.  The last matching rule wins, so rules are tried from the end.

    ``struct bpf_cgroup_dev_ctx``: u32 access_type (access << 16 | type), u32 major, u32 minor.
    """
    load = 0x61  # BPF_LDX | BPF_MEM | BPF_W
    code = [
        _instruction(load, 2, 1, 0, 0),  # r2 = access_type
        _instruction(0xBC, 3, 2, 0, 0),  # w3 = w2
        _instruction(0x54, 2, 0, 0, 0xFFFF),  # w2 &= 0xffff: type
        _instruction(0x74, 3, 0, 0, 16),  # w3 >>= 16: access
        _instruction(load, 4, 1, 4, 0),  # r4 = major
        _instruction(load, 5, 1, 8, 0),  # r5 = minor
    ]
    for rule in reversed(rules):
        code += _rule(rule)
        if _matches_all(rule):
            # the kernel refuses instructions that are never reached
            return b"".join(code)
    code += [_instruction(0xB7, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]  # r0 = 0; exit
    return b"".join(code)


def _access_bits(rule: dict[str, Any]) -> int:
    return sum(_ACCESS_BITS[letter] for letter in set(rule.get("access") or "rwm"))


def _matches_all(rule: dict[str, Any]) -> bool:
    numbers = (rule.get("major"), rule.get("minor"))
    return (
        rule.get("type", "a") in ("a", "", None)
        and all(number in (None, -1) for number in numbers)
        and _access_bits(rule) == 7
    )


def _rule(rule: dict[str, Any]) -> list[bytes]:
    """Skip to the next rule unless everything matches."""
    tests: list[list[bytes]] = []
    kind = rule.get("type") or "a"
    if kind != "a":
        tests.append([_instruction(0x55, 2, 0, 0, _KINDS[kind])])  # if r2 != kind goto next
    bits = _access_bits(rule)
    if bits != 7:
        # all accesses asked for must be among the rule's
        tests.append(
            [
                _instruction(0xBC, 1, 3, 0, 0),  # w1 = w3
                _instruction(0x54, 1, 0, 0, bits),  # w1 &= bits
                _instruction(0x5D, 1, 3, 0, 0),  # if r1 != r3 goto next
            ]
        )
    for register, number in ((4, rule.get("major")), (5, rule.get("minor"))):
        if number not in (None, -1):
            tests.append([_instruction(0x55, register, 0, 0, int(number))])
    body = [_instruction(0xB7, 0, 0, 0, int(rule["allow"])), _instruction(0x95, 0, 0, 0, 0)]
    flat = [instruction for test in tests for instruction in test]
    patched = []
    for position, instruction in enumerate(flat):
        if instruction[0] in (0x55, 0x5D):
            distance = len(flat) - position - 1 + len(body)
            instruction = instruction[:2] + struct.pack("<h", distance) + instruction[4:]
        patched.append(instruction)
    return patched + body


class _LoadAttributes(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    )


class _AttachAttributes(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    )


class _QueryAttributes(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
    )


class _IdAttributes(ctypes.Structure):
    _fields_ = (("prog_id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32))


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _LoadAttributes(
        prog_type=_BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(code) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(license_text),
    )
    return call("bpf", _BPF_PROG_LOAD, attributes, ctypes.sizeof(attributes), path="cgroup device program")


def _attached(cgroup_fd: int) -> list[int]:
    identifiers = (ctypes.c_uint32 * 64)()
    attributes = _QueryAttributes(
        target_fd=cgroup_fd, attach_type=_BPF_CGROUP_DEVICE, prog_ids=ctypes.addressof(identifiers), prog_cnt=64
    )
    call("bpf", _BPF_PROG_QUERY, attributes, ctypes.sizeof(attributes))
    return list(identifiers[: attributes.prog_cnt])


def attach_program(directory: str, rules: list[dict[str, Any]]) -> None:
    """Attach the program of these rules to a version 2 group in place of what was attached before.

    Errors: OSError naming bpf(2).
    """
    cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _attached(cgroup_fd)
        loaded = _load(program(rules))
        try:
            attributes = _AttachAttributes(cgroup_fd, loaded, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI, 0)
            call("bpf", _BPF_PROG_ATTACH, attributes, ctypes.sizeof(attributes), path=directory)
        finally:
            os.close(loaded)
        for identifier in before:
            wanted = _IdAttributes(identifier, 0, 0)
            old = call("bpf", _BPF_PROG_GET_FD_BY_ID, wanted, ctypes.sizeof(wanted))
            try:
                attributes = _AttachAttributes(cgroup_fd, old, _BPF_CGROUP_DEVICE, 0, 0)
                call("bpf", _BPF_PROG_DETACH, attributes, ctypes.sizeof(attributes), path=directory)
            finally:
                os.close(old)
    finally:
        os.close(cgroup_fd)
