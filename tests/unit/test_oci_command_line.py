"""The command line of corten-oci, and what a call of it imports: importing is what most calls take their time for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.runtime.oci import arguments
from corten.runtime.oci.commands import COMMANDS
from corten.runtime.oci.times import now

SOURCE = Path(arguments.__file__).parents[3]
# by no command that engines call for each container
HEAVY = {"asyncio", "dataclasses", "datetime", "inspect", "logging", "pathlib", "shutil", "subprocess", "threading"}
# nor by one that starts nothing: what makes containers is most of the package
OF_STARTS = {"corten.cgroup.limits", "corten.runtime.init", "corten.runtime.lifecycle", "corten.runtime.seccomp"}
LIGHT = {"hashlib", "typing", *OF_STARTS}
# those that are called seldom; criu's part has its own needs
SELDOM = {"checkpoint", "restore"}


def imported(script: str) -> set[str]:
    """Modules that a fresh interpreter has in the end, as the shielded one of the command is called."""
    done = subprocess.run(
        [
            sys.executable,
            *("-I", "-S", "-c"),
            f"import sys; sys.path.append({str(SOURCE)!r})\n{script}\nprint(*sys.modules, file=sys.stderr)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split("\n")[-2].split())


@pytest.fixture(scope="module", autouse=True)
def of_pythons_own() -> None:
    """What argparse and ctypes import by themselves is not ours: from Python 3.14 on that is much."""
    for modules, script in (
        (HEAVY, "import argparse; argparse.ArgumentParser('x').add_argument('y')"),
        (LIGHT, "import argparse; argparse.ArgumentParser('x').add_argument('y')"),
        (HEAVY, "import ctypes"),
    ):
        modules -= imported(script)


def called(*words: str) -> set[str]:
    return imported(
        "import corten.runtime.cli\n"
        "from corten.runtime.oci.command import run\n"
        f"try: run({list(words)!r})\n"
        "except SystemExit: pass"
    )  # fmt: skip


def test_version_imports_nothing_of_containers() -> None:
    modules = called("--version")
    assert "corten.runtime.oci.arguments" in modules
    assert not modules & {*HEAVY, *LIGHT, "ctypes", "json", "socket", "corten.runtime.state", "corten.cgroup"}


def test_state_imports_what_it_needs(tmp_path: Path) -> None:
    modules = called("--root", str(tmp_path), "state", "c1")
    assert "corten.runtime.oci.commands.state" in modules
    assert not modules & {*HEAVY, *LIGHT, "ctypes", "socket"}


@pytest.mark.parametrize("command", ["start", "kill", "delete", "pause", "resume"])
def test_commands_that_start_nothing_import_nothing_of_starts(command: str) -> None:
    modules = imported(f"import corten.runtime.oci.call, corten.runtime.oci.commands.{command}")
    assert not modules & {*HEAVY, *LIGHT}


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - SELDOM))
def test_no_usual_command_imports_what_is_heavy(command: str) -> None:
    assert not imported(f"import corten.runtime.oci.call, corten.runtime.oci.commands.{command}") & HEAVY


def imported_inside_functions(path: Path) -> Iterator[str]:
    for function in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if (SOURCE / f"{name.replace('.', '/')}.py").exists() else node.module


def test_what_is_imported_where_it_is_used_the_spawner_has_imported() -> None:
    """A forked child must import nothing, and a container's init cannot."""
    modules = imported("import corten.shim.spawner")
    files = {name: SOURCE / f"{name.replace('.', '/')}.py" for name in modules if name.startswith("corten.")}
    found = {name for path in files.values() if path.exists() for name in imported_inside_functions(path)}
    assert {"subprocess", "corten.cgroup.limits", "corten.cgroup.systemd"} <= found
    assert found <= modules


# -- the command line --------------------------------------------------------------------------------------------------


def test_every_command_is_a_module_with_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.stem for path in Path(arguments.__file__).parent.joinpath("commands").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            arguments.parse([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: corten-oci {name} ")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name:<12}{text}\n" in said for name, text in COMMANDS.items())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "corten-oci: error: the following arguments are required: COMMAND"),
        (["--debug"], "corten-oci: error: the following arguments are required: COMMAND"),
        (["nope"], "corten-oci: error: argument COMMAND: invalid choice: 'nope' (choose from "),
        (["--nope", "state", "c1"], "unrecognized arguments: --nope"),
        (["--ro", "/x", "state", "c1"], "argument COMMAND: invalid choice: '/x'"),
        (["--log-format", "xml", "state", "c1"], "argument --log-format: invalid choice: 'xml'"),
        (["state"], "corten-oci state: error: the following arguments are required: id"),
        (["state", "--nope", "c1"], "corten-oci state: error: unrecognized arguments: --nope"),
        (["state", "c1", "c2"], "corten-oci state: error: unrecognized arguments: c2"),
        (["exec", "--preserve-fds", "x", "c1"], "argument --preserve-fds: invalid int value: 'x'"),
        (["update", "--memory", "x", "c1"], "argument --memory: invalid size value: 'x'"),
    ],
)
def test_mistakes(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(words)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["state", "c1"], {"command": "state", "id": "c1", "log_format": "text", "debug": False}),
        (["--root", "/r", "--debug", "kill", "-a", "c1", "9"], {"root": "/r", "debug": True, "signal": "9"}),
        (["create", "-b", "/b", "--pid-file", "p", "c1"], {"bundle": "/b", "pid_file": "p", "preserve_fds": 0}),
        # what follows the command is the command's, whatever it looks like
        (["exec", "-e", "A=1", "-eB=2", "c1", "ls", "-v"], {"env": ["A=1", "B=2"], "args": ["ls", "-v"]}),
        (["exec", "c1", "ls", "--", "x"], {"id": "c1", "args": ["ls", "--", "x"]}),
        (["--log", "state", "state", "create"], {"log": "state", "command": "state", "id": "create"}),
        (["list", "-q", "--format", "json"], {"quiet": True, "format": "json", "log_format": "text"}),
    ],
)  # fmt: skip
def test_words(words: list[str], fields: dict[str, object]) -> None:
    options, run = arguments.parse(words)
    assert {name: getattr(options, name) for name in fields} == fields
    assert run.__module__ == f"corten.runtime.oci.commands.{options.command}"


def test_moments_are_as_documents_write_them() -> None:
    from datetime import UTC, datetime

    before = datetime.now(UTC)
    text = now()
    assert text.endswith("Z")
    assert len(text) == len("2026-01-01T00:00:00.000000Z")
    assert before.replace(microsecond=before.microsecond) <= datetime.fromisoformat(text) <= datetime.now(UTC)
