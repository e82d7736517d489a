"""Whether this machine runs programs of another architecture: by its processor, or by an interpreter (QEMU).

Source: the kernel's documentation, admin-guide/binfmt-misc.rst; ELF-64 object file format, ``e_machine``.
"""

from __future__ import annotations

from pathlib import Path

from corten.oci.platform import Platform, this_machine

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MACHINE_OFFSET = 18  # of e_machine in an ELF header
_MACHINES = {
    "amd64": 62, "386": 3, "arm64": 183, "arm": 40, "ppc64le": 21, "ppc64": 21, "s390x": 22, "riscv64": 243,
    "mips64le": 8, "mips64": 8, "loong64": 258,
}  # fmt: skip
_BIG_ENDIAN = frozenset({"s390x", "ppc64", "mips64"})


def can_run(platform: Platform, registered: Path = _BINFMT) -> bool:
    """registered: where the kernel lists interpreters"""
    if platform.rank(this_machine()) >= 0:
        return True
    machine = _MACHINES.get(platform.architecture)
    if machine is None:
        return False
    wanted = machine.to_bytes(2, "big" if platform.architecture in _BIG_ENDIAN else "little")
    try:
        entries = [path for path in registered.iterdir() if path.name not in ("register", "status")]
        return any(_serves(path.read_text(), wanted) for path in entries)
    except OSError:
        return False


def _serves(entry: str, machine: bytes) -> bool:
    """An interpreter of ELF files of that machine that is opened when it is registered (F): images have none."""
    lines = entry.splitlines()
    fields = dict(line.partition(" ")[::2] for line in lines)
    magic = bytes.fromhex(fields.get("magic", ""))
    return (
        lines[:1] == ["enabled"]
        and "F" in fields.get("flags:", "")
        and magic.startswith(b"\x7fELF")
        and magic[_MACHINE_OFFSET : _MACHINE_OFFSET + 2] == machine
    )


def platforms_here() -> list[Platform]:
    """What programs may be of: this machine's platform first, then what else it runs."""
    own = this_machine()
    found = [own]
    for architecture in _MACHINES:
        variants = ("v7", "v6") if architecture == "arm" else ("",)
        candidates = (Platform(own.os, architecture, variant) for variant in variants)
        found += [item for item in candidates if item != own and can_run(item)]
    return found
