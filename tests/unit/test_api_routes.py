"""What each route asks the engine for, and what it makes of the answer."""

import base64
import json
from urllib.parse import quote

import pytest
from api_fakes import STAT, ApiServer, frame, path_stat

from corten.api.routes import ROUTES
from corten.dockerapi.build import BuildQuery, PruneSpace
from corten.dockerapi.container import Ulimit
from corten.dockerapi.queries import CommitQuery, ImportQuery, LogQuery
from waiting import until

SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)


@pytest.fixture(scope="module")
def server():
    with ApiServer() as server:
        yield server


@pytest.fixture
def calls(server):
    server.engine.calls.seen.clear()
    return server.engine.calls


def post(server, path, document=None, **headers):
    body = None if document is None else json.dumps(document).encode()
    return server.ask("POST", path, body, headers)


# -- containers -------------------------------------------------------------------------------------------------------


def test_list(server, calls):
    filters = "%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D"
    answer = server.ask("GET", f"/containers/json?all=true&limit=5&size=1&filters={filters}")
    assert answer.json[0]["Names"] == ["/web"]
    assert answer.body.endswith(b"\n")
    assert calls.last()[2] == {"all": True, "limit": 5, "size": True, "filters": {"label": ["a=b"]}}


@pytest.mark.parametrize("query", ["filters=x", "filters=%5B%5D", "limit=x", "all=%zz"])
def test_bad_list_parameters(server, query):
    assert server.ask("GET", f"/containers/json?{query}").status == 400


def test_create(server, calls):
    document = {
        "Image": "host",
        "Cmd": ["echo", "hi"],
        "HostConfig": {"Memory": 1 << 30, "Binds": None, "PortBindings": {}},
        "NetworkingConfig": None,
        "UnknownField": {"x": 1},
    }
    answer = post(server, "/containers/create?name=new&platform=linux/amd64", document)
    assert answer.status == 201
    assert set(answer.json) == {"Id", "Warnings"}
    _, (request, name, platform), _ = calls.last()
    assert (request.image, request.cmd, request.host_config.memory) == ("host", ["echo", "hi"], 1 << 30)
    assert (name, platform) == ("new", "linux/amd64")
    assert post(server, "/containers/create?name=new", document).status == 409


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (None, 400, "got EOF while reading request body"),
        (b"", 400, "got EOF while reading request body"),
        (b"null", 400, "got EOF while reading request body"),
        (b"{}", 400, "Config cannot be empty"),
        (b'{"Image":', 400, "invalid JSON"),
        (b'{"Image":3}', 400, "$.Image"),
        (b'{"Image":"x","HostConfig":{"Memory":"1g"}}', 400, "$.HostConfig.Memory"),
        (b'{"Image":"x"} trailing', 400, "invalid JSON"),
        (b'{"Image":"x","HostConfig":{"Memory":1e400}}', 400, "inv"),
        (b'{"Image":"x","HostConfig":{"Memory":123456789012345678901234567890}}', 400, "inv"),
        (b"[" * 100_000, 400, "invalid JSON"),
        (b'{"Image":"\xff"}', 400, "invalid JSON"),
        (b'["Image"]', 400, "invalid request"),
    ],
)
def test_bad_bodies_of_create(server, body, status, text):
    answer = server.ask("POST", "/containers/create", body)
    assert answer.status == status
    assert text in answer.message


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("Application/JSON", 201),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
    ],
)
def test_a_body_must_say_that_it_is_json(server, content_type, status):
    path = f"/containers/create?name={content_type.replace('/', '.').replace('; ', '.')}"
    assert server.ask("POST", path, b'{"Image":"x"}', {"Content-Type": content_type}).status == status


def test_inspect_top_and_changes(server, calls):
    assert server.ask("GET", "/containers/web/json?size=1").json["Name"] == "/web"
    assert calls.last()[1] == ("web", True)
    assert server.ask("GET", "/containers/web/top?ps_args=aux").json["Titles"] == ["PID", "CMD"]
    assert calls.last()[1] == ("web", "aux")
    assert server.ask("GET", "/containers/web/changes").json == [{"Path": "/tmp/x", "Kind": 1}]


def test_start_says_when_there_is_nothing_to_do(server, calls):
    assert post(server, "/containers/create?name=other", {"Image": "x"}).status == 201
    answer = post(server, "/containers/other/start?detachKeys=ctrl-a")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert calls.last()[1] == ("other", "ctrl-a")
    answer = post(server, "/containers/web/start")
    assert (answer.status, answer.body) == (304, b"")


def test_start_with_a_body(server):
    assert post(server, "/containers/web/start", {}).status == 304
    answer = post(server, "/containers/web/start", {"Binds": ["/x:/y"]})
    assert answer.status == 400
    assert "starting container with non-empty request body" in answer.message
    assert post(server, "/containers/web/start?checkpoint=x").status == 501


@pytest.mark.parametrize(
    ("path", "name", "arguments"),
    [
        ("/containers/web/stop?t=3&signal=SIGINT", "stop", ("web", "SIGINT", 3)),
        ("/containers/web/stop", "stop", ("web", "", None)),
        ("/containers/web/stop?t=-1", "stop", ("web", "", -1)),
        ("/containers/web/restart?t=0", "restart", ("web", "", 0)),
        ("/containers/web/kill", "kill", ("web", "SIGKILL")),
        ("/containers/web/kill?signal=HUP", "kill", ("web", "HUP")),
        ("/containers/web/rename?name=new", "rename", ("web", "new")),
    ],
)
def test_changes_of_state(server, calls, path, name, arguments):
    answer = post(server, path)
    assert (answer.status, answer.body) == (204, b"")
    assert calls.last()[:2] == (name, arguments)


def test_pause_and_unpause(server):
    assert post(server, "/containers/web/pause").status == 204
    assert post(server, "/containers/web/unpause").status == 204
    assert post(server, "/containers/nope/pause").status == 404


def test_update(server, calls):
    answer = post(server, "/containers/web/update", {"Memory": 5, "RestartPolicy": {"Name": "always"}})
    assert answer.json == {"Warnings": None}
    _, (_, request), _ = calls.last()
    assert (request.memory, request.restart_policy.name) == (5, "always")


def test_remove(server, calls):
    post(server, "/containers/create?name=doomed", {"Image": "x"})
    assert server.ask("DELETE", "/containers/doomed?force=1&v=true").status == 204
    assert calls.last()[2] == {"force": True, "volumes": True, "link": False}
    assert server.ask("DELETE", "/containers/doomed").status == 404


def test_prune(server, calls):
    answer = post(server, "/containers/prune?filters=%7B%22until%22%3A%5B%221h%22%5D%7D")
    assert answer.json == {"ContainersDeleted": None, "SpaceReclaimed": 0}
    assert calls.last()[1] == ({"until": ["1h"]},)


def test_resize(server, calls):
    assert post(server, "/containers/web/resize?h=40&w=120").status == 200
    assert calls.last()[1] == ("web", 40, 120)
    for query in ("", "?h=1", "?h=x&w=1", "?h=-1&w=1", "?h=70000&w=1"):
        assert post(server, f"/containers/web/resize{query}").status == 400


@pytest.mark.parametrize(("version", "condition"), [("", "removed"), ("/v1.30", "removed"), ("/v1.29", "")])
def test_wait_conditions(server, calls, version, condition):
    with server.connect() as client:
        client.request("POST", f"{version}/containers/web/wait?condition=removed")
        client.read_head()
        assert calls.last()[1] == ("web", condition)
    answer = post(server, "/containers/web/wait?condition=never")
    assert (answer.status, answer.message) == (400, 'invalid condition: "never"')
    assert post(server, "/containers/nope/wait").status == 404


def test_checkpoints_are_refused_as_by_dockerd(server):
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/x")):
        answer = server.ask(method, f"/containers/web/checkpoints{path}")
        assert answer.status == 501
        assert answer.message.startswith("This experimental feature is disabled by default.")


# -- streams of containers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "content_type"),
    [("", "application/vnd.docker.multiplexed-stream"), ("/v1.41", "application/vnd.docker.raw-stream")],
)
def test_logs(server, calls, version, content_type):
    answer = server.ask("GET", f"{version}/containers/web/logs?stdout=1&stderr=1")
    assert answer.headers["content-type"] == content_type
    assert answer.body == frame(1, b"hello\n") + frame(2, b"oops\n")
    assert calls.last()[1] == ("web", LogQuery(stdout=True, stderr=True))


def test_log_parameters(server, calls):
    path = "/containers/web/logs?stderr=1&since=1714557600.5&until=2024-05-01T10:00:01Z&tail=7&timestamps=1&details=1"
    server.ask("GET", path)
    assert calls.last()[1][1] == LogQuery(
        stderr=True,
        since=1_714_557_600_500_000_000,
        until=1_714_557_601_000_000_000,
        tail=7,
        timestamps=True,
        details=True,
    )


@pytest.mark.parametrize(("tail", "expected"), [("all", -1), ("", -1), ("0", 0), ("x", -1), ("-5", -1), ("9" * 30, -1)])
def test_log_tails(server, calls, tail, expected):
    server.ask("GET", f"/containers/web/logs?stdout=1&tail={tail}")
    assert calls.last()[1][1].tail == expected


def test_logs_need_a_stream(server):
    answer = server.ask("GET", "/containers/web/logs")
    assert (answer.status, answer.message) == (400, "Bad parameters: you must choose at least one stream")
    assert server.ask("GET", "/containers/web/logs?stdout=1&since=x").status == 400
    assert server.ask("GET", "/containers/nope/logs?stdout=1").status == 404


def test_one_statistic(server, calls):
    answer = server.ask("GET", "/containers/web/stats?stream=false")
    assert answer.json == {"read": 0}
    assert "content-length" in answer.headers
    server.ask("GET", "/containers/web/stats?stream=0&one-shot=1")
    assert calls.last()[2] == {"stream": False, "one_shot": True}
    server.ask("GET", "/v1.40/containers/web/stats?stream=0&one-shot=1")
    assert calls.last()[2] == {"stream": False, "one_shot": False}
    assert server.ask("GET", "/containers/web/stats?one-shot=1").status == 400
    assert server.ask("GET", "/containers/nope/stats").status == 404
    assert server.ask("GET", "/containers/nope/stats?stream=0").status == 404


def test_streamed_statistics_end_with_the_client(server):
    finished = server.engine.calls.finished
    finished.clear()
    with server.connect() as client:
        client.request("GET", "/containers/web/stats")
        client.read_head()
        assert [client.read_chunk() for _ in range(3)] == [b'{"read":0}\n', b'{"read":1}\n', b'{"read":2}\n']
    until(lambda: finished == ["stats"])


def test_archive_head_get_and_put(server, calls):
    answer = server.ask("HEAD", "/containers/web/archive?path=/etc")
    assert (answer.status, path_stat(answer)) == (200, STAT)
    answer = server.ask("GET", "/containers/web/archive?path=/etc")
    assert (answer.headers["content-type"], answer.body) == ("application/x-tar", b"archive")
    assert path_stat(answer) == STAT
    answer = server.ask("PUT", "/containers/web/archive?path=/etc&noOverwriteDirNonDir=1&copyUIDGID=true", b"tar")
    assert (answer.status, answer.body) == (200, b"")
    assert calls.last()[1][0:2] == ("/etc", 3)
    assert calls.last()[1][3:] == (True, True)


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT"])
def test_archive_errors(server, method):
    assert server.ask(method, "/containers/web/archive").status == 400
    assert server.ask(method, "/containers/nope/archive?path=/").status == 404
    if method != "PUT":
        assert server.ask(method, "/containers/web/archive?path=/missing").status == 404


# -- exec -------------------------------------------------------------------------------------------------------------


def test_exec(server, calls):
    answer = post(server, "/containers/web/exec", {"Cmd": ["ls"], "AttachStdout": True, "Tty": True, "Env": None})
    assert (answer.status, answer.json) == (201, {"Id": "e" * 64})
    _, (reference, request), _ = calls.last()
    assert (reference, request.cmd, request.attach_stdout, request.tty) == ("web", ["ls"], True, True)
    assert server.ask("GET", f"/exec/{'e' * 64}/json").json["ExitCode"] == 0
    assert post(server, f"/exec/{'e' * 64}/resize?h=3&w=4").status == 200
    assert calls.last()[1] == ("e" * 64, 3, 4)


def test_exec_errors(server):
    assert post(server, "/containers/web/exec", {}).message == "No exec command specified"
    assert post(server, "/containers/web/exec").status == 400
    assert post(server, "/exec/nope/start", {}).status == 404


# -- images -----------------------------------------------------------------------------------------------------------


def test_image_list_and_inspect_by_version(server, calls):
    assert "VirtualSize" not in server.ask("GET", "/images/json?all=1&digests=1").json[0]
    assert calls.last()[2] == {"all": True, "digests": True, "filters": {}}
    assert server.ask("GET", "/v1.43/images/json").json[0]["VirtualSize"] == 5
    assert server.ask("GET", "/v1.43/images/host/json").json["VirtualSize"] == 5
    server.ask("GET", "/v1.25/images/json?filter=busybox")
    assert calls.last()[2]["filters"] == {"reference": ["busybox"]}


def test_names_of_images_have_slashes(server, calls):
    name = "registry.example/team/app:1"
    assert server.ask("GET", f"/images/{name}/json").status == 200
    assert server.ask("GET", f"/images/{name}/history").status == 200
    assert server.ask("GET", f"/images/{name}/get").body == b"image" * 10
    assert server.ask("DELETE", f"/images/{name}?force=1&noprune=1").json == [{"Untagged": name}]
    assert calls.last() == ("image_remove", (name,), {"force": True, "no_prune": True})
    assert post(server, f"/images/{name}/tag?repo=r.io/x&tag=2").status == 201
    assert calls.last()[1] == (name, "r.io/x", "2")
    assert server.ask("GET", "/images/registry.example%2Fteam%2Fapp:1/json").status == 200


def test_save_of_several(server, calls):
    answer = server.ask("GET", "/images/get?names=host&names=busybox:latest")
    assert (answer.headers["content-type"], answer.body) == ("application/x-tar", b"image" * 20)
    assert calls.last()[1] == (("host", "busybox:latest"), "docker")
    server.ask("GET", "/images/get?names=host&format=oci")
    assert calls.last()[1] == (("host",), "oci")
    assert server.ask("GET", "/images/get?names=host&format=zip").status == 400
    assert server.ask("GET", "/images/get?names=nope").status == 404
    assert server.ask("GET", "/images/get").status == 400


def test_load(server):
    answer = server.ask("POST", "/images/load?quiet=0", b"x" * 1000, {"Content-Type": "application/x-tar"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == b'{"stream":"Loaded 1000\\n"}\r\n'


def test_import(server, calls):
    path = "/images/create?fromSrc=-&repo=mine&tag=1&message=m&changes=CMD%20x&changes=ENV%20a%3Db&platform=linux"
    answer = server.ask("POST", path, b"tar", {"Content-Type": "text/plain"})
    assert json.loads(answer.body) == {"status": "sha256:" + "c" * 64}
    wanted = ImportQuery(repo="mine", tag="1", message="m", platform="linux", changes=["CMD x", "ENV a=b"])
    assert calls.last()[1] == (wanted,)


def test_what_is_not_served_says_so(server):
    answer = server.ask("POST", "/images/create?fromSrc=http://example/x.tar")
    assert answer.status == 501
    assert "support" in answer.message
    assert server.ask("POST", "/images/create").status == 400


@pytest.mark.parametrize("path", ["/grpc", "/session"])
def test_connections_of_buildkit_need_an_upgrade(server, path):
    assert server.ask("POST", path).message == "no upgrade proto in request"
    answer = server.ask("POST", path, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
    assert (answer.status, answer.message) == (400, "protocol tcp not supported")


def test_build(server, calls):
    path = (
        "/build?t=a&t=b:1&dockerfile=d/File&buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D"
        "&cachefrom=%5B%22x%22%5D&nocache=1&rm=0&q=1&target=t&networkmode=none&memory=4096&shmsize=1&extrahosts=h:1.2.3.4"
        "&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&platform=Linux/amd64&pull=1&version=1"
    )
    secret = base64.urlsafe_b64encode(b'{"r.example":{"username":"u","password":"p"}}').decode()
    answer = server.ask("POST", path, b"tar", {"X-Registry-Config": secret, "Content-Type": "application/x-tar"})
    assert (answer.status, answer.body) == (200, b'{"stream":"Step 1/1 : FROM x"}\r\n')
    query, content, credentials = calls.last()[1]
    assert content == b"tar"
    assert credentials["r.example"].username == "u"
    assert query == BuildQuery(
        tags=("a", "b:1"), dockerfile="d/File", arguments={"A": "1", "B": None}, labels={"l": "v"}, cache_from=("x",),
        no_cache=True, remove=False, quiet=True, target="t", network="none", memory=4096, shm_size=1, pull=True,
        extra_hosts=("h:1.2.3.4",), ulimits=(Ulimit(name="nofile", soft=1, hard=2),), platform="linux/amd64",
    )  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [
        "version=3", "session=abc", "remote=client-session", "isolation=hyperv", "memory=x",
        "cpushares=1.5",
        "buildargs=%5B", "buildargs=%7B%22a%22%3A1%7D", "labels=1", "cachefrom=x", "ulimits=%7B%7D",
        "securityopt=%5B%22seccomp%3Dunconfined%22%5D", "outputs=%5B%7B%22Type%22%3A%22tar%22%7D%5D", "target=absent",
        "memory=99999999999999999999", "extrahosts=%5B1%5D",
    ],
)  # fmt: skip
def test_builds_that_are_refused_before_anything_is_done(server, parameters):
    answer = server.ask("POST", f"/build?{parameters}", b"tar")
    assert answer.status == 400
    assert answer.message


def test_a_build_that_fails_late_tells_so_in_its_stream(server):
    answer = server.ask("POST", "/build?target=late", b"tar")
    last = json.loads(answer.body.splitlines()[-1])
    assert (answer.status, last["error"], last["errorDetail"]) == (200, "too late", {"message": "too late"})


@pytest.mark.parametrize(
    ("parameters", "removed"),
    [("", (True, False)), ("rm=0", (False, False)), ("rm=1", (True, False)), ("rm=0&forcerm=1", (True, True))],
)
def test_which_containers_of_a_build_stay(server, calls, parameters, removed):
    server.ask("POST", f"/build?{parameters}", b"tar")
    query = calls.last()[1][0]
    assert (query.remove, query.force_remove) == removed


def test_the_cache_of_builds(server, calls):
    answer = server.ask("POST", "/build/prune?all=1&keep-storage=5&filters=%7B%22until%22%3A%5B%221h%22%5D%7D")
    assert answer.json == {"CachesDeleted": None, "SpaceReclaimed": 0}
    assert calls.last()[1] == (True, PruneSpace(reserved=5), {"until": ["1h"]})
    assert server.ask("POST", "/build/cancel?id=x").status == 200
    assert calls.last()[1] == ("x",)
    assert server.ask("POST", "/build/prune?min-free-space=5&max-used-space=6&reserved-space=7").status == 200
    assert calls.last()[1] == (False, PruneSpace(reserved=7, max_used=6, min_free=5), {})


def test_commit(server, calls):
    path = "/commit?container=web&repo=mine&tag=2&comment=c&author=a&pause=0&changes=CMD%20x"
    answer = post(server, path, {"Env": ["A=b"]})
    assert (answer.status, answer.json) == (201, {"Id": "sha256:" + "d" * 64})
    query, config = calls.last()[1]
    assert query == CommitQuery(
        container="web", repo="mine", tag="2", comment="c", author="a", pause=False, changes=["CMD x"]
    )
    assert config.env == ["A=b"]
    post(server, "/commit?container=web")
    assert calls.last()[1] == (CommitQuery(container="web"), None)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_volumes(server, calls):
    answer = post(server, "/volumes/create", {"Name": "v", "DriverOpts": None, "Labels": {"a": "b"}})
    assert (answer.status, answer.json["Name"]) == (201, "v")
    assert calls.last()[1][0].labels == {"a": "b"}
    assert server.ask("GET", "/volumes").json == {"Volumes": [], "Warnings": None}
    assert server.ask("GET", "/volumes/nope").message == "get nope: no such volume"
    assert server.ask("DELETE", "/volumes/v?force=1").status == 204
    assert calls.last()[1] == ("v", True)


@pytest.mark.parametrize(("version", "filters"), [("", {}), ("/v1.41", {"all": ["true"]})])
def test_volume_prune_spares_named_volumes_since_1_42(server, calls, version, filters):
    post(server, f"{version}/volumes/prune")
    assert calls.last()[1] == (filters,)


def test_events(server, calls):
    answer = server.ask("GET", "/events?since=10&until=20.5&filters=%7B%22type%22%3A%5B%22container%22%5D%7D")
    assert answer.headers["content-type"] == "application/jsonl"
    assert json.loads(answer.body)["Action"] == "start"
    assert server.ask("GET", "/v1.51/events?until=20").headers["content-type"] == "application/json"
    wanted = {"Accept": "text/html, application/json-seq;q=0.9, application/x-ndjson;q=0.5"}
    answer = server.ask("GET", "/events?since=10&until=20", headers=wanted)
    assert answer.headers["content-type"] == "application/json-seq"
    assert answer.body.startswith(b"\x1e{")
    assert answer.body.endswith(b"}\n")
    server.ask("GET", "/events?since=10&until=20.5&filters=%7B%22type%22%3A%5B%22container%22%5D%7D")
    assert calls.last()[1] == (10_000_000_000, 20_500_000_000, {"type": ["container"]})
    assert server.ask("GET", "/events?since=20&until=10").status == 400
    assert server.ask("GET", "/events?since=x").status == 400


def test_version_and_disk_usage(server):
    assert server.ask("GET", "/version").json["ApiVersion"] == "1.56"
    assert server.ask("GET", "/system/df?type=image&type=volume").json["Types"] == ["image", "volume"]
    assert server.ask("GET", "/v1.41/system/df?type=image").json["Types"] == []
    assert server.ask("GET", "/system/df?type=x").status == 400


def test_networks(server, calls):
    networks = server.ask("GET", "/networks").json
    assert [(network["Name"], network["Driver"]) for network in networks] == [("none", "null"), ("host", "host")]
    host = server.ask("GET", "/networks/host").json
    assert server.ask("GET", f"/networks/{host['Id']}").json == host
    assert server.ask("GET", f"/networks/{host['Id'][:12]}").json == host
    assert server.ask("GET", "/networks/nope").message == "network nope not found"
    assert server.ask("DELETE", "/networks/host").status == 403
    assert server.ask("DELETE", "/networks/nope").status == 404
    wanted = {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.1.0.0/16"}]}, "EnableIPv6": True, "Labels": {"a": "b"}}
    assert post(server, "/networks/create", wanted).json == {"Id": "n" * 64, "Warning": ""}
    _, (request,), _ = calls.last()
    assert (request.name, request.ipam.config[0].subnet, request.enable_ipv6) == ("x", "10.1.0.0/16", True)
    connected = {"Container": "web", "EndpointConfig": {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}}}
    assert post(server, "/networks/x/connect", connected).status == 200
    _, (reference, network, settings), _ = calls.last()
    assert (reference, network, settings.aliases) == ("web", "x", ["db"])
    assert settings.ipam_config.ipv4_address == "10.1.0.9"
    assert post(server, "/networks/x/disconnect", {"Container": "web", "Force": True}).status == 200
    assert calls.last()[1:] == (("web", "x"), {"force": True})
    assert post(server, "/networks/prune").json == {"NetworksDeleted": None}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"name": ["ho"]}, ["host"]),
        ({"driver": ["null", "host"]}, ["none", "host"]),
        ({"type": ["custom"]}, []),
        ({"type": ["builtin"], "scope": ["local"]}, ["none", "host"]),
        ({"label": ["com.docker.compose.project=x"]}, []),
        ({"dangling": ["true"]}, []),
        ({"id": ["zz"]}, []),
    ],
)
def test_network_filters(server, filters, names):
    answer = server.ask("GET", f"/networks?filters={quote(json.dumps(filters))}")
    assert [network["Name"] for network in answer.json] == names


def test_bad_network_filters(server):
    assert server.ask("GET", "/networks?filters=%7B%22x%22%3A%5B%22y%22%5D%7D").message == "invalid filter 'x'"
    assert server.ask("GET", "/networks?filters=%7B%22type%22%3A%5B%22y%22%5D%7D").status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/swarm"),
        ("GET", "/nodes"),
        ("GET", "/services"),
        ("GET", "/tasks"),
        ("GET", "/secrets"),
        ("GET", "/configs"),
        ("POST", "/services/create"),
        ("DELETE", "/nodes/x"),
        ("GET", "/services/x/logs"),
        ("POST", "/secrets/x/update?version=1"),
        ("PUT", "/volumes/x"),
    ],
)
def test_swarm_is_inactive(server, method, path):
    answer = server.ask(method, path)
    assert (answer.status, answer.message) == (503, SWARM)


def test_swarm_and_plugins_otherwise(server):
    assert server.ask("POST", "/swarm/leave").message == "This node is not part of a swarm"
    assert server.ask("POST", "/swarm/init").status == 501
    assert server.ask("GET", "/plugins").body == b"[]\n"
    assert server.ask("GET", "/plugins/a/b/json").message == 'plugin "a/b" not found'
    assert server.ask("POST", "/plugins/a/enable").status == 404
    assert server.ask("POST", "/plugins/pull?remote=x").status == 501


def test_every_row_answers_with_a_status_that_is_meant(server):
    for route in ROUTES:
        if route.template in ("/events", "/_ping", "/info") or route.template.endswith(("/attach", "/attach/ws")):
            continue
        path = route.template.replace("{name*}", "no/such").replace("{id}", "no.such").replace("{name}", "no.such")
        answer = server.ask(route.method, path.replace("{checkpoint}", "x"))
        assert answer.status in (200, 201, 204, 400, 403, 404, 501, 503), (route.method, route.template)
        assert answer.headers["api-version"] == "1.56"
