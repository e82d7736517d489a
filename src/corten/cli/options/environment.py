"""Environment variables and labels, from options and files."""

from __future__ import annotations

import os

from corten.cli.flags import BadValue
from corten.errors import InvalidParameter

_SPACES = (" ", "\t")


def read_variable(text: str) -> str:
    """``-e NAME=VALUE``; ``-e NAME`` takes the value from this process' environment, or unsets it in the image's.

    Errors: BadValue.
    """
    name, equals, _ = text.partition("=")
    if not name:
        raise BadValue(f"invalid environment variable: {text}")
    if equals or name not in os.environ:
        return text
    return f"{name}={os.environ[name]}"


def read_label(text: str) -> str:
    """``-l KEY[=VALUE]``.  Errors: BadValue."""
    key = text.partition("=")[0].lstrip(" \t")
    if not key:
        raise BadValue(f"invalid label '{text}': empty name")
    if any(space in key for space in _SPACES):
        raise BadValue(f"label '{key}' contains whitespaces")
    return text


def _lines(option: str, path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidParameter(f"--{option}: open {path}: {(error.strerror or '').lower()}") from None
    lines = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise InvalidParameter(
                f"--{option}: invalid env file ({path}): invalid utf8 bytes at line {number}"
            ) from None
    return lines


def from_file(option: str, path: str, *, looks_up: bool) -> list[str]:
    """The pairs of a file with one ``NAME=VALUE`` in each line.

    Empty lines and lines that begin with ``#`` are left out; spaces before a name are, those after a value are kept;
    quotes have no meaning.

    looks_up: a name without a value gets that of this process' environment, and is left out when it has none there

    Errors: InvalidParameter.
    """
    pairs = []
    for raw in _lines(option, path):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        problem = ""
        if not name:
            problem = f"no variable name on line '{line}'"
        elif any(space in name for space in _SPACES):
            problem = f"variable '{name}' contains whitespaces"
        if problem:
            raise InvalidParameter(f"--{option}: invalid env file ({path}): {problem}")
        if equals:
            pairs.append(line)
        elif looks_up and name in os.environ:
            pairs.append(f"{name}={os.environ[name]}")
    return pairs


def variables(files: list[str], given: list[str]) -> list[str]:
    """``Env``: files first, so that options win.  Errors: InvalidParameter."""
    return [pair for path in files for pair in from_file("env-file", path, looks_up=True)] + given


def as_map(pairs: list[str]) -> dict[str, str]:
    """ "KEY=VALUE" and "KEY" as a mapping."""
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def labels(files: list[str], given: list[str]) -> dict[str, str]:
    """``Labels``: files first, so that options win.  Errors: InvalidParameter."""
    return as_map([pair for path in files for pair in from_file("label-file", path, looks_up=False)] + given)
