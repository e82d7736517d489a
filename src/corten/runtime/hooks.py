"""Lifecycle hooks: programs of ``hooks`` in config.json that get the container's state on standard input.

Source: runtime-spec config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import json

from corten.errors import InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# by the parent, in the namespaces that the runtime was called in
OF_THE_RUNTIME = ("prestart", "createRuntime")
NAMES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def check(hooks: dict[str, Any]) -> None:
    """Errors: InvalidParameter for unknown kinds and for hooks that cannot be executed."""
    for name, entries in hooks.items():
        if name not in NAMES:
            raise InvalidParameter(f"hooks: '{name}' is not a hook of the specification")
        for entry in entries or ():
            if not str(entry.get("path", "")).startswith("/"):
                raise InvalidParameter(f"hooks.{name}: path must be absolute")
            timeout = entry.get("timeout")
            if timeout is not None and (not isinstance(timeout, int) or timeout <= 0):
                raise InvalidParameter(f"hooks.{name}: timeout must be greater than zero")


def load() -> None:
    """Import what running them takes: the container's init, where some of them run, cannot import anything."""
    import subprocess  # noqa: F401


def run(hooks: dict[str, Any], name: str, state: dict[str, Any]) -> None:
    """Run the hooks of one kind in order.

    Errors: SystemFailure for one that fails or exceeds its timeout (seconds).
    """
    entries = hooks.get(name)
    if not entries:
        return
    import subprocess

    for index, entry in enumerate(entries):
        environment = dict(item.partition("=")[::2] for item in entry.get("env") or ())
        arguments = entry.get("args") or [entry["path"]]
        try:
            done = subprocess.run(
                arguments,
                executable=entry["path"],
                env=environment,
                input=json.dumps(state).encode(),
                capture_output=True,
                timeout=entry.get("timeout"),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SystemFailure(
                f"{name} hook #{index} ({entry['path']}) did not end within {entry['timeout']} s", step=name
            ) from None
        except OSError as error:
            raise SystemFailure(
                f"{name} hook #{index} ({entry['path']}): {(error.strerror or '').lower()}", step=name
            ) from error
        if done.returncode:
            output = done.stderr.decode(errors="replace").strip()
            raise SystemFailure(
                f"{name} hook #{index} ({entry['path']}) failed with code {done.returncode}: {output}", step=name
            )
