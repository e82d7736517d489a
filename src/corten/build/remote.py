"""Contexts that the daemon gets itself: an archive or a Dockerfile from a URL, or a git repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corten.build import fetch, git
from corten.build.context import Context
from corten.build.workshop import Cancellation
from corten.errors import InvalidParameter
from corten.image.compression import DEFAULT_LIMITS
from corten.image.pipes import iterated, peek

_MAX_DOCKERFILE = 4 << 20
ARCHIVE_START = 512
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def is_archive(start: bytes) -> bool:
    """start: the first ``ARCHIVE_START`` bytes"""
    return start.startswith(_ARCHIVES) or start[257:262] == b"ustar"


_NOTHING: Mapping[str, bytes] = {}


def remote_context(
    context: Context,
    address: str,
    scratch: Path,
    cancellation: Cancellation,
    *,
    host_network: bool,
    dockerfile: str,
    keep_git: bool = False,
    secrets: Mapping[str, bytes] = _NOTHING,
) -> None:
    """Fill a context.

    dockerfile: what a lone Dockerfile is called; keep_git: the directory ".git" of a repository comes along
    secrets: that a repository may want, see ``git.authorization``
    Errors: InvalidParameter (address), Unavailable (network), Forbidden, Cancelled.
    """
    if git.is_git(address):
        git.clone_into(
            context, address, scratch, cancellation, host_network=host_network, keep_git=keep_git, secrets=secrets
        )
        return
    if not fetch.is_url(address):
        raise InvalidParameter(f"remoteURL ({address[:200]}) could not be recognized as URL")
    fetched = fetch.fetch(address, cancellation, host_network=host_network)
    start, source = peek(iterated(fetched.chunks), ARCHIVE_START)
    if is_archive(start):
        context.read_tar(source, DEFAULT_LIMITS)
        return
    content = b""
    while chunk := source():
        content += chunk
        if len(content) > _MAX_DOCKERFILE:
            raise InvalidParameter(f"{address[:200]} is neither an archive nor a Dockerfile")
    context.add_file(dockerfile, content)
