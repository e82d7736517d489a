"""Programs of other architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
from build_place import Workplace

from corten.build.emulation import can_run
from corten.errors import Unavailable
from corten.oci.platform import Platform, parse_platform, this_machine

# as the kernel lists what qemu-user-static registers
AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
FOREIGN = Platform("linux", "arm64" if this_machine().architecture != "arm64" else "riscv64")


def test_this_machine_s_own_programs(tmp_path: Path) -> None:
    assert can_run(this_machine(), tmp_path)
    assert not can_run(FOREIGN, tmp_path)
    assert not can_run(FOREIGN, tmp_path / "not-mounted")
    assert not can_run(parse_platform("windows/amd64"), tmp_path)


@pytest.mark.skipif(this_machine().architecture == "arm64", reason="arm64 needs no interpreter here")
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (AARCH64, True),
        (AARCH64.replace("enabled", "disabled"), False),
        (AARCH64.replace("POCF", "POC"), False),
        (AARCH64.replace("b700", "f300"), False),
        ("enabled\ninterpreter /bin/python\nflags: F\nextension .py\n", False),
    ],
)
def test_interpreters(tmp_path: Path, entry: str, expected: bool) -> None:
    (tmp_path / "qemu-aarch64").write_text(entry)
    (tmp_path / "status").write_text("enabled\n")
    assert can_run(parse_platform("linux/arm64"), tmp_path) == expected


def test_a_step_that_cannot_run_says_why(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    try:
        if can_run(FOREIGN):
            pytest.skip("this machine runs them")
        with pytest.raises(Unavailable, match="QEMU"):
            place.build("FROM scratch\nCOPY x /x\nRUN write a b\n", {"x": "1"}, platform=str(FOREIGN))
        run = place.build("FROM scratch\nCOPY x /x\n", {"x": "1"}, platform=str(FOREIGN))
        assert place.store.get(run.image).config["architecture"] == FOREIGN.architecture
    finally:
        place.close()
