"""One call of ``corten-oci``: what it was asked for, and where the containers are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from corten.cgroup.manager import Cgroup
from corten.runtime.state import StateDirectory, require


class Call:
    def __init__(self, options: argparse.Namespace, tell: Callable[[str, str], None]) -> None:
        """tell: (level, message) for what is not the answer itself"""
        self.options = options
        self.tell = tell
        self.states = StateDirectory(options.root)
        self.seccomp_cache = f"{options.root}/.seccomp"

    def print(self, text: str) -> None:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    def cgroup(self, operation: str) -> Cgroup:
        """The container's, whose state must allow the operation.  Errors: NotFound, Conflict."""
        state = self.states.load(self.options.id)
        require(operation, self.states.status(state))
        return Cgroup(state.cgroup_path)
