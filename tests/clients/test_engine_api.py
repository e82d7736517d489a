"""The whole published Engine API: every path answers, and as an inactive dockerd where others do the work.

The rows come from engine_api.txt.  Each is asked for something that does not exist, with what else it needs to get that
far; so each answer is known, and nothing is made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from api_table import NEWEST, Operation, read_table

pytestmark = [pytest.mark.needs("docker", "busybox")]

NAME = "no-such"
ROWS = read_table()
DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
VERSIONS = [(1, 24), *((1, minor) for minor in range(40, NEWEST[1] + 1))]
NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
# what a row needs so that the name is what is wrong with it
QUERIES = {
    "GET /containers/{id}/archive": "path=/etc",
    "HEAD /containers/{id}/archive": "path=/etc",
    "PUT /containers/{id}/archive": "path=/etc",
    "GET /containers/{id}/logs": "stdout=1",
    "GET /services/{id}/logs": "stdout=1",
    "GET /tasks/{id}/logs": "stdout=1",
    "POST /containers/{id}/rename": "name=other",
    "POST /containers/{id}/resize": "h=24&w=80",
    "POST /exec/{id}/resize": "h=24&w=80",
    "POST /images/{name}/tag": "repo=other",
    "POST /commit": "container=no-such",
    "POST /plugins/{name}/enable": "timeout=0",
    "POST /nodes/{id}/update": "version=1",
    "POST /services/{id}/update": "version=1",
    "POST /swarm/update": "version=1",
    "POST /secrets/{id}/update": "version=1",
    "POST /configs/{id}/update": "version=1",
    "PUT /volumes/{name}": "version=1",
    "POST /plugins/{name}/upgrade": "remote=no-such",
    "GET /images/get": "names=no-such",
    "GET /events": "until=1",
    "POST /images/create": "fromSrc=-",
}
BODIES: dict[str, bytes] = {
    "POST /containers/{id}/exec": b'{"Cmd":["true"]}',
    "POST /plugins/{name}/set": b"[]",
    "POST /plugins/{name}/upgrade": b"[]",
    "POST /networks/{id}/connect": b'{"Container":"no-such"}',
    "POST /networks/{id}/disconnect": b'{"Container":"no-such"}',
    "POST /containers/create": b'{"Image":"no-such"}',
    "POST /volumes/create": b'{"Name":"other","Driver":"no-such"}',
    "POST /networks/create": b'{"Name":""}',
    "POST /images/create": b"no archive",
    "POST /images/load": b"no archive",
    "POST /build": b"no archive",
}
# rows whose answer does not depend on a name: status, what the text must hold
ANSWERS = {
    "GET /_ping": (200, "OK"),
    "HEAD /_ping": (200, ""),
    "GET /version": (200, "ApiVersion"),
    "GET /info": (200, "DockerRootDir"),
    "GET /events": (200, ""),
    "GET /system/df": (200, "VolumeUsage"),
    "GET /containers/json": (200, r"\[\]"),
    "GET /images/json": (200, "busybox"),
    "GET /networks": (200, '"none"'),
    "GET /volumes": (200, "Volumes"),
    "GET /plugins": (200, r"\[\]"),
    "POST /containers/prune": (200, "ContainersDeleted"),
    "POST /images/prune": (200, "ImagesDeleted"),
    "POST /networks/prune": (200, "NetworksDeleted"),
    "POST /volumes/prune": (200, "VolumesDeleted"),
    "POST /build": (400, "tar"),
    "POST /build/prune": (200, "SpaceReclaimed"),
    "POST /containers/create": (404, "No such image: no-such:latest"),
    "POST /volumes/create": (404, 'plugin "no-such" not found'),
    "POST /networks/create": (400, "name"),
    "POST /images/create": (200, "invalid tar"),  # told in the stream
    "POST /images/load": (400, "tar"),
    "GET /images/get": (404, "No such image: no-such:latest"),
    "GET /images/search": (400, ""),
    "POST /commit": (404, "No such container: no-such"),
    "POST /images/{name}/push": (200, "does not exist locally"),  # told in the stream
    "POST /networks/{id}/connect": (404, "No such container: no-such"),
    "POST /networks/{id}/disconnect": (404, "No such container: no-such"),
    "POST /session": (400, "no upgrade proto in request"),
    "POST /swarm/leave": (503, "This node is not part of a swarm"),
}
NOT_FOUND = {
    "containers": "No such container: no-such",
    "exec": "No such exec instance: no-such",
    "images": "No such image: no-such:latest",
    "networks": "network no-such not found",
    "volumes": "get no-such: no such volume",
    "plugins": 'plugin "no-such" not found',
}
# they ask a registry: the answer depends on who is there
ASKS_A_REGISTRY = frozenset(("POST /auth", "GET /distribution/{name}/json"))
SWARM = frozenset(("swarm", "nodes", "services", "tasks", "secrets", "configs"))


def target(row: Operation, version: tuple[int, ...] | None) -> str:
    query = QUERIES.get(row.key, "")
    return row.target(NAME, version) + (f"?{query}" if query else "")


def body(row: Operation) -> bytes | None:
    return BODIES.get(row.key, b"{}") if row.takes_body else None


def message(answer: bytes) -> str:
    return json.loads(answer)["message"]


def documented_as_left() -> set[str]:
    """The rows that the documentation says are answered with 501."""
    section = DOCUMENT.read_text().partition("## What is left to others")[2].partition("\n## ")[0]
    return set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)`[^|\n]*\| 501", section))


def test_the_table_is_of_the_announced_version(daemon) -> None:
    status, answer = daemon.request("GET", "/version")
    assert status == 200
    assert json.loads(answer)["ApiVersion"] == ".".join(map(str, NEWEST))
    assert max(row.since for row in ROWS) <= NEWEST
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_every_operation_answers(daemon, row: Operation) -> None:
    if row.key in ASKS_A_REGISTRY:
        status, answer = daemon.request(row.method, target(row, NEWEST), body(row))
        assert status in (400, 401, 404, 500, 503)
        assert message(answer)
        return
    status, answer = daemon.request(row.method, target(row, NEWEST), body(row))
    noun = row.path.split("/")[1]
    if status == 501:
        assert row.key in documented_as_left(), "what is not done must be in docs/api.md"
        assert message(answer)
        return
    assert row.key not in documented_as_left(), "it is done: docs/api.md says no"
    if row.key in ANSWERS:
        expected, text = ANSWERS[row.key]
        assert status == expected, answer
        told = message(answer) if status >= 400 else answer.decode("utf-8", "replace")
        assert re.search(text, told)
    elif noun in SWARM or row.key == "PUT /volumes/{name}":
        assert (status, message(answer)) == (503, NO_MANAGER)
    else:
        assert "{" in row.path, "a row without a name needs an answer in ANSWERS"
        assert status == 404
        if row.method != "HEAD":
            assert NOT_FOUND[noun] in message(answer)
    if status >= 400 and row.method != "HEAD":
        assert set(json.loads(answer)) == {"message"}


def test_every_row_without_and_with_every_version(daemon) -> None:
    """The version decides whether a row is there, and nothing else breaks: no row fails in any version."""
    for version in [None, *VERSIONS]:
        for row in ROWS:
            if row.key in ASKS_A_REGISTRY:
                continue
            status, answer = daemon.request(row.method, target(row, version), body(row))
            where = (row.key, version, status, answer[:200])
            if version is not None and version < row.since and row.since > (1, 40):
                if row.method != "HEAD" and row.key != "PUT /volumes/{name}":
                    assert status == 400, where
                    assert "requires API version" in message(answer), where
                continue
            assert status in (200, 201, 204, 400, 404, 501, 503), where
            assert b"page not found" not in answer, where


# -- versions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_has_all_headers(daemon, method: str) -> None:
    from daemons import ApiConnection

    connection = ApiConnection(daemon.socket)
    connection.request(method, "/_ping")
    response = connection.getresponse()
    assert response.status == 200
    assert response.read() == (b"OK" if method == "GET" else b"")
    headers = {name.lower(): value for name, value in response.getheaders()}
    connection.close()
    assert headers["api-version"] == "1.56"
    assert headers["builder-version"] == "2"
    assert headers["docker-experimental"] == "false"
    assert headers["ostype"] == "linux"
    assert headers["swarm"] == "inactive"
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert headers["pragma"] == "no-cache"
    assert headers["server"].startswith("Corten/")
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-length"] == ("2" if method == "GET" else "0")
    assert headers["date"].endswith("GMT")


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client"),
        ("1.12", "client version 1.12 is too old."),
        ("1.57", "client version 1.57 is too new. Maximum supported API version is 1.56"),
        ("2.0", "client version 2.0 is too new."),
        ("99.99", "client version 99.99 is too new."),
    ],
)  # fmt: skip
def test_versions_that_are_not_served(daemon, version: str, text: str) -> None:
    status, answer = daemon.request("GET", f"/v{version}/containers/json")
    assert status == 400
    assert message(answer).startswith(text)


def test_the_unmodified_client_speaks_every_version_that_it_can(daemon) -> None:
    for version in ("1.40", "1.41", "1.43", "1.44", "1.46", "1.48", "1.50"):
        done = daemon.run(["env", f"DOCKER_API_VERSION={version}", "docker", "version", "--format",
                           "{{.Client.APIVersion}} {{.Server.APIVersion}}"])  # fmt: skip
        assert done.stdout.strip() == f"{version} 1.56"
        daemon.run(["env", f"DOCKER_API_VERSION={version}", "docker", "info"])
        daemon.run(["env", f"DOCKER_API_VERSION={version}", "docker", "system", "df", "-v"])
        assert "busybox" in daemon.run(["env", f"DOCKER_API_VERSION={version}", "docker", "images"]).stdout
        done = daemon.run(["env", f"DOCKER_API_VERSION={version}", "docker", "run", "--rm", "busybox", "echo", "hi"])
        assert done.stdout == "hi\n"


# -- beside dockerd ---------------------------------------------------------------------------------------------------

PEER: tuple[int, int] = (1, 41)  # what Debian's dockerd speaks
NOT_ASKED = {
    "POST /swarm/init": "it would begin a swarm",
    "POST /swarm/join": "it would wait for a swarm",
    "POST /session": "it hands the connection over",
    "POST /plugins/pull": "it asks a registry",
    "POST /plugins/create": "it makes a plugin",
    "GET /plugins/privileges": "it asks a registry",
    "GET /images/search": "it asks a registry",
    "POST /auth": "it asks a registry",
    "GET /distribution/{name}/json": "it asks a registry",
}
OTHER_STATUS = {
    "POST /build": "dockerd answers 500 to what is no archive",
    "POST /images/create": "the other way round: dockerd answers 500, we have told of progress by then",
    "POST /images/load": "dockerd answers 200 and tells in the stream what is wrong with the archive",
    "POST /networks/create": "dockerd 20.10 answers 500 to a name that is none",
    "POST /images/{name}/push": "dockerd looks at the registry's credentials first, as versions up to 1.41 need them",
    "GET /images/get": "dockerd 20.10 answers 404 after the head of the archive",
}
OTHER_TEXT = {
    "GET /images/{name}/json": "dockerd 20.10 says it twice; later versions say what we say",
    "GET /images/{name}/get": "dockerd 20.10 leaves the default tag out",
    "POST /plugins/{name}/upgrade": "dockerd adds a tag here alone",
    "POST /containers/{id}/attach": "dockerd answers with plain text, as its connection is handed over before",
}


@pytest.mark.needs("dockerd")
def test_statuses_and_words_are_dockerds(daemon, dockerd) -> None:
    different = {}
    for row in ROWS:
        if row.key in NOT_ASKED or row.key in OTHER_STATUS or row.since > PEER:
            continue
        ours = daemon.request(row.method, target(row, PEER), body(row))
        theirs = dockerd.request(row.method, target(row, PEER), body(row))
        same = ours[0] == theirs[0]
        if same and ours[0] >= 400 and row.method != "HEAD" and row.key not in OTHER_TEXT:
            same = message(ours[1]) == message(theirs[1])
        if not same:
            different[row.key] = (ours, theirs)
    assert different == {}
