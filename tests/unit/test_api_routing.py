"""Templates, versions, and what is no route."""

import pytest
from api_fakes import ApiServer

from corten.api.http.body import RequestBody
from corten.api.http.messages import HttpError, Limits, Request, Response
from corten.api.routes import ROUTES
from corten.api.routing import Route, Router, get
from corten.errors import InvalidParameter


async def handler(engine, request):
    return Response()


def request(method, path):
    return Request(method, path, 1, {}, RequestBody(None, 0, lambda: None, lambda: None), Limits())


@pytest.fixture(scope="module")
def router():
    return Router(ROUTES)


@pytest.fixture(scope="module")
def server():
    with ApiServer() as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("GET", "/_ping", "/_ping", {}),
        ("GET", "/v1.30/_ping?x", "/_ping", {}),
        ("GET", "/v1.47/containers/json", "/containers/json", {}),
        ("GET", "/containers/json/json", "/containers/{id}/json", {"id": "json"}),
        ("GET", "/containers/a%2Fb/json", "/containers/{id}/json", {"id": "a/b"}),
        ("GET", "/containers//web/json", "/containers/{id}/json", {"id": "web"}),
        ("GET", "/containers/web/attach/ws", "/containers/{id}/attach/ws", {"id": "web"}),
        ("GET", "/images/json", "/images/json", {}),
        ("GET", "/images/json/json", "/images/{name*}/json", {"name": "json"}),
        ("GET", "/images/r.io:5000/a/b@sha256:00/json", "/images/{name*}/json", {"name": "r.io:5000/a/b@sha256:00"}),
        ("GET", "/images/get", "/images/get", {}),
        ("GET", "/images/get/get", "/images/{name*}/get", {"name": "get"}),
        ("DELETE", "/images/a/json", "/images/{name*}", {"name": "a/json"}),
        ("DELETE", "/containers/web", "/containers/{id}", {"id": "web"}),
        ("HEAD", "/containers/web/archive", "/containers/{id}/archive", {"id": "web"}),
        ("GET", "/volumes", "/volumes", {}),
        ("GET", "/volumes/v1", "/volumes/{name}", {"name": "v1"}),
        ("GET", "/containers/%C3%A9/json", "/containers/{id}/json", {"id": "é"}),
    ],
)
def test_paths_find_their_rows(router, method, path, template, params):
    asked = request(method, path)
    assert router.find(asked).template == template
    assert asked.params == params


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/nope",
        "/containers",
        "/containers/",
        "/containers/web/json/x",
        "/containers/a/b/json",
        "/containers/../json",
        "/containers/./json",
        "/../_ping",
        "/_ping/x",
        "/images/../../etc/json",
        "/images//json/..",
        "/v1.56",
        "/v1.47/",
        "/v1.47x/_ping",
        "/v1..4/_ping",
    ],
)
def test_what_is_no_path_is_404(router, path):
    with pytest.raises(HttpError) as caught:
        router.find(request("GET", path))
    assert caught.value.status == 404
    assert caught.value.message == "page not found"


def test_a_wrong_method_is_405_and_tells_the_right_ones(server):
    answer = server.ask("PUT", "/v1.40/exec/web/json")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    answer = server.ask("POST", "/containers/web/archive?path=/")
    # a link of a container may have any name
    assert {part.strip() for part in answer.headers["allow"].split(",")} == {"GET", "HEAD", "PUT", "DELETE"}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.57", "client version 1.57 is too new. Maximum supported API version is 1.56"),
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.56"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.56"),
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
        (
            "1",
            "client version 1 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
    ],
)
def test_versions_that_are_not_served(server, version, message):
    answer = server.ask("GET", f"/v{version}/_ping")
    assert (answer.status, answer.message) == (400, message)
    assert answer.headers["api-version"] == "1.56"


def test_a_route_that_is_newer_than_the_client(server):
    answer = server.ask("POST", "/v1.24/containers/prune")
    assert answer.status == 400
    assert answer.message == (
        '"POST /containers/prune" requires API version 1.25, but the Docker daemon API version is 1.24'
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/containers/%zz/json", 400),
        ("/containers/%/json", 400),
        ("/containers/a%00b/json", 400),
        ("/containers/%ff%fe/json", 400),
        ("/containers/%2e%2e%2f%2e%2e%2fetc%2fpasswd/json", 404),
        ("/containers/..%2f..%2fetc/json", 404),
        ("/containers/../../etc/json", 404),
        ("/containers/%EF%BC%8E%EF%BC%8E/json", 404),
        ("/containers/" + "a" * 10_000 + "/json", 404),
        ("/images/..%2f..%2fx/json", 404),
        ("/volumes/..%2f..%2fx", 404),
        ("/exec/..%2fx/start", 405),
    ],
)
def test_hostile_names(server, path, status):
    answer = server.ask("GET", path)
    assert answer.status == status
    assert answer.message


def test_two_rows_for_one_path_are_a_mistake():
    with pytest.raises(ValueError, match="two routes"):
        Router([get("/a", handler), get("/a", handler)])


def test_every_row_is_found_by_its_own_path(router):
    for route in ROUTES:
        path = route.template.replace("{", "x-").replace("*}", "").replace("}", "")
        assert router.find(request(route.method, path)) is route


def test_a_greedy_capture_needs_at_least_one_segment():
    router = Router([Route(method="GET", template="/images/{name*}/json", handler=handler)])
    with pytest.raises(HttpError):
        router.find(request("GET", "/images/json"))


def test_the_version_cache_does_not_grow_without_bound():
    router = Router(ROUTES)
    for number in range(2000):
        with pytest.raises((HttpError, InvalidParameter)):
            router.find(request("GET", f"/v{number}.{number}.{number}/nope"))
    for number in range(2000):
        router.find(request("GET", f"/v1.{'0' * (number % 9)}30/_ping"))
    assert len(router._versions) <= 256
