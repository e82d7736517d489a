"""``history``: the steps that made an image, newest first, with the bytes each added."""

from __future__ import annotations

from typing import Any

from corten.errors import InvalidParameter
from corten.oci import config as image_config

NANOSECONDS = 1_000_000_000
_UNKNOWN_TIME = -62135596800  # Go's zero time, which clients show as N/A


def rows(
    image_id: str,
    document: dict[str, Any],
    sizes: tuple[int, ...],
    tags: tuple[str, ...],
    ancestors: list[tuple[str, tuple[str, ...], int]],
) -> list[dict[str, Any]]:
    """Rows as the Engine API answers: Created in seconds, Size in bytes; the sizes add up to the image's.

    sizes: bytes of each layer, base first
    ancestors: (id, tags, number of history entries) of known parent images, nearest first: their steps carry their ids
    Errors: InvalidParameter when the history tells of more layers than there are.
    """
    entries = image_config.history(document)
    listed: list[dict[str, Any]] = []
    position = 0
    for entry in entries:
        size = 0
        if not entry.get("empty_layer"):
            if position >= len(sizes):
                raise InvalidParameter("too many non-empty layers in History section")
            size = sizes[position]
            position += 1
        listed.append(_row(entry.get("created"), entry.get("created_by", ""), size, entry.get("comment", "")))
    # layers that no step tells of, as of images made by other tools
    created = document.get("created")
    listed += [_row(created, "", size, "") for size in sizes[position:]]
    if not listed:
        listed.append(_row(created, "", 0, ""))
    listed[-1]["Id"] = image_id
    listed[-1]["Tags"] = list(tags) or None
    for ancestor, names, count in ancestors:
        if 0 < count < len(listed):
            listed[count - 1]["Id"] = ancestor
            listed[count - 1]["Tags"] = list(names) or None
    return listed[::-1]


def _row(created: str | None, created_by: str, size: int, comment: str) -> dict[str, Any]:
    moment = image_config.parse_time(created) if created else None
    return {
        "Id": "<missing>",
        "Created": moment // NANOSECONDS if moment is not None else _UNKNOWN_TIME,
        "CreatedBy": created_by,
        "Tags": None,
        "Size": size,
        "Comment": comment,
    }
