"""The ``filters`` parameter of lists, prunes and events: what was asked, not what it means (that is the engine's)."""

from __future__ import annotations

import msgspec

from corten.errors import InvalidParameter

Filters = dict[str, list[str]]

_MAX_VALUES = 10_000


def parse_filters(text: str) -> Filters:
    """Key to values from the JSON of ``filters``; an empty text is no filter.

    Two forms are read: ``{"label": ["a", "b"]}`` and the one that clients have sent since API 1.22,
    ``{"label": {"a": true, "b": true}}``, of which the keys count and the truth does not, as with dockerd.

    Errors: InvalidParameter.
    """
    if not text:
        return {}
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid filter: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidParameter("invalid filter: an object of lists is needed")
    return {key: _values(key, values) for key, values in document.items()}


def _values(key: str, values: object) -> list[str]:
    if isinstance(values, dict):
        if not all(isinstance(value, bool) for value in values.values()):
            raise InvalidParameter(f"invalid filter '{key}': true or false is needed for each value")
        found = list(values)
    elif isinstance(values, list):
        found = values
    elif values is None:
        return []
    else:
        raise InvalidParameter(f"invalid filter '{key}': a list of strings is needed")
    if not all(isinstance(value, str) for value in found):
        raise InvalidParameter(f"invalid filter '{key}': a list of strings is needed")
    if len(found) > _MAX_VALUES:
        raise InvalidParameter(f"invalid filter '{key}': too many values")
    return found
