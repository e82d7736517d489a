"""Image references as they are typed: "name", "name:tag", "name@sha256:…"."""

from __future__ import annotations

HUB = "docker.io"


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


def domain_of(text: str) -> str:
    """The registry that a reference names.

    >>> domain_of("a/b"), domain_of("localhost/a"), domain_of("r.io:5000/a:1")
    ('docker.io', 'localhost', 'r.io:5000')
    """
    first, slash, _ = text.partition("/")
    is_domain = slash and (first == "localhost" or "." in first or ":" in first or first.lower() != first)
    return first if is_domain and first != "index.docker.io" else HUB


def complete(text: str) -> str:
    """The reference in full.

    >>> complete("debian"), complete("a/b:1")
    ('docker.io/library/debian:latest', 'docker.io/a/b:1')
    """
    domain = domain_of(text)
    rest = text.removeprefix(f"{domain}/").removeprefix("index.docker.io/")
    if domain == HUB and "/" not in rest.partition("@")[0]:
        rest = f"library/{rest}"
    return f"{domain}/{rest}" if split_reference(rest)[1] else f"{domain}/{rest}:latest"
