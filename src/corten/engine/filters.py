"""What the filters of lists and prunes mean.  Source: dockerd's list and prune filters."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from corten.dockerapi.timestamps import parse_moment
from corten.engine.container import ZERO_TIME_NS, Container, Status
from corten.errors import InvalidParameter, NotFound

Filters = dict[str, list[str]]

_CONTAINER_FILTERS = frozenset(
    (
        *("ancestor", "before", "expose", "exited", "health", "id", "isolation", "is-task", "label", "name"),
        *("network", "publish", "since", "status", "volume"),
    )
)
_HEALTHS = ("starting", "healthy", "unhealthy", "none")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.ASCII)
_LAST_PORT = 65535
_LONGEST_PATTERN = 512  # bytes of a regular expression from a client


class _Image(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def parent(self) -> str: ...


class ImageLookup(Protocol):
    """What the ancestor filter asks of the images."""

    def get(self, ref: str) -> _Image:
        """Errors: NotFound, InvalidParameter."""
        ...

    def all(self) -> Sequence[_Image]: ...


class _Holder(Protocol):
    @property
    def container(self) -> Container: ...


class ContainerLookup(Protocol):
    """What ``before`` and ``since`` ask of the containers."""

    def find(self, reference: str) -> _Holder:
        """Errors: NotFound, InvalidParameter."""
        ...


def check_known(wanted: Filters, known: Iterable[str]) -> None:
    """Errors: InvalidParameter "invalid filter 'x'"."""
    accepted = set(known)
    for key in wanted:
        if key not in accepted:
            raise InvalidParameter(f"invalid filter '{key}'")


def parse_boolean(key: str, value: str) -> bool:
    """Go's notation of truth.  Errors: InvalidParameter."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f"invalid filter '{key}=[{value}]'")


def boolean(wanted: Filters, key: str, default: bool = False) -> bool:
    """The one truth that a filter asks for.  Errors: InvalidParameter, also when it asks for both."""
    values = {parse_boolean(key, value) for value in wanted.get(key, ())}
    if len(values) > 1:
        raise InvalidParameter(f"invalid filter '{key}={wanted[key]}'")
    return values.pop() if values else default


def has_label(labels: dict[str, str], wanted: str) -> bool:
    """``wanted`` is "name" or "name=value"."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def labels_match(labels: dict[str, str], wanted: Filters) -> bool:
    """All of ``label`` and none of ``label!``."""
    if not all(has_label(labels, value) for value in wanted.get("label", ())):
        return False
    return not any(has_label(labels, value) for value in wanted.get("label!", ()))


def text_matches(value: str, wanted: str) -> bool:
    """Docker matches names and ids as regular expressions; one that is none matches only itself."""
    if value == wanted:
        return True
    if len(wanted) > _LONGEST_PATTERN:
        return False
    try:
        return re.search(wanted, value) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _ports(key: str, values: Iterable[str]) -> set[str]:
    """ "80", "80/udp" or "8000-8010/tcp" -> {"80/tcp", …}.  Errors: InvalidParameter."""
    found: set[str] = set()
    for value in values:
        match = _PORTS.match(value)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if match is None or not 0 < first <= last <= _LAST_PORT:
            raise InvalidParameter(f"invalid filter '{key}={value}': a port or a range of ports is needed")
        found.update(f"{number}/{match[3] or 'tcp'}" for number in range(first, last + 1))
    return found


def _exit_codes(values: Iterable[str]) -> set[int]:
    codes = set()
    for value in values:
        if not re.fullmatch(r"[+-]?\d{1,9}", value, re.ASCII):
            raise InvalidParameter(f"invalid filter 'exited={value}'")
        codes.add(int(value))
    return codes


class ContainerFilter:
    """The filters of ``GET /containers/json``."""

    def __init__(self, wanted: Filters, containers: ContainerLookup, images: ImageLookup) -> None:
        """Errors: InvalidParameter for an unknown filter or value, NotFound for ``before`` and ``since``."""
        check_known(wanted, _CONTAINER_FILTERS)
        for state in wanted.get("status", ()):
            if state not in list(Status):
                raise InvalidParameter(f"invalid filter 'status={state}'")
        for state in wanted.get("health", ()):
            if state not in _HEALTHS:
                raise InvalidParameter(f"invalid filter 'health={state}'")
        self._wanted = wanted
        self._codes = _exit_codes(wanted.get("exited", ()))
        self._exposed = _ports("expose", wanted.get("expose", ()))
        self._published = _ports("publish", wanted.get("publish", ()))
        self._is_task = boolean(wanted, "is-task")
        self._before = [containers.find(value).container.created_ns for value in wanted.get("before", ())]
        self._since = [containers.find(value).container.created_ns for value in wanted.get("since", ())]
        self._ancestors = self._find_ancestors(wanted.get("ancestor", ()), images)

    @staticmethod
    def _find_ancestors(values: Iterable[str], images: ImageLookup) -> set[str]:
        """Ids of the images and all that was made from them; an unknown image matches nothing."""
        found: set[str] = set()
        for value in values:
            with contextlib.suppress(NotFound, InvalidParameter):
                found.add(images.get(value).id)
        if found:
            children: dict[str, list[str]] = {}
            for image in images.all():
                children.setdefault(image.parent, []).append(image.id)
            pending = list(found)
            while pending:
                made = [child for child in children.get(pending.pop(), ()) if child not in found]
                found.update(made)
                pending += made
        return found

    @property
    def covers_stopped(self) -> bool:
        """A filter by status looks at all containers, also without ``all``."""
        return bool(self._wanted.get("status"))

    def matches(self, container: Container, health: str) -> bool:
        """health: its status, "" without a check."""
        return (
            all(self._any(key, container, health) for key in self._wanted if self._wanted[key])
            and all(container.created_ns < moment for moment in self._before)
            and all(container.created_ns > moment for moment in self._since)
        )

    def _any(self, key: str, container: Container, health: str) -> bool:
        values = self._wanted[key]
        match key:
            case "id":
                return any(text_matches(container.id, value) for value in values)
            case "name":
                names = (container.name, f"/{container.name}")
                return any(text_matches(name, value) for name in names for value in values)
            case "label":
                return all(has_label(container.config.labels, value) for value in values)
            case "status":
                return str(container.status) in values
            case "exited":
                return self._has_exited(container)
            case "health":
                return (health or "none") in values
            case "ancestor":
                return container.image_id in self._ancestors
            case "volume":
                return any(_has_volume(container, value) for value in values)
            case "network":
                return any(_has_network(container, value) for value in values)
            case "expose":
                ports = {*container.config.exposed_ports, *container.host_config.port_bindings}
                return not self._exposed.isdisjoint(ports)
            case "publish":  # ports of the host, while they are published
                return any(
                    f"{item.host_port}/{item.protocol}" in self._published
                    for endpoint in container.networks.values()
                    for item in endpoint.published
                )
            case "is-task":
                return not self._is_task  # tasks belong to a swarm
            case "isolation":
                return container.host_config.isolation in values
        return True  # before and since

    def _has_exited(self, container: Container) -> bool:
        if container.is_running or container.status is Status.RESTARTING:
            return False
        return container.state.started_ns != ZERO_TIME_NS and container.state.exit_code in self._codes


def _has_volume(container: Container, value: str) -> bool:
    return any(value in (point.name or point.source, point.destination) for point in container.mount_points)


def _has_network(container: Container, value: str) -> bool:
    """By name, id or the beginning of the id."""
    return any(
        value == name or (value and endpoint.network_id.startswith(value))
        for name, endpoint in container.networks.items()
    )


def parse_until(wanted: Filters) -> int | None:
    """``until`` of a prune in nanoseconds since the epoch.  Errors: InvalidParameter."""
    values = wanted.get("until", [])
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    return parse_moment(values[0], time.time_ns()) if values else None


class PruneFilter:
    """The filters of prunes: until, label, label!."""

    def __init__(self, wanted: Filters) -> None:
        """Errors: InvalidParameter."""
        check_known(wanted, ("until", "label", "label!"))
        self._wanted = wanted
        self._until = parse_until(wanted)

    def matches(self, container: Container) -> bool:
        return self.takes(container.config.labels, container.created_ns)

    def takes(self, labels: dict[str, str], created_ns: int) -> bool:
        """Whether what was made then, with these labels, is meant."""
        return (self._until is None or created_ns <= self._until) and labels_match(labels, self._wanted)
