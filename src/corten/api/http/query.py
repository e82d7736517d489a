"""Query strings and percent-encoding, by dockerd's rules (Go's ``net/url`` and dockerd's ``httputils``)."""

from __future__ import annotations

import re

from corten.errors import InvalidParameter

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2}).{0,2}")
_MAX_FIELDS = 1000


def percent_decode(text: str) -> str:
    """Errors: InvalidParameter for a broken escape, for what is not UTF-8 and for NUL."""
    if "%" in text:
        bad = _BAD_ESCAPE.search(text)
        if bad is not None:
            raise InvalidParameter(f'invalid URL escape "{bad[0]}"')
        first, *rest = text.split("%")
        raw = first.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise InvalidParameter("invalid URL: it is not UTF-8") from None
    if "\0" in text:
        raise InvalidParameter("invalid URL: it contains a NUL byte")
    return text


class Query:
    """The parameters of a request.  Errors of every getter: InvalidParameter."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    @classmethod
    def parse(cls, raw: str) -> Query:
        fields: dict[str, list[str]] = {}
        if raw:
            if ";" in raw:
                raise InvalidParameter("invalid semicolon separator in query")
            pairs = raw.split("&")
            if len(pairs) > _MAX_FIELDS:
                raise InvalidParameter("invalid query: too many parameters")
            for pair in pairs:
                if pair:
                    name, _, value = pair.partition("=")
                    fields.setdefault(percent_decode(name.replace("+", " ")), []).append(
                        percent_decode(value.replace("+", " "))
                    )
        return cls(fields)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def text(self, name: str, default: str = "") -> str:
        """The first value."""
        values = self._fields.get(name)
        return values[0] if values else default

    def texts(self, name: str) -> list[str]:
        """All values, in their order."""
        return list(self._fields.get(name, ()))

    def flag(self, name: str, default: bool = False) -> bool:
        """Everything but "", 0, no, false and none is true (dockerd's ``BoolValue``)."""
        if name not in self._fields:
            return default
        return self.text(name).strip().lower() not in ("", "0", "no", "false", "none")

    def integer(self, name: str, default: int = 0) -> int:
        """A decimal number of at most 64 bits; absent or empty gives the default."""
        value = self.optional_integer(name)
        return default if value is None else value

    def optional_integer(self, name: str) -> int | None:
        """As ``integer``, None when absent or empty."""
        text = self.text(name)
        if not text:
            return None
        digits = text[1:] if text[0] in "+-" else text
        if not (digits.isascii() and digits.isdigit()):
            raise InvalidParameter(f'invalid number for {name}: parsing "{text[:40]}": invalid syntax')
        if len(digits) > 19 or not -(1 << 63) <= (value := int(text)) < 1 << 63:
            raise InvalidParameter(f'invalid number for {name}: parsing "{text[:40]}": value out of range')
        return value
