"""Image references as they are typed: "name", "name:tag", "name@sha256:…"."""

from __future__ import annotations


def split_reference(text: str) -> tuple[str, str]:
    """(name, tag or digest or nothing).

    >>> split_reference("localhost:5000/a:1")
    ('localhost:5000/a', '1')
    """
    name, at, digest = text.partition("@")
    if at:
        return name, digest
    head, slash, last = text.rpartition("/")
    short, _, tag = last.partition(":")
    return head + slash + short, tag


def with_tag(text: str) -> str:
    """The reference with the tag that is meant when none is given."""
    familiar = text.removeprefix("docker.io/").removeprefix("library/")
    return familiar if split_reference(familiar)[1] else f"{familiar}:latest"
