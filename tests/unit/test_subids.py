"""Subordinate ids: what files grant, and which maps come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.linux import subids
from corten.linux.subids import Range, ranges, with_own


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann:100000:65536\n", [Range(100000, 65536)]),
        ("1000:100000:65536\n", [Range(100000, 65536)]),
        ("bob:1:2\nann:100000:10\n1000:200000:20\n", [Range(100000, 10), Range(200000, 20)]),
        ("# ann:1:1\n\nann:x:1\nann:1\nann:1:2:3\nann:-1:5\nann:1:0\n ann:7:8 \n", [Range(7, 8)]),
        ("ann:4294967290:10\n", []),  # beyond the last id
        ("ann:4294967285:10\n", [Range(4294967285, 10)]),
        ("ann:99999999999999999999:1\nann:\N{ARABIC-INDIC DIGIT ONE}:2\n", []),
        ("annabel:1:2\n", []),
    ],
)
def test_what_a_file_grants(tmp_path: Path, text: str, found: list[Range]) -> None:
    file = tmp_path / "subuid"
    file.write_text(text)
    assert ranges(file, {"ann", "1000"}) == found


def test_no_file_grants_nothing(tmp_path: Path) -> None:
    assert ranges(tmp_path / "none", {"ann"}) == []


def mapped(own: int, granted: list[Range]) -> list[tuple[int, int, int]]:
    return [(item["containerID"], item["hostID"], item["size"]) for item in with_own(own, granted)]


def test_granted_ids_follow_the_users_own() -> None:
    assert mapped(1000, []) == [(0, 1000, 1)]
    assert mapped(1000, [Range(100000, 10), Range(300000, 5)]) == [(0, 1000, 1), (1, 100000, 10), (11, 300000, 5)]


def test_an_id_has_one_meaning() -> None:
    assert mapped(1000, [Range(900, 200), Range(2000, 10), Range(2005, 10), Range(2010, 1)]) == [
        (0, 1000, 1),
        (1, 2000, 10),
        (11, 2010, 1),
    ]


@pytest.mark.parametrize("lacking", ["subuid", "subgid", "newuidmap", "newgidmap"])
def test_a_single_id_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(subids.os, "geteuid", lambda: 4321)
    monkeypatch.setattr(subids.os, "getegid", lambda: 4322)
    for kind in ("subuid", "subgid"):
        (tmp_path / kind).write_text("" if kind == lacking else "4321:100000:65536\n")
        monkeypatch.setattr(subids, kind.upper(), tmp_path / kind)
    for program in {"newuidmap", "newgidmap"} - {lacking}:
        (programs / program).touch(0o755)
    maps = subids.maps_of_user()
    assert [maps.uids, maps.gids] == [with_own(4321, []), with_own(4322, [])]
    assert lacking in maps.lacking
    (tmp_path / "subuid").write_text("4321:100000:65536\n")
    (tmp_path / "subgid").write_text("4321:300000:10\n")
    for program in ("newuidmap", "newgidmap"):
        (programs / program).touch(0o755)
    maps = subids.maps_of_user()
    assert maps.lacking == ""
    assert maps.uids == with_own(4321, [Range(100000, 65536)])
    assert maps.gids == with_own(4322, [Range(300000, 10)])
