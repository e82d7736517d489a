"""Progress that a daemon reports, on a terminal and without one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_server import answering, ok, serving

from corten.cli.progress import show_progress
from corten.client.api import Api
from corten.errors import SystemFailure

REPORT = [
    {"status": "Importing", "progressDetail": {"current": 512, "total": 2048}},
    {"id": "abc", "status": "Loading layer", "progressDetail": {"current": 1_500_000, "total": 3_000_000}},
    {"id": "def", "status": "Loading layer", "progressDetail": {"current": 7}},
    {"id": "abc", "status": "Loading layer", "progressDetail": {"current": 3_000_000, "total": 3_000_000}},
    {"id": "abc", "status": "Done", "progressDetail": {}},
    {"stream": "Loaded image: x:1\n"},
    {"status": "sha256:0"},
    {"aux": {"ID": "sha256:0"}},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(tmp_path: Path, out: io.StringIO | None, documents: list[dict[str, Any]]) -> dict[str, Any]:
    body = b"".join(json.dumps(document).encode() + b"\r\n" for document in documents)
    with serving(tmp_path, answering(ok(body))) as server, Api(server.host).stream("POST", "/images/load") as response:
        return show_progress(response, out)


def test_without_a_terminal_only_results_are_printed(tmp_path: Path) -> None:
    out = io.StringIO()
    assert shown(tmp_path, out, REPORT) == {"ID": "sha256:0"}
    assert out.getvalue() == "abc: Done\nLoaded image: x:1\nsha256:0\n"


def test_on_a_terminal_lines_are_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # too narrow for bars
    out = Terminal()
    shown(tmp_path, out, REPORT)
    text = out.getvalue()
    assert "Importing 512B/2.048kB\r" in text
    assert "\n\x1b[1A\x1b[2K\rabc: Loading layer 1.5MB/3MB\x1b[1B\r" in text
    assert "\n\x1b[1A\x1b[2K\rdef: Loading layer 7B\x1b[1B\r" in text
    assert "\x1b[2A\x1b[2K\rabc: Loading layer 3MB/3MB\x1b[2B\r" in text
    assert text.endswith("Loaded image: x:1\n\x1b[2Ksha256:0\n")


def test_a_wide_terminal_has_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "76")
    out = Terminal()
    shown(tmp_path, out, REPORT)
    assert "abc: Loading layer [==========>         ]  1.5MB/3MB" in out.getvalue()
    assert "abc: Loading layer [====================]  3MB/3MB" in out.getvalue()
    assert "def: Loading layer 7B" in out.getvalue()


def test_nothing_is_shown_when_asked(tmp_path: Path) -> None:
    assert shown(tmp_path, None, REPORT) == {"ID": "sha256:0"}


def test_an_error_ends_it(tmp_path: Path) -> None:
    out = io.StringIO()
    failing = [{"status": "reading"}, {"error": "short", "errorDetail": {"message": "the archive ends too early"}}]
    with pytest.raises(SystemFailure, match="the archive ends too early"):
        shown(tmp_path, out, failing)
    assert out.getvalue() == "reading\n"
