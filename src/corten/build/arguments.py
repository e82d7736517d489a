"""ARG: which build arguments an instruction sees.

Source: Dockerfile reference, "ARG", "Predefined ARGs", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from collections.abc import Mapping

from corten.dockerfile import instructions as ins
from corten.dockerfile.words import expand
from corten.oci.platform import Platform

# usable without ARG, and then neither in the history nor part of the cache's keys
PROXIES = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
)


def platform_arguments(build: Platform, target: Platform) -> dict[str, str]:
    found = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found[f"{prefix}PLATFORM"] = str(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = platform.variant
    return found


class GlobalArguments:
    """Arguments before the first FROM."""

    def __init__(
        self, declared: tuple[ins.Arg, ...], given: Mapping[str, str | None], platforms: Mapping[str, str], escape: str
    ) -> None:
        """Errors: WordError, with the line of the ARG."""
        self.given = given
        self.platforms = platforms
        self.used: set[str] = set()
        self._declared: dict[str, str] = {}
        for instruction in declared:
            for name, default in instruction.pairs:
                value = default
                if given.get(name) is not None:
                    value = given[name]
                    self.used.add(name)
                elif default is not None:
                    value = expand(default, self.variables(), escape)
                elif name in platforms:
                    value = platforms[name]
                if value is not None:
                    self._declared[name] = value

    def variables(self) -> dict[str, str]:
        """What FROM sees."""
        return {**self.platforms, **self._declared}

    def value_for_stage(self, name: str, default: str | None) -> str | None:
        """What ``ARG name[=default]`` means inside a stage."""
        if name in self.given:
            self.used.add(name)
            if self.given[name] is not None:
                return self.given[name]
        if default is not None:
            return default
        if name in self._declared:
            return self._declared[name]
        return self.platforms.get(name)

    def proxies(self) -> dict[str, str]:
        return {name: value for name, value in self.given.items() if name in PROXIES and value is not None}

    def unused(self) -> list[str]:
        """Given and never declared: most likely a misspelled name."""
        return sorted(name for name in self.given if name not in self.used and name not in PROXIES)
