"""Names of OCI runtimes: where they come from, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from corten import config
from corten.engine import runtimes
from corten.engine.runtimes import Runtimes
from corten.errors import InvalidParameter


def load(tmp_path: Path, document: object, *flags: str) -> config.Config:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps(document))
    return config.load(["--config-file", str(path), *flags])


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only runtime of this host, crun."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "crun").write_text("#!/bin/sh\n")
    (directory / "crun").chmod(0o755)
    monkeypatch.setattr(runtimes, "_PLACES", str(directory))
    return directory / "crun"


def test_runtimes_of_the_file_and_of_flags(tmp_path: Path, program: Path) -> None:
    other = {"path": "/x/runsc", "runtimeArgs": ["--platform=kvm"]}
    settings = load(tmp_path, {"runtimes": {"gvisor": other}, "default-runtime": "gvisor"})
    known = Runtimes(settings)
    assert known.default == "gvisor"
    assert known.describe() == {
        "corten": {"path": "corten-oci"},
        "crun": {"path": str(program)},
        "gvisor": other,
    }
    assert Runtimes(load(tmp_path, {}, "--add-runtime", f"mine={program}")).command("mine") == (str(program),)


def test_commands(tmp_path: Path, program: Path) -> None:
    settings = load(tmp_path, {"runtimes": {"mine": {"path": str(program), "runtimeArgs": ["-x"]}}})
    known = Runtimes(settings)
    assert known.command("") == known.command("corten") == ()
    assert known.command("crun") == (str(program),)
    assert known.command("mine") == (str(program), "-x")
    with pytest.raises(InvalidParameter, match="unknown or invalid runtime name: nope"):
        known.check("nope")
    program.unlink()
    with pytest.raises(InvalidParameter, match=r"failed to retrieve OCI runtime mine: .* cannot be executed"):
        known.command("mine")


def test_they_change_at_run_time(tmp_path: Path, program: Path) -> None:
    settings = load(tmp_path, {})
    known = Runtimes(settings)
    known.reload(replace(settings, runtimes={"new": (str(program),)}, default_runtime="new"))
    assert known.default == "new"
    known.check("new")
    known.reload(settings)
    assert known.default == "corten"
    with pytest.raises(InvalidParameter, match="unknown"):
        known.check("new")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"corten": {"path": "/x"}}, "runtime name 'corten' is reserved"),
        ({"x": "/x"}, "an object with a path is needed"),
        ({"x": {}}, "a path is needed"),
        ({"x": {"path": "/x", "runtimeArgs": "-x"}}, "runtimeArgs are a list"),
        ({"x": {"path": "/x", "runtimeArgs": [1]}}, "runtimeArgs are texts"),
        ({"x": {"runtimeType": "io.containerd.runc.v2"}}, "only path and runtimeArgs are supported, not runtimeType"),
    ],
)
def test_what_is_refused(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        load(tmp_path, {"runtimes": document})
