"""What the API says of an image, which images a list shows, and what of a container becomes an image."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Sequence
from typing import Any

from corten.dockerapi.codec import to_builtins
from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.timestamps import ZERO_TIME_NS, format_ns, parse_moment, parse_rfc3339
from corten.engine import filters as filtering
from corten.errors import InvalidParameter
from corten.image.store import Image
from corten.oci import reference

LIST_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
# shown also when the image does not have them, as clients expect
_ALWAYS_SHOWN = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")
# what of a container's configuration belongs to an image
_COMMITTED = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "StopTimeout",
    "Healthcheck", "OnBuild", "Shell", "ArgsEscaped",
)  # fmt: skip
_EMPTY: tuple[Any, ...] = (None, "", [], {}, False, 0)


def created_ns(image: Image) -> int:
    """Since the epoch; 0 when the image does not say."""
    text = image.config.get("created")
    try:
        return parse_rfc3339(text) if isinstance(text, str) and text else 0
    except InvalidParameter:
        return 0


def labels_of(image: Image) -> dict[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


def row(image: Image, tags: Sequence[str], *, shared_size: int = -1, containers: int = -1) -> dict[str, Any]:
    """One image of ``GET /images/json``.  Sizes are bytes; -1: not counted."""
    return {
        "Id": image.id,
        "ParentId": image.parent,
        "RepoTags": list(tags),
        "RepoDigests": list(image.digests),
        "Created": created_ns(image) // 10**9,
        "Size": image.size,
        "SharedSize": shared_size,
        "Labels": labels_of(image) or None,
        "Containers": containers,
    }


def inspected(image: Image, *, driver: str, graph: dict[str, str], tagged_ns: int) -> dict[str, Any]:
    """``GET /images/{name}/json``."""
    config = image.config
    own = config.get("config") or {}
    defaults = to_builtins(ContainerConfig())
    shown = {key: own.get(key, defaults[key]) for key in defaults if key in own or key in _ALWAYS_SHOWN}
    for key in ("Cmd", "Entrypoint", "ExposedPorts", "Labels", "OnBuild", "Volumes"):
        if key in shown:
            shown[key] = shown[key] or None
    comments = [item["comment"] for item in config.get("history") or [] if item.get("comment")]
    document = {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": comments[-1] if comments else "",
        "Created": config.get("created") or format_ns(ZERO_TIME_NS),
        "DockerVersion": config.get("docker_version", ""),
        "Author": config.get("author", ""),
        "Config": shown,
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", "linux"),
        "Size": image.size,
        "GraphDriver": {"Name": driver, "Data": graph or None},
        "RootFS": {"Type": "layers", "Layers": list((config.get("rootfs") or {}).get("diff_ids") or [])},
        "Metadata": {"LastTagTime": format_ns(tagged_ns or ZERO_TIME_NS)},
    }
    if config.get("variant"):
        document["Variant"] = config["variant"]
    return document


class ImageFilter:
    """The filters of ``GET /images/json`` and of image prunes.

    find: an image by reference, for ``before`` and ``since``
    """

    def __init__(self, wanted: filtering.Filters, find: Callable[[str], Image]) -> None:
        """Errors: InvalidParameter for an unknown filter or value, NotFound for ``before`` and ``since``."""
        filtering.check_known(wanted, LIST_FILTERS)
        self._wanted = wanted
        self._before = [created_ns(find(value)) for value in wanted.get("before", ())]
        self._since = [created_ns(find(value)) for value in wanted.get("since", ())]
        self._until = [parse_moment(value, time.time_ns()) for value in wanted.get("until", ())]
        self._dangling = filtering.boolean(wanted, "dangling") if wanted.get("dangling") else None

    def tags(self, image: Image) -> Sequence[str] | None:
        """The names to show; None for an image that is not wanted."""
        made = created_ns(image)
        if any(made >= moment for moment in self._before) or any(made <= moment for moment in self._since):
            return None
        if any(made > moment for moment in self._until):
            return None
        if self._dangling is not None and self._dangling == bool(image.tags):
            return None
        if not filtering.labels_match(labels_of(image), self._wanted):
            return None
        patterns = self._wanted.get("reference")
        if not patterns:
            return image.tags
        named = [tag for tag in image.tags if any(reference_matches(tag, pattern) for pattern in patterns)]
        digested = any(reference_matches(name, pattern) for name in image.digests for pattern in patterns)
        return named if named or digested else None


def reference_matches(name: str, pattern: str) -> bool:
    """A shell pattern over a familiar name, with or without its tag or digest; "*" does not reach over a slash."""
    parsed = reference.try_parse(name)
    candidates = {name} if parsed is None else {name, parsed.familiar_repository}
    return any(_path_matches(candidate, pattern) for candidate in candidates)


def _path_matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("/"), pattern.split("/")
    if len(parts) != len(patterns):
        return False
    return all(fnmatch.fnmatchcase(part, wanted) for part, wanted in zip(parts, patterns, strict=True))


def committed_config(container: ContainerConfig, given: ContainerConfig | None) -> dict[str, Any]:
    """The container's configuration, overridden by what the client sent along."""
    config = to_builtins(container)
    if given is not None:
        config |= {key: value for key, value in to_builtins(given).items() if value not in _EMPTY}
    return {key: config[key] for key in _COMMITTED if config.get(key) not in _EMPTY}
