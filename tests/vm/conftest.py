"""Tests of the other directories become tests here: they run in a virtual machine, and their results come out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from guest import TOP, Guest, lacking
from guest_results import Results

# what limits, pauses, kills, counts and shows through control groups
SMALL = (
    "tests/engine/test_runtime_cgroup2.py",
    "tests/engine/test_cgroup2_knobs.py",
    "tests/engine/test_stats.py",
    "tests/clients/test_limits.py",
)
WIDE = ("tests/engine", "tests/clients", "tests/faults")


def _selection() -> tuple[str, ...]:
    """``small``, ``wide``, or paths as pytest takes them."""
    wanted = os.environ.get("CORTEN_VM_TESTS", "small")
    return {"small": SMALL, "wide": WIDE}.get(wanted) or tuple(wanted.split())


def _collect(paths: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode:
        raise pytest.UsageError(f"the guest's tests cannot be collected:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return [line for line in done.stdout.splitlines() if "::" in line and not line.startswith(" ")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "node" in metafunc.fixturenames:
        if reason := lacking():
            skipped = pytest.mark.skip(reason=f"this machine lacks: {reason}")
            metafunc.parametrize("node", [pytest.param("", marks=skipped, id="none")])
        else:
            nodes = _collect(_selection())
            metafunc.parametrize("node", nodes, ids=nodes)


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with our own tiny init."""
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    with Guest(tmp_path_factory.mktemp("guest")) as made:
        yield made


@pytest.fixture(scope="session")
def results(guest: Guest, request: pytest.FixtureRequest) -> Results:
    """All tests that this session wants from the guest, running."""
    nodes = [
        item.callspec.params["node"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "node" in item.callspec.params
    ]
    return Results(guest, nodes)
