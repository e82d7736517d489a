"""The OCI runtimes that containers may ask for by name: Corten's own and others that this host has."""

from __future__ import annotations

import os
import shutil
from typing import Any

from corten.config import Config
from corten.errors import InvalidParameter

OWN = "corten"
OWN_PATH = "corten-oci"
# known by their names where they are installed, as dockerd knows runc
WELL_KNOWN = ("crun", "runc", "runsc", "youki")
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Command = tuple[str, ...]


class Runtimes:
    """Names and what they stand for."""

    def __init__(self, config: Config) -> None:
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take over ``runtimes`` and ``default-runtime``; containers that run keep theirs."""
        found = {name: shutil.which(name, path=_PLACES) for name in WELL_KNOWN}
        self._known: dict[str, Command] = {name: (path,) for name, path in found.items() if path}
        self._known |= config.runtimes
        self.default = config.default_runtime or OWN

    def check(self, name: str) -> None:
        """Errors: InvalidParameter in dockerd's words for a name that nobody knows."""
        if name and name != OWN and name not in self._known:
            hint = " (it is not installed on this host)" if name in WELL_KNOWN else ""
            raise InvalidParameter(f"unknown or invalid runtime name: {name}{hint}")

    def command(self, name: str) -> Command:
        """The program and its options; empty for Corten's own.

        Errors: InvalidParameter for a name that nobody knows (any more), or a program that is not there.
        """
        self.check(name)
        if not name or name == OWN:
            return ()
        program, *options = self._known[name]
        path = program if os.path.isabs(program) else shutil.which(program, path=os.environ.get("PATH") or _PLACES)
        if path is None or not os.access(path, os.X_OK):
            raise InvalidParameter(f"failed to retrieve OCI runtime {name}: {program} cannot be executed")
        return (path, *options)

    def describe(self) -> dict[str, dict[str, Any]]:
        """``Runtimes`` of ``GET /info``."""
        documents: dict[str, dict[str, Any]] = {OWN: {"path": OWN_PATH}}
        for name, (path, *options) in sorted(self._known.items()):
            documents[name] = {"path": path, **({"runtimeArgs": options} if options else {})}
        return documents
