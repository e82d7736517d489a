"""What the filters of lists and prunes mean."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from corten.dockerapi.timestamps import parse_moment
from corten.engine.container import Container
from corten.engine.live import Index
from corten.errors import InvalidParameter, NotFound
from corten.image.store import ImageStore

_CONTAINER_FILTERS = frozenset(
    ("ancestor", "before", "expose", "exited", "health", "id", "isolation", "is-task", "label", "name", "network", "publish", "since", "status", "volume")
)
_STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
_STOPPED = ("status", "exited")


def check_known(wanted: dict[str, list[str]], known: Iterable[str]) -> None:
    """Errors: InvalidParameter "invalid filter 'x'"."""
    accepted = set(known)
    for key in wanted:
        if key not in accepted:
            raise InvalidParameter(f"invalid filter '{key}'")


def parse_boolean(key: str, value: str) -> bool:
    if value.lower() in ("1", "true", "t"):
        return True
    if value.lower() in ("0", "false", "f"):
        return False
    raise InvalidParameter(f"invalid filter '{key}=[{value}]'")


def _label_matches(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def labels_match(labels: dict[str, str], wanted: dict[str, list[str]]) -> bool:
    """All of ``label`` and none of ``label!``."""
    if not all(_label_matches(labels, value) for value in wanted.get("label", ())):
        return False
    return not any(_label_matches(labels, value) for value in wanted.get("label!", ()))


def text_matches(value: str, wanted: str) -> bool:
    """Docker matches names and ids as regular expressions, or as plain parts when they are none."""
    try:
        return re.search(wanted, value) is not None
    except re.error:
        return wanted in value


class ContainerFilter:
    """The filters of ``GET /containers/json``."""

    def __init__(self, wanted: dict[str, list[str]], index: Index, images: ImageStore) -> None:
        """Errors: InvalidParameter for an unknown filter or value."""
        check_known(wanted, _CONTAINER_FILTERS)
        for state in wanted.get("status", ()):
            if state not in _STATES:
                raise InvalidParameter(f"invalid filter 'status={state}'")
        for state in wanted.get("health", ()):
            if state not in ("starting", "healthy", "unhealthy", "none"):
                raise InvalidParameter(f"unrecognised filter value for health: {state}")
        for code in wanted.get("exited", ()):
            if not code.lstrip("-").isdigit():
                raise InvalidParameter(f"invalid filter 'exited={code}'")
        self._wanted = wanted
        self._before = [index.find(value).container.created_ns for value in wanted.get("before", ())]
        self._since = [index.find(value).container.created_ns for value in wanted.get("since", ())]
        self._ancestors = self._resolve_ancestors(wanted.get("ancestor", ()), images)

    @staticmethod
    def _resolve_ancestors(values: Iterable[str], images: ImageStore) -> set[str] | None:
        values = list(values)
        if not values:
            return None
        found = set()
        for value in values:
            try:
                image = images.get(value)
            except (NotFound, InvalidParameter):
                continue
            found.add(image.id)
            found.update(images.descendants(image.id))
        return found

    @property
    def covers_stopped(self) -> bool:
        return any(key in self._wanted for key in _STOPPED)

    def matches(self, container: Container, health: str) -> bool:
        wanted = self._wanted
        checks = (
            ("id", lambda value: text_matches(container.id, value)),
            ("name", lambda value: text_matches(f"/{container.name}", value) or text_matches(container.name, value)),
            ("status", lambda value: str(container.status) == value),
            ("exited", lambda value: container.state.exit_code == int(value) and str(container.status) == "exited"),
            ("health", lambda value: (health or "none") == value),
            ("network", lambda value: container.host_config.network_mode == value),
            ("volume", lambda value: self._has_volume(container, value)),
            ("expose", lambda value: _has_port(container, value)),
            ("publish", lambda value: False),
            ("is-task", lambda value: not parse_boolean("is-task", value)),
            ("isolation", lambda value: value in ("", "default")),
        )
        for key, check in checks:
            if key in wanted and not any(check(value) for value in wanted[key]):
                return False
        if not all(_label_matches(container.config.labels, value) for value in wanted.get("label", ())):
            return False
        if self._ancestors is not None and container.image_id not in self._ancestors:
            return False
        if any(container.created_ns >= moment for moment in self._before):
            return False
        return all(container.created_ns > moment for moment in self._since)

    @staticmethod
    def _has_volume(container: Container, value: str) -> bool:
        return any(value in (point.name, point.destination, point.source) for point in container.mount_points)


def _has_port(container: Container, wanted: str) -> bool:
    number, _, protocol = wanted.partition("/")
    return f"{number}/{protocol or 'tcp'}" in container.config.exposed_ports


class PruneFilter:
    """The filters of prunes: until, label, label!."""

    def __init__(self, wanted: dict[str, list[str]]) -> None:
        check_known(wanted, ("until", "label", "label!"))
        self._wanted = wanted
        self._until = None
        if wanted.get("until"):
            if len(wanted["until"]) > 1:
                raise InvalidParameter("more than one until filter specified")
            self._until = parse_moment(wanted["until"][0], time.time_ns())

    def matches(self, container: Container) -> bool:
        if self._until is not None and container.created_ns > self._until:
            return False
        return labels_match(container.config.labels, self._wanted)

