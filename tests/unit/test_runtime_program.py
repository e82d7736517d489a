"""Finding the program, with the words that Docker's clients look for."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from corten.errors import CommandNotExecutable, CommandNotFound, InvalidParameter
from corten.runtime import program


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, mode in (("first/tool", 0o644), ("second/tool", 0o755), ("second/plain", 0o644)):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(mode)
    (tmp_path / "first/directory").mkdir()
    (tmp_path / "second/directory").write_text("")
    (tmp_path / "second/directory").chmod(0o755)
    return tmp_path


def environment(tree: Path) -> dict[bytes, bytes]:
    return {b"PATH": os.fsencode(f"{tree}/absent:{tree}/first:{tree}/second")}


def test_the_first_that_can_be_executed_is_taken(tree: Path) -> None:
    assert program.find("tool", environment(tree)) == f"{tree}/second/tool"
    assert program.find("directory", environment(tree)) == f"{tree}/second/directory"
    assert program.find(f"{tree}/second/tool", {}) == f"{tree}/second/tool"


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("nosuch", CommandNotFound, 'exec: "nosuch": executable file not found in $PATH'),
        ("", CommandNotFound, 'exec: "": executable file not found in $PATH'),
        ("plain", CommandNotExecutable, 'exec: "plain": permission denied'),
        ("{}/nosuch", CommandNotFound, 'exec: "{}/nosuch": stat {}/nosuch: no such file or directory'),
        ("{}/second/tool/x", CommandNotFound, 'exec: "{}/second/tool/x": stat {}/second/tool/x: not a directory'),
        ("{}/first/tool", CommandNotExecutable, 'exec: "{}/first/tool": permission denied'),
        ("{}/first", CommandNotExecutable, 'exec: "{}/first": permission denied'),
        ('a "quoted" one', CommandNotFound, 'exec: "a \\"quoted\\" one": executable file not found in $PATH'),
    ],
)
def test_refusals(tree: Path, name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(text.replace('{}', str(tree)))}$"):
        program.find(name.replace("{}", str(tree)), environment(tree))


def test_without_a_path_nothing_is_found(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "second")
    for given in ({}, {b"PATH": b""}):
        with pytest.raises(CommandNotFound):
            program.find("tool", given)
    assert program.find("tool", {b"PATH": b":/nonexistent"}) == "./tool"


@pytest.mark.parametrize("name", ["/proc/self/exe", "/proc/thread-self/exe", "link", "/dev/fd/{}"])
def test_our_own_interpreter_is_not_to_be_had(tmp_path: Path, name: str) -> None:
    opened = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        if name == "link":
            (tmp_path / "link").symlink_to("/proc/self/exe")
            name = str(tmp_path / "link")
        with pytest.raises(CommandNotFound, match="no such file or directory"):
            program.find(name.replace("{}", str(opened)), {})
    finally:
        os.close(opened)
    # by a path of the file system it is a file like any other
    real = os.path.realpath(sys.executable)
    assert program.find(real, {}) == real


def test_other_files_may_be_reached_through_descriptors() -> None:
    opened = os.open("/bin/sh", os.O_RDONLY)
    try:
        assert program.find(f"/proc/self/fd/{opened}", {}) == f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def test_environment() -> None:
    process = {"env": ["A=1", "B=", "A=2", "C=x=y", "D=\udcff"]}
    found = program.environment_of(process, "/home/bob")
    assert found == {b"A": b"2", b"B": b"", b"C": b"x=y", b"D": b"\xff", b"HOME": b"/home/bob"}
    assert program.environment_of({"env": ["HOME=/x"]}, "/home/bob") == {b"HOME": b"/x"}
    assert program.environment_of({}, "") == {}
    for item in ("A", "=b", "", "A=\0"):
        with pytest.raises(InvalidParameter, match="invalid environment variable"):
            program.environment_of({"env": [item]}, "")


def test_a_directory_that_cannot_be_reached_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(InvalidParameter, match=r'chdir to cwd \("/nope"\) set in config.json failed: no such file'):
        program.enter_directory("/nope")
    (tmp_path / "gone").mkdir()
    program.enter_directory(str(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    with pytest.raises(InvalidParameter, match="current working directory is outside of container"):
        program.verify_directory("/gone")
