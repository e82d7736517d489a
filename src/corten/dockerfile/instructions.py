"""Instructions as typed data.  Words are as they were written: variables are replaced when the instruction is executed.

Source: Dockerfile reference, one section for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from corten.dockerfile.source import Heredoc, LogicalLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """line: where it stands; original: what the progress shows"""

    line: LogicalLine
    keyword: str
    original: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is executed: ``words`` as they are (exec form), or one ``words[0]`` for the shell."""

    words: tuple[str, ...]
    in_shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """quoted: name and value as written"""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """pairs: (name, default); None without one"""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    image: str
    alias: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """``--mount`` of RUN, its options as written.

    type: bind, cache, tmpfs, secret or ssh; options: name -> value ("" for a name alone)
    """

    type: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """``--device`` of RUN: a name as it is written; a step without it fails when it is required."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """COPY and ADD.

    sources: paths and URLs; heredocs are those among them that open one, by their place
    link:    the copied files are independent of what is below them
    parents: directories of the sources are kept
    """

    sources: tuple[str, ...]
    target: str
    heredocs: tuple[Heredoc, ...] = ()
    origin: str = ""
    owner: str = ""
    mode: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None

    @property
    def is_add(self) -> bool:
        return self.keyword == "ADD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """test: ``NONE``, or ``CMD``/``CMD-SHELL`` and the command; times in nanoseconds, 0 for what is not given"""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """trigger: the instruction as it will be read in the image that is built on this one"""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True)
class Stage:
    """name: as given by AS, lower case, or its number"""

    number: int
    name: str
    start: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """arguments: ARG before the first FROM; lines: the physical lines"""

    stages: tuple[Stage, ...]
    arguments: tuple[Arg, ...]
    escape: str
    directives: dict[str, str]
    lines: tuple[str, ...]
    warnings: tuple[tuple[int, str], ...] = ()
