"""``-c`` of ``import`` and ``commit``: Dockerfile instructions applied to an image's run configuration.

Source: docker import(1), docker commit(1), the Dockerfile reference.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from corten.errors import InvalidParameter
from corten.image.words import expand, split_words

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MAX_PORTS = 65536
_MILLISECOND_NS = 10**6


def apply_changes(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """A new configuration with the instructions applied in order.

    Errors: InvalidParameter, Docker's wording ("X is not a valid change command").
    """
    editor = _Editor(config)
    for line in "\n".join(changes).split("\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            editor.apply(line)
    return editor.config


class _Editor:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = {key: _copied(value) for key, value in config.items()}
        self._command_set = False
        self._known: dict[str, Callable[[str], None]] = {
            "cmd": self._cmd,
            "entrypoint": self._entrypoint,
            "env": self._env,
            "expose": self._expose,
            "healthcheck": self._healthcheck,
            "label": self._label,
            "onbuild": self._onbuild,
            "stopsignal": self._stopsignal,
            "user": self._user,
            "volume": self._volume,
            "workdir": self._workdir,
        }

    def apply(self, line: str) -> None:
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        action = self._known.get(word.lower())
        if action is None:
            raise InvalidParameter(f"{word} is not a valid change command")
        rest = rest.strip()
        if not rest and word.lower() not in ("cmd", "entrypoint"):
            raise InvalidParameter(f"{word.upper()} requires at least one argument")
        action(rest)

    def _variables(self) -> dict[str, str]:
        return dict(item.partition("=")[::2] for item in self.config.get("Env") or ())

    def _expand(self, text: str) -> str:
        return expand(text, self._variables())

    def _program(self, text: str) -> list[str]:
        words = _json_words(text)
        if words is not None:
            return words
        shell = self.config.get("Shell") or ["/bin/sh", "-c"]
        return [*shell, text] if text else []

    def _cmd(self, text: str) -> None:
        self.config["Cmd"] = self._program(text)
        self._command_set = True

    def _entrypoint(self, text: str) -> None:
        self.config["Entrypoint"] = self._program(text)
        # a new entry point makes the old command meaningless, unless it was said in the same breath
        if not self._command_set:
            self.config.pop("Cmd", None)

    def _pairs(self, text: str, what: str) -> list[tuple[str, str]]:
        words = split_words(text)
        if "=" not in words[0]:
            # the old form: the rest of the line is one value
            name, _, value = text.partition(" ") if " " in text else text.partition("\t")
            if not value.strip():
                raise InvalidParameter(f"{what} must have two arguments")
            return [(self._expand(name), self._expand(value.strip()))]
        pairs = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise InvalidParameter(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
            pairs.append((self._expand(name), self._expand(value)))
        return pairs

    def _env(self, text: str) -> None:
        for name, value in self._pairs(text, "ENV"):
            if not name:
                raise InvalidParameter("ENV names can not be blank")
            listed = [item for item in self.config.get("Env") or [] if item.partition("=")[0] != name]
            old = self.config.get("Env") or []
            places = [index for index, item in enumerate(old) if item.partition("=")[0] == name]
            listed.insert(places[0] if places else len(listed), f"{name}={value}")
            self.config["Env"] = listed

    def _label(self, text: str) -> None:
        labels = dict(self.config.get("Labels") or {})
        for name, value in self._pairs(text, "LABEL"):
            if not name:
                raise InvalidParameter("LABEL names can not be blank")
            labels[name] = value
        self.config["Labels"] = labels

    def _expose(self, text: str) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in split_words(text):
            for port in parse_ports(self._expand(word)):
                ports[port] = {}
        self.config["ExposedPorts"] = ports

    def _volume(self, text: str) -> None:
        words = _json_words(text)
        volumes = dict(self.config.get("Volumes") or {})
        for word in words if words is not None else split_words(text):
            place = self._expand(word).strip()
            if not place:
                raise InvalidParameter("VOLUME specified can not be an empty string")
            volumes[place] = {}
        self.config["Volumes"] = volumes

    def _user(self, text: str) -> None:
        if len(split_words(text)) != 1:
            raise InvalidParameter("USER requires exactly one argument")
        self.config["User"] = self._expand(text)

    def _workdir(self, text: str) -> None:
        place = self._expand(text)
        if not place.startswith("/"):
            place = posixpath.join(self.config.get("WorkingDir") or "/", place)
        self.config["WorkingDir"] = "/" + posixpath.normpath(place).lstrip("/")

    def _stopsignal(self, text: str) -> None:
        if len(split_words(text)) != 1:
            raise InvalidParameter("STOPSIGNAL requires exactly one argument")
        name = self._expand(text)
        if not _is_signal(name):
            raise InvalidParameter(f"invalid signal: {name}")
        self.config["StopSignal"] = name

    def _onbuild(self, text: str) -> None:
        word = text.split(None, 1)[0].upper()
        if word == "ONBUILD":
            raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        if word in ("FROM", "MAINTAINER"):
            raise InvalidParameter(f"{word} isn't allowed as an ONBUILD trigger")
        self.config["OnBuild"] = [*(self.config.get("OnBuild") or []), text]

    def _healthcheck(self, text: str) -> None:
        flags, kind, rest = _flags(text)
        if kind.upper() == "NONE":
            if rest or flags:
                raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
            self.config["Healthcheck"] = {"Test": ["NONE"]}
            return
        if kind.upper() != "CMD":
            raise InvalidParameter(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
        if not rest:
            raise InvalidParameter("Missing command after HEALTHCHECK CMD")
        words = _json_words(rest)
        check: dict[str, Any] = {"Test": ["CMD", *words] if words is not None else ["CMD-SHELL", rest]}
        for name, field in (
            ("interval", "Interval"),
            ("timeout", "Timeout"),
            ("start-period", "StartPeriod"),
            ("start-interval", "StartInterval"),
        ):
            if flags.get(name):
                check[field] = _duration(name, flags[name])
        if flags.get("retries"):
            if not flags["retries"].isdigit() or not 1 <= int(flags["retries"]) <= 2**31 - 1:
                raise InvalidParameter(f"--retries must be at least 1 (not {flags['retries'][:20]})")
            check["Retries"] = int(flags["retries"])
        self.config["Healthcheck"] = check


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value


def _json_words(text: str) -> list[str] | None:
    """The exec form: a JSON list of strings; None for anything else, which then is the shell form."""
    if not text.startswith("["):
        return None
    try:
        value = msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=list[str])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None
    return value


def parse_ports(text: str) -> list[str]:
    """``80``, ``53/udp``, ``8000-8010/tcp`` as the keys of ``ExposedPorts``.  Errors: InvalidParameter."""
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"Invalid containerPort: {text[:100]}")
    first = int(match[1])
    last = int(match[2] or match[1])
    if not 0 < first <= last < _MAX_PORTS:
        raise InvalidParameter(f"Invalid containerPort: {text[:100]}")
    return [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]


def _flags(text: str) -> tuple[dict[str, str], str, str]:
    """(flags, the word after them, the rest)."""
    flags: dict[str, str] = {}
    while text.startswith("--"):
        word, _, text = text.partition(" ")
        text = text.strip()
        name, equals, value = word[2:].partition("=")
        if name not in ("interval", "timeout", "start-period", "start-interval", "retries"):
            raise InvalidParameter(f"Unknown flag: {name[:60]}")
        if not equals:
            raise InvalidParameter(f"Missing a value on flag: {name}")
        flags[name] = value
    word, _, rest = text.partition(" ")
    return flags, word, rest.strip()


def _duration(name: str, text: str) -> int:
    """Nanoseconds of a Go duration ("1m30s").  Errors: InvalidParameter, also for less than a millisecond but 0."""
    position = total = 0
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None:
            break
        total += int(float(match[1]) * _UNITS_NS[match[2]])
        position = match.end()
    if text == "0":
        return 0
    if position != len(text) or not text:
        raise InvalidParameter(f'time: invalid duration "{text[:60]}"')
    if total and total < _MILLISECOND_NS:
        raise InvalidParameter(f"Interval {name!r} cannot be less than 1ms")
    return total


def _is_signal(name: str) -> bool:
    if name.isdigit():
        return 0 < int(name) <= 64
    word = name.upper().removeprefix("SIG")
    known = {item.name.removeprefix("SIG") for item in signal.Signals}
    return word in known or re.fullmatch(r"RTM(IN(\+\d{1,2})?|AX(-\d{1,2})?)", word) is not None
