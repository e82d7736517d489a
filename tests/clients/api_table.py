"""The published description of the Engine API as rows: engine_api.txt, which tools/make-engine-api-table makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]
NEWEST: Version = (1, 56)


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


@dataclass(frozen=True, slots=True)
class Parameter:
    place: str  # path, query, header, body
    name: str
    kind: str
    since: Version


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    since: Version
    parameters: tuple[Parameter, ...]

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def takes_body(self) -> bool:
        return any(parameter.place == "body" for parameter in self.parameters)

    def target(self, name: str, version: Version | None = None) -> str:
        """The path with ``name`` in every place for one."""
        path = "/".join(name if part.startswith("{") else part for part in self.path.split("/"))
        return f"/v{'.'.join(map(str, version))}{path}" if version else path


def read_table() -> list[Operation]:
    rows = []
    for line in Path(__file__).with_name("engine_api.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        method, path, since, until, *words = line.split(" ")
        assert until == "-", "an operation that went away needs a place in the tests"
        parameters = []
        for word in words:
            place, name, kind, *own = word.split(":")
            parameters.append(Parameter(place, name, kind, _version(own[0]) if own else _version(since)))
        rows.append(Operation(method, path, _version(since), tuple(parameters)))
    return rows
