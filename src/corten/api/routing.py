"""The table of routes: method, path template, handler, and the API version that brought it."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corten.api.http.messages import HttpError, Reply, Request, Response
from corten.api.http.query import percent_decode
from corten.dockerapi.version import API_VERSION, CURRENT, MIN_API_VERSION, OLDEST, ApiVersion, parse_version
from corten.errors import InvalidParameter

if TYPE_CHECKING:
    from corten.engine.engine import Engine

Handler = Callable[["Engine", Request], Coroutine[Any, Any, Reply]]
PlainHandler = Callable[["Engine", Request], Response]

_VERSION = re.compile(r"/v([0-9][0-9.]{0,15})(?=/|\Z)")
_CAPTURE = re.compile(r"\{([a-z_]+)(\*?)\}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row.

    template:        ``{name}`` captures one segment, ``{name*}`` at least one and as many as there are
    since:           the API version that brought it
    plain:           an ordinary function that answers without waiting; it is called in the handler's place
    outlives_client: the work is done to its end although the client has gone
    """

    method: str
    template: str
    handler: Handler
    since: ApiVersion = OLDEST
    plain: PlainHandler | None = None
    outlives_client: bool = False


def get(template: str, handler: Handler, *, since: ApiVersion = OLDEST) -> Route:
    """A row that reads: its work ends with the client."""
    return Route(method="GET", template=template, handler=handler, since=since)


def change(method: str, template: str, handler: Handler, *, since: ApiVersion = OLDEST) -> Route:
    """A row that changes something: what was begun is finished even when the client leaves."""
    return Route(method=method, template=template, handler=handler, since=since, outlives_client=True)


class _Pattern:
    """A template, taken apart."""

    __slots__ = ("_greedy", "_segments", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self._segments: list[tuple[str, str]] = []  # (literal, "") or ("", name)
        self._greedy = -1
        for position, segment in enumerate(route.template.strip("/").split("/")):
            capture = _CAPTURE.match(segment)
            if capture is None:
                self._segments.append((segment, ""))
            else:
                self._segments.append(("", capture[1]))
                if capture[2]:
                    self._greedy = position

    @property
    def last(self) -> str:
        """The literal at its end, or nothing."""
        return self._segments[-1][0]

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """What the template captures from a path, still encoded; None when it is another path."""
        extra = len(segments) - len(self._segments)
        if extra < 0 or (extra and self._greedy < 0):
            return None
        found: dict[str, str] = {}
        position = 0
        for index, (literal, name) in enumerate(self._segments):
            taken = 1 + extra if index == self._greedy else 1
            text = "/".join(segments[position : position + taken])
            position += taken
            if name:
                found[name] = text
            elif text != literal:
                return None
        return found


class Router:
    """Finds the row for a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, str, str], list[_Pattern]] = {}
        self._methods: list[str] = []
        self._versions: dict[str, ApiVersion] = {}
        for route in routes:
            if route.method not in self._methods:
                self._methods.append(route.method)
            if "{" not in route.template:
                if (route.method, route.template) in self._exact:
                    raise ValueError(f"two routes for {route.method} {route.template}")
                self._exact[route.method, route.template] = route
            else:
                pattern = _Pattern(route)
                first = route.template.split("/", 2)[1]
                self._patterns.setdefault((route.method, first, pattern.last), []).append(pattern)

    def find(self, request: Request) -> Route:
        """The row of a request, whose ``version`` and ``params`` are filled in.

        Errors: HttpError (404, 405), InvalidParameter (a version that is not served, a broken escape).
        """
        path = request.path
        request.version = CURRENT
        if path[:2] == "/v" and path[2:3].isdigit():
            path = self._take_version(request, path)
        route = self._exact.get((request.method, path)) or self._match(request, path)
        if request.version < route.since:
            needed = ".".join(map(str, route.since))
            asked = ".".join(map(str, request.version))
            raise InvalidParameter(
                f'"{route.method} {route.template}" requires API version {needed}, '
                f"but the Docker daemon API version is {asked}"
            )
        return route

    def _take_version(self, request: Request, path: str) -> str:
        match = _VERSION.match(path)
        if match is None:
            return path
        text = match[1]
        version = self._versions.get(text)
        if version is None:
            version = _served_version(text)
            if len(self._versions) < 256:
                self._versions[text] = version
        request.version = version
        return path[match.end() :] or "/"

    def _match(self, request: Request, path: str) -> Route:
        segments = [segment for segment in path.split("/") if segment]
        if segments and "." not in segments and ".." not in segments:
            found = self._lookup(request.method, path, segments)
            if found is not None:
                route, captured = found
                request.params = {name: percent_decode(text) for name, text in captured.items()}
                return route
            allowed = [method for method in self._methods if self._lookup(method, path, segments) is not None]
            if allowed:
                raise HttpError(405, "method not allowed", headers=(("Allow", ", ".join(allowed)),))
        raise HttpError(404, "page not found")

    def _lookup(self, method: str, path: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
        exact = self._exact.get((method, path)) or self._exact.get((method, "/" + "/".join(segments)))
        if exact is not None:
            return exact, {}
        for last in (segments[-1], ""):
            for pattern in self._patterns.get((method, segments[0], last), ()):
                captured = pattern.match(segments)
                if captured is not None:
                    return pattern.route, captured
        return None


def _served_version(text: str) -> ApiVersion:
    """Errors: InvalidParameter in the words that clients look for."""
    try:
        version = parse_version(text)
    except ValueError:
        raise HttpError(404, "page not found") from None
    if version < OLDEST:
        raise InvalidParameter(
            f"client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version"
        )
    if version > CURRENT:
        raise InvalidParameter(f"client version {text} is too new. Maximum supported API version is {API_VERSION}")
    return version
