"""Image references: ``[domain/]path[:tag][@digest]``.

Source: the reference grammar published with the distribution project (reference.go's header comment) and Docker's rules
for familiar names: no domain means ``docker.io``, one path component there means ``library/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from corten.errors import InvalidParameter
from corten.oci.digest import Digest, is_digest, is_hex_id

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
MAX_NAME_LENGTH = 255  # bytes of domain/path

_ALNUM = r"[a-z0-9]+"
_SEPARATOR = r"(?:[._]|__|[-]+)"
_COMPONENT = rf"{_ALNUM}(?:{_SEPARATOR}{_ALNUM})*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_DOMAIN_ONLY = re.compile(_DOMAIN)
_PATH_ONLY = re.compile(_PATH)
_TAG_ONLY = re.compile(_TAG)
_REFERENCE = re.compile(rf"(?P<name>(?:{_DOMAIN}/)?{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")

_INVALID = "invalid reference format"


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository, with a tag, a digest, both or neither."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``docker.io/library/busybox``: the name without tag and digest, complete."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """``busybox``: as people write it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        return short if "/" not in short else self.path

    @property
    def canonical(self) -> str:
        return self.repository + self._suffix()

    @property
    def familiar(self) -> str:
        return self.familiar_repository + self._suffix()

    @property
    def is_name_only(self) -> bool:
        return not self.tag and not self.digest

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """Itself, or with ``latest`` when it names only a repository."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """Errors: InvalidParameter for a malformed tag."""
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def __str__(self) -> str:
        return self.familiar


def parse(text: str) -> Reference:
    """A reference as people write it ("busybox", "ghcr.io/a/b:1@sha256:…").

    Errors: InvalidParameter("invalid reference format…"), Docker's wording.
    """
    if is_hex_id(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    name_part = remainder.partition("@")[0].partition(":")[0]
    if name_part != name_part.lower():
        raise InvalidParameter(f"{_INVALID}: repository name must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidParameter(_INVALID)
    path = match["name"][len(domain) + 1 :]
    if not _DOMAIN_ONLY.fullmatch(domain) or not _PATH_ONLY.fullmatch(path):
        raise InvalidParameter(_INVALID)
    if len(path) > MAX_NAME_LENGTH:
        raise InvalidParameter(f"repository name must not be more than {MAX_NAME_LENGTH} characters")
    digest = match["digest"] or ""
    if digest and not is_digest(digest):
        raise InvalidParameter(f"{_INVALID}: unsupported digest {digest[:80]}")
    return Reference(domain, path, match["tag"] or "", Digest(digest))


def try_parse(text: str) -> Reference | None:
    try:
        return parse(text)
    except InvalidParameter:
        return None


def is_tag(text: str) -> bool:
    return _TAG_ONLY.fullmatch(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    """The part before the first slash is a domain when it has a dot, a port, upper case, or is ``localhost``."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        domain, remainder = DEFAULT_DOMAIN, text
    else:
        domain, remainder = first, rest
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder
