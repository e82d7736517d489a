"""Seccomp: from the OCI form (``linux.seccomp``) to classic BPF.  Docker's form is ``seccomp_profile``'s.

The filter starts with the architecture (amd64 guards its i386 and x32 doors too, arm64 its arm door), then walks a
binary tree over ranges of system call numbers with the same answer.  Numbers above the newest known one get ENOSYS
where the profile would refuse them, so that programs fall back.  A rule without arguments stands above those with;
arguments of one rule must all match, unless two name the same argument: then each is a rule of its own (both as with
libseccomp and runc).

Sources: seccomp(2); runtime-spec config-linux.md "Seccomp".
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import marshal
import os
import struct
from typing import Any

from corten.errors import InvalidParameter
from corten.linux.files import read_text
from corten.runtime import seccomp_listener

_PROFILES = f"{os.path.dirname(__file__)}/profiles"

_RET_KILL_PROCESS = 0x80000000
_RET_KILL_THREAD = 0x00000000
_RET_TRAP = 0x00030000
_RET_ERRNO = 0x00050000
_RET_NOTIFY = 0x7FC00000
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
# the private calls of ARM lie far above all others (asm/unistd.h, __ARM_NR_BASE)
_PRIVATE_FROM = 0x0F0000
_AUDIT = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
# those of other machines, which the specification knows as well (config-linux.md, "Seccomp")
_ELSEWHERE = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X",
        "PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB",
    )
)  # fmt: skip
# native architecture -> the other one that its kernel runs
_COMPATIBLE = {"x86_64": "x86", "aarch64": "arm"}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}
OPERATORS = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)

# of cached programs: to be raised when the compiler's answer to a profile changes
_FORMAT = 3

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def check(seccomp: dict[str, Any], place: str = "config.json: linux.seccomp.") -> None:
    """``linux.seccomp``.  Errors: InvalidParameter naming the field, behind ``place``."""
    seccomp_listener.check(seccomp, place)
    _check_answer(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"), f"{place}defaultErrnoRet")
    filter_flags(seccomp)
    for name in seccomp.get("architectures") or ():
        if name not in ARCHITECTURES and name not in _ELSEWHERE:
            raise InvalidParameter(f"{place}architectures: unknown architecture '{name}'")
    for index, rule in enumerate(seccomp.get("syscalls") or ()):
        _check_answer(rule["action"], rule.get("errnoRet"), f"{place}syscalls[{index}].errnoRet")
        for argument in rule.get("args") or ():
            if not _is_argument(argument):
                raise InvalidParameter(f"{place}syscalls[{index}].args: {json.dumps(argument)} is invalid")


def _check_answer(action: str, errno_ret: int | None, field: str) -> None:
    _answer(action, errno_ret)
    if errno_ret is not None and not 0 <= errno_ret <= 0xFFFF:
        raise InvalidParameter(f"{field}: {errno_ret} is no error number")


def _is_argument(argument: dict[str, Any]) -> bool:
    values = (argument["value"], argument.get("valueTwo") or 0)
    return argument["op"] in OPERATORS and 0 <= argument["index"] <= 5 and all(0 <= value < 1 << 64 for value in values)


# -- compiler --------------------------------------------------------------------------------------------------------


ACTIONS = (
    "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_LOG", "SCMP_ACT_ALLOW",
)  # fmt: skip


def _answer(action: str, errno_ret: int | None) -> int:
    value = errno.EPERM if errno_ret is None else errno_ret
    answers = {
        "SCMP_ACT_KILL": _RET_KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": _RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": _RET_KILL_PROCESS,
        "SCMP_ACT_TRAP": _RET_TRAP,
        "SCMP_ACT_ERRNO": _RET_ERRNO | (value & 0xFFFF),
        seccomp_listener.ACTION: _RET_NOTIFY,
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
    equal_high = [_JMP_JEQ, 0, "no", value_high]
    if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        last = [_JMP_JGT if operator == "SCMP_CMP_GT" else _JMP_JGE, 0, "no", value_low]
        return [load_high, [_JMP_JGT, 3, 0, value_high], equal_high, load_low, last]
    last = [_JMP_JGE if operator == "SCMP_CMP_LT" else _JMP_JGT, "no", 0, value_low]
    return [load_high, [_JMP_JGE, 0, 3, value_high], equal_high, load_low, last]


def _conditional(rules: list[tuple[list[dict[str, Any]], int]], otherwise: int) -> list[Instruction]:
    """Try each rule's arguments in turn."""
    code: list[Instruction] = []
    for arguments, answer in rules:
        draft = [instruction for argument in arguments for instruction in _test_argument(argument)]
        draft.append([_RET, 0, 0, answer])
        for position, (operation, if_true, if_false, constant) in enumerate(draft):
            distance = len(draft) - position - 1
            code.append(
                (
                    operation,
                    distance if if_true == "no" else if_true,
                    distance if if_false == "no" else if_false,
                    constant,
                )
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


def _refuses(answer: int) -> bool:
    return answer & 0xFFFF0000 not in (_RET_ALLOW, _RET_LOG, _RET_TRACE)


def _alternatives(arguments: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Arguments that must match together; conditions on one and the same argument are alternatives."""
    indexes = [argument.get("index") for argument in arguments]
    if len(set(indexes)) == len(indexes):
        return [arguments]
    return [[argument] for argument in arguments]


def _decisions(
    seccomp: dict[str, Any], numbers: dict[str, int], default: int
) -> tuple[dict[int, int], dict[int, list[tuple[list[dict[str, Any]], int]]]]:
    """Answers by number: without a look at the arguments, and with."""
    fixed: dict[int, int] = {}
    conditional: dict[int, list[tuple[list[dict[str, Any]], int]]] = {}
    for rule in seccomp.get("syscalls") or ():
        answer = _answer(rule["action"], rule.get("errnoRet"))
        if answer == default:
            continue  # says nothing, and must not overrule what does
        for name in rule["names"]:
            number = numbers.get(name)
            if number is None:
                continue  # not a system call of this architecture
            if rule.get("args"):
                conditional.setdefault(number, []).extend((args, answer) for args in _alternatives(rule["args"]))
            else:
                fixed.setdefault(number, answer)
    return fixed, conditional


def _section(seccomp: dict[str, Any], numbers: dict[str, int], offset: int) -> list[Instruction]:
    """The decision tree of one architecture."""
    default = _answer(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    beyond = _RET_ERRNO | errno.ENOSYS if _refuses(default) else default
    unknown_from = max(number for number in numbers.values() if number < _PRIVATE_FROM) + 1
    fixed, conditional = _decisions(seccomp, numbers, default)
    ranges: list[tuple[int, list[Instruction]]] = []

    def add(first: int, code: list[Instruction]) -> None:
        if not ranges or ranges[-1][1] != code:
            ranges.append((first + offset, code))

    def add_gap(first: int, end: int | None) -> None:
        """Numbers of which the profile says nothing."""
        if first < unknown_from and (end is None or first < end):
            add(first, _return(default))
        if end is None or end > unknown_from:
            add(max(first, unknown_from), _return(beyond))

    position = 0
    for number in sorted(fixed.keys() | conditional.keys()):
        if number > position:
            add_gap(position, number)
        add(number, _return(fixed[number]) if number in fixed else _conditional(conditional[number], default))
        position = number + 1
    add_gap(position, None)
    return [(_LD_ABS, 0, 0, _OFFSET_NR), *_tree(ranges)]


def compile_filter(seccomp: dict[str, Any], native: str = "") -> bytes:
    """``linux.seccomp`` -> BPF program.

    native: machine as uname names it, this one by default
    Errors: InvalidParameter for an unknown action or operator, or an architecture without tables.
    """
    native = native or os.uname().machine
    tables: dict[str, dict[str, int]] = json.loads(read_text(f"{_PROFILES}/syscalls.json"))
    if native not in tables:
        raise InvalidParameter(f"seccomp is not supported on {native}")
    names = {ARCHITECTURES[name] for name in seccomp.get("architectures") or () if name in ARCHITECTURES}
    section = _section(seccomp, tables[native], 0)
    if native == "x86_64":
        x32 = _section(seccomp, tables["x32"], _X32_BIT) if "x32" in names else _return(_RET_KILL_PROCESS)
        section = [
            (_LD_ABS, 0, 0, _OFFSET_NR),
            (_JMP_JGE, 0, 1, _X32_BIT),
            (_JMP_JA, 0, 0, len(section)),
            *section,
            *x32,
        ]
    sections = [(native, section)]
    other = _COMPATIBLE[native]
    if other in names:
        sections.append((other, _section(seccomp, tables[other], 0)))
    code: list[Instruction] = [(_LD_ABS, 0, 0, _OFFSET_ARCH)]
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
        if name not in FLAGS:
            raise InvalidParameter(f"seccomp flag {name} is not supported")
        flags |= FLAGS[name]
    return flags & ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]  # one thread only: nothing to synchronise


_memory: dict[str, bytes] = {}
_DIGEST_SIZE = hashlib.sha256().digest_size


def compiled(seccomp: dict[str, Any], cache: str) -> bytes:
    """The program of a profile, from memory, from the directory ``cache``, or compiled now and kept in both."""
    # this form of marshal is the fastest there is and has no references; a profile in another order is only another key
    key = hashlib.sha256(marshal.dumps([_FORMAT, os.uname().machine, seccomp], 2)).hexdigest()
    if key in _memory:
        return _memory[key]
    file = f"{cache}/{key}.bpf" if cache else ""
    program = _kept(file) or compile_filter(seccomp)
    _memory[key] = program
    if file and not os.path.exists(file):
        _keep(cache, file, program)
    return program


def _kept(file: str) -> bytes:
    """A program from the disk; b"" when it is not there or not whole."""
    if not file:
        return b""
    try:
        with open(file, "rb") as stored:
            content = stored.read()
    except OSError:
        return b""
    program = content[_DIGEST_SIZE:]
    if hashlib.sha256(program).digest() == content[:_DIGEST_SIZE]:
        return program
    with contextlib.suppress(OSError):
        os.unlink(file)
    return b""


def _keep(cache: str, file: str, program: bytes) -> None:
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        temporary = f"{file}.{os.getpid()}"
        with open(temporary, "wb") as stored:
            stored.write(hashlib.sha256(program).digest() + program)
        os.replace(temporary, file)
    except OSError:
        pass  # a cache that cannot be written costs time only
