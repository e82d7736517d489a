"""What clients ask for in query strings, read and typed: passed from the API edge to the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from corten.dockerapi.detach_keys import DEFAULT_DETACH_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachQuery:
    """What an attach asks for.

    stream:      the live streams; without it only ``logs``
    logs:        begin with what was written so far
    detach_keys: the raw key sequence that ends a session
    """

    stream: bool = True
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    logs: bool = False
    detach_keys: bytes = DEFAULT_DETACH_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which lines of a log.

    since, until: nanoseconds since the epoch, 0 for no bound
    tail:         lines from the end, -1 for all
    timestamps:   each line begins with its time
    details:      each line begins with the attributes that the log options chose
    """

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    since: int = 0
    until: int = 0
    tail: int = -1
    timestamps: bool = False
    details: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitQuery:
    """What becomes of a container as an image.  ``changes``: Dockerfile instructions."""

    container: str
    repo: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportQuery:
    """What an archive becomes as an image.  ``changes``: Dockerfile instructions; ``platform``: "os/arch"."""

    repo: str = ""
    tag: str = ""
    message: str = ""
    platform: str = ""
    changes: list[str] = field(default_factory=list)
