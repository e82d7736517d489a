"""Dockerfiles become instructions: each case is a folder with a Dockerfile and what it must mean.

``CORTEN_WRITE_GOLDEN=1`` writes the results anew, to be read before they are committed.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.parser import parse, parse_trigger
from corten.dockerfile.pieces import duration_ns

CASES = Path(__file__).parent / "dockerfiles"


def plain(value: Any) -> Any:
    """What an instruction says, without what is empty and without where it stands."""
    if is_dataclass(value):
        found = {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        for name in ("line", "lines", "original"):
            found.pop(name, None)
        return {name: item for name, item in found.items() if item not in ("", [], {}, False, 0, None)}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def meaning(content: bytes) -> str:
    try:
        return json.dumps(plain(parse(content)), indent=1) + "\n"
    except DockerfileError as error:
        return f"{error.message}\n"


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_golden(case: str) -> None:
    result = CASES / case / "result"
    found = meaning((CASES / case / "Dockerfile").read_bytes())
    if os.environ.get("CORTEN_WRITE_GOLDEN"):
        result.write_text(found)
    assert found == result.read_text()
    assert found.startswith("dockerfile parse error") == case.startswith("bad-")


def test_places_are_physical_lines() -> None:
    stage = parse(b"FROM a\n\n# c\nRUN x \\\n # d\n y\nCMD z\n").stages[0]
    run, cmd = stage.instructions
    assert (stage.start.line.number, run.line.number, run.line.end, cmd.line.number) == (1, 4, 6, 7)
    assert run.original == "RUN x  y"
    assert run.line.comment == "c"


def test_empty_continuation_lines_are_told() -> None:
    assert [line for line, _ in parse(b"FROM a\nRUN x \\\n\n y\n").warnings] == [3]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("0", 0), ("-1s", -(10**9)), ("1", None), ("s", None), ("", None)],
)
def test_durations(text: str, value: int | None) -> None:
    assert duration_ns(text) == value


def test_triggers_are_single_instructions() -> None:
    assert parse_trigger("RUN echo a").keyword == "RUN"
    for text in ("RUN a\nRUN b", "", "FROM x", "ONBUILD RUN x"):
        with pytest.raises(DockerfileError):
            parse_trigger(text)


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(DockerfileError, match="the limit is"):
        parse(b"FROM a\n" + b"RUN x\n" * 1_000_000)
