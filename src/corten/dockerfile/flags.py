"""``--name=value`` in front of an instruction's arguments."""

from __future__ import annotations

from dataclasses import dataclass

from corten.dockerfile.source import LogicalLine

# instruction -> its flags; "bool" may stand alone, "list" may be repeated
FLAGS: dict[str, dict[str, str]] = {
    "FROM": {"platform": "text"},
    "RUN": {"mount": "list", "network": "text", "security": "text", "device": "list"},
    "COPY": {
        "from": "text",
        "chown": "text",
        "chmod": "text",
        "link": "bool",
        "parents": "bool",
        "exclude": "list",
    },
    "ADD": {
        "chown": "text",
        "chmod": "text",
        "link": "bool",
        "exclude": "list",
        "checksum": "text",
        "keep-git-dir": "bool",
        "unpack": "bool",
    },
    "HEALTHCHECK": {
        "interval": "text",
        "timeout": "text",
        "start-period": "text",
        "start-interval": "text",
        "retries": "text",
    },
}


@dataclass(frozen=True, slots=True)
class Flags:
    texts: dict[str, str]
    switches: dict[str, bool]
    lists: dict[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        return self.texts.get(name, "")

    def switch(self, name: str) -> bool:
        return self.switches.get(name, False)

    def listed(self, name: str) -> tuple[str, ...]:
        return self.lists.get(name, ())


def take_flags(rest: str, escape: str) -> tuple[list[str], str]:
    """(flag words without quotes and escapes, the arguments that follow)."""
    words: list[str] = []
    position = 0
    while True:
        while position < len(rest) and rest[position].isspace():
            position += 1
        if not rest.startswith("--", position):
            return words, rest[position:]
        word, position = _flag_word(rest, position, escape)
        if word == "--":
            return words, rest[position:].lstrip()
        words.append(word)


def _flag_word(rest: str, position: int, escape: str) -> tuple[str, int]:
    word = quote = ""
    while position < len(rest):
        letter = rest[position]
        if letter == escape and quote != "'" and position + 1 < len(rest):
            word += rest[position + 1]
            position += 2
            continue
        if not quote and letter.isspace():
            break
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "\"'":
            quote = letter
        else:
            word += letter
        position += 1
    return word, position


def read_flags(keyword: str, words: list[str], line: LogicalLine) -> Flags:
    """Errors: DockerfileError, Docker's wording."""
    known = FLAGS.get(keyword, {})
    texts: dict[str, str] = {}
    switches: dict[str, bool] = {}
    lists: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            raise line.error(f"unknown flag: --{name}{_hint(name, known)}", f"--{name}")
        if kind == "list":
            if not equals:
                raise line.error(f"missing a value on flag: --{name}", f"--{name}")
            lists.setdefault(name, []).append(value)
            continue
        if name in texts or name in switches:
            raise line.error(f"duplicate flag specified: --{name}", f"--{name}")
        if kind == "bool":
            lower = value.lower() if equals else "true"
            if lower not in ("true", "false"):
                raise line.error(f"expecting boolean value for flag --{name}, not: {value}", f"--{name}")
            switches[name] = lower == "true"
        else:
            if not equals:
                raise line.error(f"missing a value on flag: --{name}", f"--{name}")
            texts[name] = value
    return Flags(texts, switches, {name: tuple(values) for name, values in lists.items()})


def _hint(name: str, known: dict[str, str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f" (did you mean --{near[0]}?)" if near else ""
