"""One instruction: a logical line becomes a typed instruction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from corten.dockerfile import instructions as ins
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.flags import Flags, read_flags, take_flags
from corten.dockerfile.pieces import NotStrings, duration_ns, json_words, words_of
from corten.dockerfile.source import Heredoc, LogicalLine, heredoc_mark

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*\Z")
_MOUNT_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_MILLISECOND_NS = 10**6
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def check_trigger(keyword: str, line: LogicalLine) -> None:
    """Errors: DockerfileError for an instruction that cannot be a trigger."""
    if keyword == "ONBUILD":
        raise line.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise line.error(f"{keyword} isn't allowed as an ONBUILD trigger")


@dataclass(slots=True)
class _Given:
    """An instruction taken apart: what its own parser works on."""

    line: LogicalLine
    keyword: str
    rest: str
    flags: Flags
    escape: str
    original: str
    heredocs: tuple[Heredoc, ...] = field(default=())

    def error(self, what: str, at: str = "") -> DockerfileError:
        return self.line.error(what, at)


class InstructionParser:
    """escape: the escape letter of the file"""

    def __init__(self, escape: str = "\\") -> None:
        self._escape = escape

    def parse(self, line: LogicalLine) -> ins.Instruction:
        """Errors: DockerfileError."""
        match = re.match(r"\s*(\S+)\s*(.*)\Z", line.text, re.DOTALL)
        assert match is not None  # blank lines are no logical lines
        keyword, rest = match[1].upper(), match[2].rstrip()
        action = _PARSERS.get(keyword)
        if action is None:
            from difflib import get_close_matches

            near = get_close_matches(keyword, _PARSERS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise line.error(f"unknown instruction: {match[1]}{hint}", match[1])
        words, rest = take_flags(rest, self._escape) if keyword != "ONBUILD" else ([], rest)
        flags = read_flags(keyword, words, line)
        given = _Given(line, keyword, rest, flags, self._escape, _original(line), line.heredocs)
        try:
            return action(given)
        except NotStrings as error:
            raise line.error(error.message, "[") from None


def _original(line: LogicalLine) -> str:
    text = line.text.strip()
    for heredoc in line.heredocs:
        text += f"\n{heredoc.content}{heredoc.name}"
    return text


# -- shared by several ------------------------------------------------------------------------------------------------


def _command(given: _Given) -> ins.Command:
    words = json_words(given.rest)
    if words is not None:
        return ins.Command(words=tuple(words), in_shell=False)
    return ins.Command(words=(given.rest,) if given.rest else (), in_shell=True)


def _one(given: _Given) -> str:
    if not given.rest:
        raise given.error(f"{given.keyword} requires exactly one argument")
    return given.rest


def _blank_apart(given: _Given) -> list[str]:
    return given.rest.split()


def _pairs(given: _Given) -> tuple[ins.Pair, ...]:
    words = words_of(given.rest, given.escape)
    if not words:
        raise given.error(f"{given.keyword} requires at least one argument")
    if "=" not in words[0]:
        # the old form: all that follows the name is the value
        parts = given.rest.split(None, 1)
        if len(parts) < 2:
            raise given.error(f"{given.keyword} must have two arguments", parts[0])
        return (ins.Pair(name=parts[0], value=parts[1]),)
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise given.error(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value', word)
        if not name:
            raise given.error(f"{given.keyword} names can not be blank", word)
        pairs.append(ins.Pair(name=name, value=value))
    return tuple(pairs)


# -- instructions -----------------------------------------------------------------------------------------------------


def _from(given: _Given) -> ins.From:
    words = _blank_apart(given)
    alias = ""
    if len(words) == 3 and words[1].upper() == "AS":
        alias = words[2].lower()
        if not _STAGE_NAME.match(alias):
            raise given.error(
                f"invalid name for build stage: {json.dumps(words[2])}, "
                "name can't start with a number or contain symbols",
                words[2],
            )
    elif len(words) != 1:
        raise given.error("FROM requires either one or three arguments")
    return ins.From(
        line=given.line,
        keyword="FROM",
        original=given.original,
        image=words[0],
        alias=alias,
        platform=given.flags.text("platform"),
    )


def _arg(given: _Given) -> ins.Arg:
    words = words_of(given.rest, given.escape)
    if not words:
        raise given.error("ARG requires at least one argument")
    pairs: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise given.error("ARG names can not be blank", word)
        pairs.append((name, value if equals else None))
    return ins.Arg(line=given.line, keyword="ARG", original=given.original, pairs=tuple(pairs))


def _env(given: _Given) -> ins.Env:
    return ins.Env(line=given.line, keyword="ENV", original=given.original, pairs=_pairs(given))


def _label(given: _Given) -> ins.Label:
    return ins.Label(line=given.line, keyword="LABEL", original=given.original, pairs=_pairs(given))


def _fields(text: str, given: _Given, flag: str) -> list[str]:
    """Values between commas."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise given.error(f"failed to parse csv {flag}s: {error}", f"--{flag}") from None
    return rows[0] if rows else []


def _device(text: str, given: _Given) -> ins.Device:
    """``NAME[,required]``, in any order; ``vendor/class=name`` is a name too."""
    name, required = "", False
    for item in _fields(text, given, "device"):
        key, equals, value = item.partition("=")
        if key.lower() == "required":
            if equals and value.lower() not in _BOOLEANS:
                raise given.error(f"invalid value for required: {value}", "--device")
            required = not equals or _BOOLEANS[value.lower()]
        elif key.lower() == "name" and equals:
            if name:
                raise given.error(f"device name already set to {name}", "--device")
            name = value
        elif name:
            raise given.error(f"unexpected {item!r} beside the device {name}", "--device")
        else:
            name = item
    if not name:
        raise given.error("a device needs a name", "--device")
    return ins.Device(name, required)


def _mount(text: str, given: _Given) -> ins.Mount:
    options: dict[str, str] = {}
    for item in _fields(text, given, "mount"):
        name, _, value = item.partition("=")
        options[name.lower()] = value
    kind = options.pop("type", "bind")
    if kind not in _MOUNT_TYPES:
        raise given.error(f'unsupported mount type "{kind}"', kind)
    return ins.Mount(type=kind, options=options)


def _run(given: _Given) -> ins.Run:
    command = _command(given)
    if not command.words:
        raise given.error("RUN requires at least one argument")
    network = given.flags.text("network").lower()
    if network not in ("", "default", "none", "host"):
        raise given.error(f'invalid network mode "{network}"', "--network")
    security = given.flags.text("security").lower()
    if security not in ("", "sandbox", "insecure"):
        raise given.error(f'security "{security}" is not valid', "--security")
    if given.heredocs and not command.in_shell:
        raise given.error("a here-document needs the shell form of RUN", "<<")
    return ins.Run(
        line=given.line,
        keyword="RUN",
        original=given.original,
        command=command,
        heredocs=given.heredocs,
        mounts=tuple(_mount(text, given) for text in given.flags.listed("mount")),
        network=network,
        security=security,
        devices=tuple(_device(text, given) for text in given.flags.listed("device")),
    )


def _transfer(given: _Given) -> ins.Transfer:
    words = json_words(given.rest)
    heredocs: list[Heredoc] = []
    if words is None:
        words = _blank_apart(given)
        heredocs = list(given.heredocs)
    if len(words) < 2:
        problem = "but only one was provided. Destination could not be determined" if words else "but none was provided"
        raise given.error(f"{given.keyword} requires at least two arguments, {problem}.")
    if heredoc_mark(words[-1], given.escape) is not None and heredocs:
        raise given.error(f"{given.keyword} cannot accept a heredoc as a destination", words[-1])
    sources = [word for word in words[:-1] if not heredocs or heredoc_mark(word, given.escape) is None]
    flags = given.flags
    return ins.Transfer(
        line=given.line,
        keyword=given.keyword,
        original=given.original,
        sources=tuple(sources),
        target=words[-1],
        heredocs=tuple(heredocs),
        origin=flags.text("from"),
        owner=flags.text("chown"),
        mode=flags.text("chmod"),
        link=flags.switch("link"),
        parents=flags.switch("parents"),
        exclude=flags.listed("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switches.get("unpack"),
    )


def _workdir(given: _Given) -> ins.Workdir:
    return ins.Workdir(line=given.line, keyword="WORKDIR", original=given.original, path=_one(given))


def _user(given: _Given) -> ins.User:
    return ins.User(line=given.line, keyword="USER", original=given.original, user=_one(given))


def _volume(given: _Given) -> ins.Volume:
    words = json_words(given.rest)
    paths = words if words is not None else _blank_apart(given)
    if not paths:
        raise given.error("VOLUME requires at least one argument")
    if not all(path.strip() for path in paths):
        raise given.error("VOLUME specified can not be an empty string")
    return ins.Volume(
        line=given.line, keyword="VOLUME", original=given.original, paths=tuple(path.strip() for path in paths)
    )


def _expose(given: _Given) -> ins.Expose:
    ports = _blank_apart(given)
    if not ports:
        raise given.error("EXPOSE requires at least one argument")
    return ins.Expose(line=given.line, keyword="EXPOSE", original=given.original, ports=tuple(ports))


def _cmd(given: _Given) -> ins.Cmd:
    return ins.Cmd(line=given.line, keyword="CMD", original=given.original, command=_command(given))


def _entrypoint(given: _Given) -> ins.Entrypoint:
    return ins.Entrypoint(line=given.line, keyword="ENTRYPOINT", original=given.original, command=_command(given))


def _shell(given: _Given) -> ins.Shell:
    words = json_words(given.rest)
    if words is None:
        raise given.error("SHELL requires the arguments to be in JSON form")
    if not words:
        raise given.error("SHELL requires at least one argument")
    return ins.Shell(line=given.line, keyword="SHELL", original=given.original, words=tuple(words))


def _stopsignal(given: _Given) -> ins.StopSignal:
    return ins.StopSignal(line=given.line, keyword="STOPSIGNAL", original=given.original, signal=_one(given))


def _maintainer(given: _Given) -> ins.Maintainer:
    return ins.Maintainer(line=given.line, keyword="MAINTAINER", original=given.original, name=_one(given))


def _onbuild(given: _Given) -> ins.OnBuild:
    if not given.rest:
        raise given.error("ONBUILD requires at least one argument")
    inner = LogicalLine(given.line.number, given.line.end, given.rest, given.line.first, given.heredocs)
    instruction = InstructionParser(given.escape).parse(inner)
    check_trigger(instruction.keyword, given.line)
    trigger = given.rest
    for heredoc in given.heredocs:
        trigger += f"\n{heredoc.content}{heredoc.name}"
    return ins.OnBuild(line=given.line, keyword="ONBUILD", original=given.original, trigger=trigger)


def _healthcheck(given: _Given) -> ins.Healthcheck:
    parts = given.rest.split(None, 1)
    if not parts:
        raise given.error("HEALTHCHECK requires at least one argument")
    kind, rest = parts[0].upper(), parts[1] if len(parts) > 1 else ""
    if kind == "NONE":
        if rest:
            raise given.error("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(line=given.line, keyword="HEALTHCHECK", original=given.original, test=("NONE",))
    if kind != "CMD":
        raise given.error(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)', parts[0])
    words = json_words(rest)
    if not (words if words is not None else rest):
        raise given.error("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *words) if words is not None else ("CMD-SHELL", rest)
    retries = given.flags.text("retries")
    if retries and (not re.fullmatch(r"\+?\d{1,10}", retries) or not 0 <= int(retries) < 1 << 31):
        raise given.error(f"--retries cannot be negative ({retries[:20]})", "--retries")
    return ins.Healthcheck(
        line=given.line,
        keyword="HEALTHCHECK",
        original=given.original,
        test=test,
        interval=_interval(given, "interval"),
        timeout=_interval(given, "timeout"),
        start_period=_interval(given, "start-period"),
        start_interval=_interval(given, "start-interval"),
        retries=int(retries or 0),
    )


def _interval(given: _Given, name: str) -> int:
    text = given.flags.text(name)
    if not text:
        return 0
    value = duration_ns(text)
    if value is None:
        raise given.error(f'time: invalid duration "{text[:60]}"', f"--{name}")
    if value < 0 or 0 < value < _MILLISECOND_NS:
        raise given.error(f'Interval "{name}" cannot be less than 1ms', f"--{name}")
    return value


_PARSERS: dict[str, Callable[[_Given], ins.Instruction]] = {
    "ADD": _transfer,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _transfer,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
