"""Which profile a container gets, and when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.engine import apparmor
from corten.engine.apparmor import AppArmor


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with AppArmor, whose parser notes what it is given and loads it."""
    loaded = tmp_path / "profiles"
    loaded.write_text("other (enforce)\n")
    parser = tmp_path / "apparmor_parser"
    parser.write_text(f'#!/bin/sh\ncat >> {tmp_path}/given\necho "corten-default (enforce)" >> {loaded}\n')
    parser.chmod(0o755)
    monkeypatch.setattr(apparmor, "_LOADED", loaded)
    monkeypatch.setattr(apparmor, "_PLACES", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(apparmor.user_namespace, "is_initial", lambda: True)
    return tmp_path


def test_the_default_is_loaded_once_and_again_when_it_is_gone(host: Path) -> None:
    own = AppArmor(enabled=True)
    assert own.shown("", privileged=False) == "corten-default"
    assert not (host / "given").exists()
    for _ in range(2):
        assert own.ready("", privileged=False) == "corten-default"
    assert (host / "given").read_text().count("profile corten-default") == 1
    (host / "profiles").write_text("")
    own.ready("", privileged=False)
    assert (host / "given").read_text().count("profile corten-default") == 2


@pytest.mark.parametrize(
    ("asked", "privileged", "profile"),
    [("", True, "unconfined"), ("unconfined", False, "unconfined"), ("mine", False, "mine"), ("mine", True, "mine")],
)
def test_what_was_asked_for_is_not_loaded(host: Path, asked: str, privileged: bool, profile: str) -> None:
    assert AppArmor(enabled=True).ready(asked, privileged=privileged) == profile
    assert not (host / "given").exists()


def test_hosts_without_it(host: Path) -> None:
    own = AppArmor(enabled=False)
    assert (own.ready("", privileged=False), own.problem) == ("", "")


def test_a_missing_parser_is_told(host: Path) -> None:
    (host / "apparmor_parser").unlink()
    own = AppArmor(enabled=True)
    assert own.ready("", privileged=False) == ""
    assert "apparmor_parser is not installed" in own.problem


def test_a_parser_that_refuses_fails_the_start_later(host: Path, caplog: pytest.LogCaptureFixture) -> None:
    (host / "apparmor_parser").write_text("#!/bin/sh\necho bad syntax >&2\nexit 1\n")
    assert AppArmor(enabled=True).ready("", privileged=False) == "corten-default"
    assert "bad syntax" in caplog.text
