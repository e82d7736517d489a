"""Builds for another architecture, whose steps run through QEMU's user emulation as binfmt_misc calls it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.linux import mount
from daemons import Daemon
from machine import BUSYBOX, lacking

pytestmark = [pytest.mark.needs("root", "busybox")]
BINFMT = Path("/proc/sys/fs/binfmt_misc")
NAME = "corten-test-aarch64"
QEMU = "qemu-aarch64-static"
SAID = b"said by aarch64\n"
DOCKERFILE = """FROM scratch
ARG TARGETARCH
COPY --chmod=755 $TARGETARCH /bin/echo
RUN ["/bin/echo", "said by busybox"]
CMD ["/bin/echo"]
"""
# ELF-64, executable, little endian, machine 183 (AArch64); all but the ABI's byte counts
MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


def program() -> bytes:
    """A static program for AArch64 that writes a line and ends."""
    code = struct.pack(
        "<8I",
        0xD2800020,  # mov x0, #1
        0x100000E1,  # adr x1, 28 bytes on
        0xD2800002 | len(SAID) << 5,  # mov x2, #length
        0xD2800808,  # mov x8, #64 (write)
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800BA8,  # mov x8, #93 (exit)
        0xD4000001,  # svc #0
    )
    body, base, start = code + SAID, 0x400000, 64 + 56
    header = MAGIC[:16] + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, start + len(body), start + len(body), 0x1000)
    return header + segment + body


@pytest.fixture
def emulated() -> Iterator[None]:
    """AArch64's programs run here while the test does."""
    lacking(QEMU)
    qemu = shutil.which(QEMU)
    mounted = not (BINFMT / "register").exists()
    if mounted:
        try:
            mount.mount("binfmt_misc", str(BINFMT), "binfmt_misc", 0)
        except OSError as error:
            pytest.skip(f"this kernel has no binfmt_misc: {error}")
    entry = BINFMT / NAME
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in text) for text in (MAGIC, MASK))
    try:
        (BINFMT / "register").write_text(f":{NAME}:M::{magic}:{mask}:{qemu}:F")
        yield
    finally:
        if entry.exists():
            entry.write_text("-1")
        if mounted:
            mount.umount2(str(BINFMT), 0)


@pytest.mark.usefixtures("emulated")
def test_steps_and_containers_of_another_architecture(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "amd64").write_bytes(BUSYBOX.read_bytes())
    (tmp_path / "arm64").write_bytes(program())
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    both = daemon.corten(
        *("build", "--no-cache", "--progress", "plain", "--platform", "linux/amd64,linux/arm64"),
        *("-o", f"type=oci,dest={tmp_path / 'both.tar'}", str(tmp_path)),
    )
    said = [line for line in both.stderr.splitlines() if "said by" in line and "RUN" not in line]
    assert sorted(line.split()[-1] for line in said) == ["aarch64", "busybox"]
    daemon.corten("build", "-q", "--platform", "linux/arm64", "-t", "foreign", str(tmp_path))
    assert daemon.corten("inspect", "-f", "{{.Architecture}}", "foreign").stdout == "arm64\n"
    ran = daemon.corten("run", "--rm", "--platform", "linux/arm64", "foreign")
    assert ran.stdout.encode() == SAID
