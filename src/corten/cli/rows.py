"""What a template sees of a list: rows, and for the titles a row of titles."""

from __future__ import annotations

from corten.cli.gotemplate import Object
from corten.cli.render import Kind, label_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Row(Object):
    """One row."""

    def __init__(self, kind: Kind, row: Any) -> None:
        self._kind = kind
        self._row = row
        self.type_name = kind.type_name

    def field(self, name: str, arguments: list[Any]) -> Any:
        method = self._kind.methods.get(name)
        if method is not None:
            return method(self._row, *arguments)
        value = self._kind.fields[name][1]
        if arguments:
            raise TypeError
        return value(self._row)

    def document(self) -> Any:
        return {name: self._kind.fields[name][1](self._row) for name in sorted(self._kind.fields)}


class Titles(Object):
    """The titles of the columns, under the fields' names."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.type_name = kind.type_name

    def field(self, name: str, arguments: list[Any]) -> Any:
        if name in self._kind.methods:
            return label_title(*arguments)
        return self._kind.fields[name][0]

    def document(self) -> Any:
        return {name: title for name, (title, _) in sorted(self._kind.fields.items())}


class Probe(Titles):
    """Finds out which fields a template uses."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.used: set[str] = set()

    def field(self, name: str, arguments: list[Any]) -> Any:
        self.used.add(name)
        return super().field(name, arguments)
