"""Imports go down the list of rooms in docs/architecture.md, never up."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "corten"

# room -> rooms it may import besides itself; "errors" and the package itself are open to everyone
MAY_IMPORT: dict[str, set[str]] = {
    "cli": {"client", "registry", "registry/server", "oci", "dockerapi", "dockerfile", "config", "places"},
    "client": {"dockerapi", "config", "places", "tls"},
    "__main__": {"cli"},
    "daemon": {"api", "engine", "network", "rootless", "config", "places"},
    "config": {"places"},
    "places": set(),
    "tls": set(),
    "rootless": {"network", "runtime", "linux", "places"},
    "api": {"api/http", "api/buildkit", "engine", "dockerapi", "buildkit", "grpc", "tls"},
    "api/buildkit": {
        "api/http",
        "engine",
        "build",
        "cdi",
        "dockerfile",
        "image",
        "oci",
        "dockerapi",
        "buildkit",
        "grpc",
    },
    "api/http": {"dockerapi"},
    "network": {"linux"},
    "engine": {
        *(
            "network",
            "buildkit",
            "grpc",
            "build",
            "cdi",
            "registry",
            "image",
            "snapshot",
            "shim",
            "logdriver",
            "runtime",
            "cgroup",
            "dockerfile",
            "oci",
            "dockerapi",
            "linux",
        ),
        "config",
    },
    "registry": {"image", "oci", "linux", "tls"},
    "registry/server": {"api/http", "registry", "oci", "linux", "tls"},
    "buildkit": {"grpc", "build", "dockerfile", "image", "oci", "linux"},
    "grpc": set(),
    "cdi": {"dockerapi"},
    "build": {"cdi", "dockerfile", "image", "snapshot", "oci", "linux", "tls"},
    "image": {"dockerfile", "snapshot", "oci", "linux"},
    "snapshot": {"oci", "linux"},
    "shim": {"runtime", "cgroup", "logdriver", "linux"},
    "logdriver": {"linux"},
    "runtime": {"cgroup", "linux"},
    "cgroup": {"linux"},
    "oci": set(),
    "dockerapi": set(),
    "dockerfile": set(),
    "linux": set(),
    "errors": set(),
}
# rooms within rooms, with rules of their own
INNER = ("api/http", "api/buildkit", "registry/server")
# what a fork per container pays for: nothing but the standard library
STANDARD_ONLY = ("shim", "runtime", "cgroup", "linux")
NO_THREADS = ("shim", "runtime", "cgroup", "linux")


def room_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    if len(relative.parts) == 1:
        return relative.stem
    return _room("/".join(relative.parts[:-1]))


def _room(place: str) -> str:
    """The room of a directory, or of a module's name with slashes."""
    return next((room for room in INNER if f"{place}/".startswith(f"{room}/")), place.partition("/")[0])


def imported(path: Path) -> Iterator[str]:
    """Names of all imported modules, wherever in the file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "corten":
                yield from (f"corten.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for name in imported(path):
        if not name.startswith("corten."):
            continue
        target = _room("/".join(name.split(".")[1:]))
        if target in (room, "errors", "__version__"):
            continue
        assert target in MAY_IMPORT[room], f"{path.relative_to(SOURCE)} ({room}) imports {name}"


@pytest.mark.parametrize("room", STANDARD_ONLY)
def test_rooms_below_the_fork_use_the_standard_library_only(room: str) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            assert top == "corten" or top in sys.stdlib_module_names, f"{path.relative_to(SOURCE)} imports {name}"


@pytest.mark.parametrize("room", NO_THREADS)
def test_rooms_below_the_fork_start_no_thread(room: str) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        names = set(imported(path))
        assert not names & {"threading", "_thread", "concurrent.futures", "asyncio", "multiprocessing"}, path


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms <= set(MAY_IMPORT)
