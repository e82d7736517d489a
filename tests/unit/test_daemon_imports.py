"""What a daemon has in memory before anybody asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# as ``daemon._serve`` imports it
START = """
import corten.daemon
from corten.api.server import Server
from corten.engine.engine import Engine
"""
# BuildKit's protocol, registries, signatures, compression: some clients need them, most do not
ON_DEMAND = (
    "h2",
    "hpack",
    "hyperframe",
    "google",
    "urllib3",
    "isal",
    "zstandard",
    "yaml",
    "corten.grpc",
    "corten.buildkit.proto",
    "corten.buildkit.listing",
    "corten.api.buildkit.services",
)


def told_by(script: str) -> Any:
    """The JSON that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_fresh_daemon_has_no_module_that_few_clients_need() -> None:
    modules = told_by(f"{START}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    assert "corten.api.buildkit.connections" in modules
    assert [name for name in modules if name.startswith(ON_DEMAND)] == []


def test_the_first_client_of_buildkit_does_not_hold_up_the_others() -> None:
    """Its modules come beside the event loop."""
    script = f"""
{START}
import asyncio, json, sys, threading
from corten.api.buildkit import connections

threads = {{}}

class Watcher:
    def find_spec(self, name, path, target=None):
        threads[name] = threading.current_thread() is threading.main_thread()

sys.meta_path.insert(0, Watcher())
asyncio.run(connections.load())
print(json.dumps(threads))
"""
    on_the_loop = told_by(script)
    assert on_the_loop["corten.api.buildkit.services"] is False
    assert on_the_loop["h2.connection"] is False
    assert on_the_loop["google.protobuf"] is False
    assert not any(on_the_loop.values())
