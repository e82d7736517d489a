"""Image configs: read with checks, made new.

Source: OCI image-spec v1.1, config.md; Docker adds ``Healthcheck``, ``OnBuild``, ``Shell``.  Every value is untrusted:
here types are checked, meanings where they are used.  Unknown fields are kept.
"""

from __future__ import annotations

import datetime
import re
import time
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.oci.digest import Digest, parse_digest
from corten.oci.manifest import MAX_LAYERS
from corten.oci.platform import Platform

_WHAT = "image config"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
EPOCH_ZERO = "0001-01-01T00:00:00Z"  # Go's zero time, what Docker shows for "not known"
MAX_HISTORY = 4096


def parse_config(content: bytes) -> dict[str, Any]:
    """The config as it stands, its types checked.

    Errors: InvalidParameter.
    """
    document = documents.load_object(content, _WHAT, limit=documents.MAX_CONFIG_BYTES)
    for name in ("architecture", "os", "variant", "created", "author"):
        documents.field(document, name, str, _WHAT)
    diff_ids(document)
    history(document)
    _check_run_config(documents.field(document, "config", dict, _WHAT, {}))
    return document


def diff_ids(document: dict[str, Any]) -> list[Digest]:
    """Digests of the uncompressed layers, base first."""
    rootfs = documents.field(document, "rootfs", dict, _WHAT)
    if rootfs is None:
        raise InvalidParameter(f"invalid {_WHAT}: rootfs is missing")
    if rootfs.get("type", "layers") != "layers":
        raise InvalidParameter(f"invalid {_WHAT}: rootfs type must be layers")
    listed = documents.strings(rootfs, "diff_ids", _WHAT)
    if len(listed) > MAX_LAYERS:
        raise InvalidParameter(f"max depth exceeded: {len(listed)} layers, the limit is {MAX_LAYERS}")
    digests = [parse_digest(item) for item in listed]
    if not all(digest.startswith("sha256:") for digest in digests):
        raise InvalidParameter(f"invalid {_WHAT}: diff_ids must be sha256 digests")
    return digests


def history(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps that made the image, base first; each is an object with checked types."""
    entries = documents.field(document, "history", list, _WHAT, [])
    if len(entries) > MAX_HISTORY:
        raise InvalidParameter(f"invalid {_WHAT}: {len(entries)} history entries, the limit is {MAX_HISTORY}")
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidParameter(f"invalid {_WHAT}: a history entry must be an object")
        for name in ("created", "created_by", "comment", "author"):
            documents.field(entry, name, str, _WHAT)
        documents.field(entry, "empty_layer", bool, _WHAT)
    return list(entries)


def _check_run_config(config: dict[str, Any]) -> None:
    for name in ("User", "WorkingDir", "StopSignal"):
        documents.field(config, name, str, _WHAT)
    for name in ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"):
        documents.strings(config, name, _WHAT)
    documents.string_map(config, "Labels", _WHAT)
    for name in ("ExposedPorts", "Volumes", "Healthcheck"):
        documents.field(config, name, dict, _WHAT)
    health = documents.field(config, "Healthcheck", dict, _WHAT, {})
    documents.strings(health, "Test", _WHAT)
    for name in ("Interval", "Timeout", "Retries", "StartPeriod", "StartInterval"):
        documents.field(health, name, int, _WHAT)


def check_layer_count(document: dict[str, Any], layers: int) -> None:
    """A manifest must have a layer for every diff ID of its config.  Errors: InvalidParameter, Docker's wording."""
    stated = len(diff_ids(document))
    if stated != layers:
        raise InvalidParameter(f"invalid manifest, layers length mismatch: expected {stated}, got {layers}")


def new_config(*, platform: Platform, created: str, run: dict[str, Any], author: str = "") -> dict[str, Any]:
    """An image config without layers and history."""
    document: dict[str, Any] = {"created": created}
    if author:
        document["author"] = author
    document["architecture"] = platform.architecture
    document["os"] = platform.os
    if platform.variant:
        document["variant"] = platform.variant
    document["config"] = run
    document["rootfs"] = {"type": "layers", "diff_ids": []}
    document["history"] = []
    return document


def encode_config(document: dict[str, Any]) -> bytes:
    """The bytes of a new config, checked as if a stranger had written it: what is stored can be read again.

    Errors: InvalidParameter.
    """
    content = documents.encode(document)
    parse_config(content)
    return content


def now() -> str:
    """The present time as RFC 3339 in UTC with nanoseconds, as Docker writes it."""
    return format_time(time.time_ns())


def format_time(ns: int) -> str:
    """RFC 3339 of nanoseconds since the epoch; trailing zeros of the fraction are left out."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + tail + "Z"


def parse_time(text: str) -> int | None:
    """Nanoseconds since the epoch of an RFC 3339 time; None for anything else, and for times before the epoch."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    base, fraction, zone = match.groups()
    try:
        moment = datetime.datetime.fromisoformat(base + ("+00:00" if zone == "Z" else zone))
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    return None if seconds < 0 else seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
