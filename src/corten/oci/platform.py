"""Platforms: operating system, processor architecture, variant.

Source: OCI image-spec v1.1, image-index.md (``platform``), and the aliases that Docker's clients accept.
"""

from __future__ import annotations

import platform as _host
import re
from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter

_ARCHITECTURES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "amd64": ("amd64", ""),
    "aarch64": ("arm64", ""), "arm64": ("arm64", ""),
    "armhf": ("arm", "v7"), "armv7l": ("arm", "v7"), "armel": ("arm", "v6"), "armv6l": ("arm", "v6"),
    "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""),
    "powerpc64le": ("ppc64le", ""), "mips64el": ("mips64le", ""),
}  # fmt: skip
_PART = re.compile(r"[A-Za-z0-9_.-]+")
# what a machine can run beside its own architecture, best first
_COMPATIBLE = {"amd64": ("386",), "arm64": ("arm",)}


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def is_unknown(self) -> bool:
        """Build attestations are listed under the platform unknown/unknown."""
        return self.os == "unknown" or self.architecture == "unknown"

    def rank(self, wanted: Platform) -> int:
        """How well an image of this platform serves ``wanted``: 0 is exact, -1 is not at all."""
        if self.os != wanted.os:
            return -1
        if self.architecture == wanted.architecture:
            if not wanted.variant or not self.variant or self.variant == wanted.variant:
                return 0
            # an older variant of the same architecture runs on a newer one: v6 on v7
            return 1 if self.variant < wanted.variant else -1
        compatible = _COMPATIBLE.get(wanted.architecture, ())
        return 2 + compatible.index(self.architecture) if self.architecture in compatible else -1


def normalize(os_name: str, architecture: str, variant: str = "") -> Platform:
    """One spelling per platform: x86_64 is amd64, arm64/v8 is arm64, arm alone is arm/v7."""
    os_name = (os_name or "linux").lower()
    architecture = architecture.lower()
    variant = variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    elif architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    elif architecture == "amd64" and variant == "v1":
        variant = ""
    return Platform(os_name, architecture, variant)


def this_machine() -> Platform:
    return normalize("linux", _host.machine())


def parse_platform(text: str) -> Platform:
    """ "linux/arm64/v8", "linux", "arm64".

    Errors: InvalidParameter naming the text.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    here = this_machine()
    if len(parts) == 1:
        word = parts[0].lower()
        if word in ("linux", "windows", "darwin", "freebsd"):
            return Platform(word, here.architecture, here.variant)
        return normalize("linux", word)
    return normalize(*parts)


def from_document(document: dict[str, Any]) -> Platform:
    """The platform of an image config or of a descriptor's ``platform`` field; what is missing is this machine's."""
    architecture, os_name, variant = (document.get(key) or "" for key in ("architecture", "os", "variant"))
    if not all(isinstance(part, str) for part in (architecture, os_name, variant)):
        raise InvalidParameter("invalid platform: os, architecture and variant must be strings")
    if not architecture:
        return this_machine()
    return normalize(os_name, architecture, variant)
