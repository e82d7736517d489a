"""Ids and names of containers."""

from __future__ import annotations

import re
import secrets

from corten.errors import InvalidParameter

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

_QUALITY_WORDS = (
    "able agile amber ample brave brisk bright calm candid clever copper cosy daring deft eager early earnest "
    "fabled fair fine fleet fluent frank fresh gentle glad golden grand hardy honest humble ideal jolly keen kind "
    "lively loyal lucid mellow merry mild modest neat nimble noble novel patient plucky polite proud quick quiet "
    "rapid ready robust rusty serene sharp silent sincere sleek smart solid sound steady stoic sturdy subtle "
    "sunny swift tidy tough trusty upbeat valiant vivid warm wise witty zesty"
)
_PEOPLE_WORDS = (
    "agnesi ampere archimedes babbage bell bessemer bohr boole brunel carson cerf curie dalton darwin dijkstra "
    "edison einstein euler faraday fermat feynman franklin galileo gauss germain goodall hamilton hawking hertz "
    "hopper huygens hypatia jacquard johnson joule kepler khayyam knuth kovalevskaya lamarr leibniz liskov "
    "lovelace maxwell mclean meitner mendel mirzakhani newton nobel noether ohm pascal pasteur perlman planck "
    "ramanujan ritchie shannon stonebraker telford tesla thompson torvalds turing volta watt wiles wozniak yalow"
)
_QUALITIES = tuple(_QUALITY_WORDS.split())
_PEOPLE = tuple(_PEOPLE_WORDS.split())


def random_name(attempt: int = 0) -> str:
    """A name to remember: "steady_mclean".

    attempt: how many names were taken already; later ones get a number, so that a search for a free one ends
    """
    name = f"{secrets.choice(_QUALITIES)}_{secrets.choice(_PEOPLE)}"
    return f"{name}{secrets.randbelow(10 ** min(attempt, 18))}" if attempt else name


def valid_name(name: str) -> None:
    """Errors: InvalidParameter in Docker's words."""
    if not _VALID.match(name):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def new_id() -> str:
    """64 hexadecimal digits whose short form is never a plain number (it must not be taken for one)."""
    while True:
        candidate = secrets.token_hex(32)
        if not candidate[:12].isdigit():
            return candidate
