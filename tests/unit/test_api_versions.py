"""Documents by API version: what each version of the Engine API added and took away."""

from __future__ import annotations

import copy

import pytest
from api_fakes import ApiServer

from corten.api import versions
from corten.dockerapi.codec import decode
from corten.dockerapi.container import ContainerCreate, ContainerUpdate, ExecCreate, PortBinding
from corten.dockerapi.network import NetworkConnect, NetworkCreate
from corten.dockerapi.platforms import read_platform
from corten.dockerapi.version import CURRENT
from corten.errors import InvalidParameter

ROW = {"Id": "x", "RepoTags": [], "RepoDigests": [], "Size": 5, "SharedSize": -1, "Containers": 2}
CONTAINER = {
    "Id": "a" * 64,
    "Config": {"Hostname": "box", "OnBuild": None, "Cmd": ["sh"]},
    "HostConfig": {"NetworkMode": "front", "KernelMemoryTCP": 0},
    "NetworkSettings": {
        "Bridge": "", "HairpinMode": False, "IPAddress": "10.0.0.2", "IPPrefixLen": 24, "MacAddress": "x",
        "SandboxKey": "/proc/1/ns/net", "Ports": {},
        "Networks": {"front": {"Aliases": ["web"], "IPAddress": "10.0.0.2"}, "bridge": {"Aliases": None}},
    },
}  # fmt: skip
IMAGE = {
    "Id": "x", "RepoTags": ["a"], "Size": 5, "Parent": "", "Comment": "", "DockerVersion": "", "Author": "me",
    "Created": "0001-01-01T00:00:00Z",
    "Config": {"User": "", "Env": ["A=1"], "Cmd": None, "Hostname": "builder", "Labels": {"a": "b"}, "OnBuild": None},
}  # fmt: skip
INFO = {
    "Runtimes": {"runc": {"path": "runc", "status": {"x": "y"}}}, "CDISpecDirs": [], "Containerd": {"Address": "x"},
    "RegistryConfig": {"Mirrors": []}, "FirewallBackend": {"Driver": "nftables"}, "NRI": {},
    "ContainerdCommit": {"ID": "1"}, "RuncCommit": {"ID": "2"}, "InitCommit": {"ID": "3"}, "DiscoveredDevices": [1],
}  # fmt: skip


@pytest.fixture(autouse=True)
def given_documents_stay_as_they_are():
    given = copy.deepcopy((ROW, CONTAINER, IMAGE, INFO))
    yield
    assert given == (ROW, CONTAINER, IMAGE, INFO)


def test_image_rows():
    assert versions.image_row(ROW, (1, 51)) == ROW
    assert versions.image_row(ROW, (1, 50)) == {**ROW, "Containers": -1}
    assert "VirtualSize" not in versions.image_row(ROW, (1, 44))
    assert versions.image_row(ROW, (1, 43))["VirtualSize"] == 5
    assert versions.image_row(ROW, (1, 43))["RepoTags"] == []
    old = versions.image_row(ROW, (1, 42))
    assert (old["RepoTags"], old["RepoDigests"]) == (["<none>:<none>"], ["<none>@<none>"])
    assert versions.image_row({**ROW, "RepoDigests": ["a@sha256:x"]}, (1, 42))["RepoTags"] == []


def test_containers_lose_the_old_network_fields():
    new, old = versions.container(CONTAINER, (1, 52)), versions.container(CONTAINER, (1, 51))
    assert set(new["NetworkSettings"]) == {"SandboxKey", "Ports", "Networks"}
    assert old["NetworkSettings"]["IPAddress"] == "10.0.0.2"
    assert "OnBuild" not in new["Config"]
    assert old["Config"]["OnBuild"] is None
    assert "KernelMemoryTCP" not in new["HostConfig"]
    assert "KernelMemoryTCP" in old["HostConfig"]


def test_aliases_held_the_id_and_the_host_name():
    networks = versions.container(CONTAINER, (1, 44))["NetworkSettings"]["Networks"]
    assert networks["front"]["Aliases"] == ["web", "a" * 12, "box"]
    assert networks["bridge"]["Aliases"] is None
    assert versions.container(CONTAINER, (1, 45))["NetworkSettings"]["Networks"]["front"]["Aliases"] == ["web"]


def test_annotations_are_in_rows_since_1_46():
    row = {"HostConfig": {"NetworkMode": "none", "Annotations": {"a": "b"}}}
    assert versions.container_row(row, (1, 46)) == row
    assert versions.container_row(row, (1, 45)) == {"HostConfig": {"NetworkMode": "none"}}


def test_image_documents():
    newest = versions.image(IMAGE, (1, 52))
    assert newest["Config"] == {"Env": ["A=1"], "Labels": {"a": "b"}}
    assert newest["Author"] == "me"
    assert not {"Parent", "Comment", "DockerVersion", "Created", "VirtualSize", "Container"} & set(newest)
    between = versions.image(IMAGE, (1, 50))
    assert set(between["Config"]) == {
        "User", "Env", "Cmd", "Volumes", "WorkingDir", "Entrypoint", "OnBuild", "Labels",
    }  # fmt: skip
    assert between["Comment"] == ""
    old = versions.image(IMAGE, (1, 44))
    assert old["Config"]["Hostname"] == ""
    assert old["Config"]["AttachStdin"] is False
    assert "ContainerConfig" in old
    assert "Created" not in old
    oldest = versions.image(IMAGE, (1, 43))
    assert oldest["Created"] == "0001-01-01T00:00:00Z"
    assert oldest["VirtualSize"] == 5


@pytest.mark.parametrize(
    ("field", "since"),
    [("CDISpecDirs", 44), ("Containerd", 46), ("FirewallBackend", 49), ("DiscoveredDevices", 50), ("NRI", 53)],
)
def test_fields_of_info_have_a_first_version(field, since):
    assert field in versions.info(INFO, (1, since))
    assert field not in versions.info(INFO, (1, since - 1))


def test_fields_of_info_that_went_away():
    assert "BridgeNfIptables" not in versions.info(INFO, (1, 50))
    assert versions.info(INFO, (1, 49))["BridgeNfIptables"] is False
    assert versions.info(INFO, (1, 49))["RuncCommit"] == {"ID": "2"}
    assert versions.info(INFO, (1, 48))["RuncCommit"] == {"ID": "2", "Expected": "2"}
    assert versions.info(INFO, (1, 47))["RegistryConfig"] == {"Mirrors": []}
    assert versions.info(INFO, (1, 46))["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] is None
    assert versions.info(INFO, (1, 43))["Runtimes"] == {"runc": {"path": "runc"}}


def test_events():
    event = {"Type": "container", "Action": "start", "status": "start", "id": "x", "from": "y", "time": 1}
    assert versions.event(event, (1, 51)) == event
    assert versions.event(event, (1, 52)) == {"Type": "container", "Action": "start", "time": 1}
    made = {"Type": "image", "Action": "create"}
    assert versions.event(made, (1, 45)) is None
    assert versions.event(made, (1, 46)) == made


def test_disk_usage():
    document = {
        "LayersSize": 100,
        "Images": [
            {"Size": 60, "SharedSize": 20, "Containers": 1},
            {"Size": 60, "SharedSize": 20, "Containers": 0},
        ],
        "Containers": [{"State": "running", "SizeRw": 5}, {"State": "exited", "SizeRw": 7}],
        "Volumes": [{"UsageData": {"Size": 3, "RefCount": 1}}, {"UsageData": {"Size": 4, "RefCount": 0}}],
        "BuildCache": [],
    }
    assert versions.disk_usage(document, (1, 51), verbose=True) == document
    assert versions.disk_usage(document, (1, 43), verbose=True)["Images"][0]["VirtualSize"] == 60
    assert versions.disk_usage(document, (1, 41), verbose=False)["BuilderSize"] == 0
    brief = versions.disk_usage(document, (1, 52), verbose=False)
    assert brief["Images"] == document["Images"]
    assert brief["ImageUsage"] == {"ActiveCount": 1, "Reclaimable": 60, "TotalCount": 2, "TotalSize": 100}
    assert brief["ContainerUsage"] == {"ActiveCount": 1, "Reclaimable": 7, "TotalCount": 2, "TotalSize": 12}
    assert brief["VolumeUsage"] == {"ActiveCount": 1, "Reclaimable": 4, "TotalCount": 2, "TotalSize": 7}
    assert brief["BuildCacheUsage"] == {}
    whole = versions.disk_usage(document, (1, 52), verbose=True)
    assert "Images" not in whole
    assert whole["ImageUsage"]["Items"] == document["Images"]


# -- requests -------------------------------------------------------------------------------------------------------


def adapted(document: bytes, version: tuple[int, int], *, cgroup_v2: bool = False):
    request = decode(document, ContainerCreate)
    return request, versions.adapt_create(request, version, cgroup_v2=cgroup_v2)


def test_defaults_of_old_clients():
    request, _ = adapted(b"{}", (1, 39))
    assert (request.host_config.ipc_mode, request.host_config.cgroupns_mode) == ("shareable", "host")
    assert adapted(b"{}", (1, 39), cgroup_v2=True)[0].host_config.cgroupns_mode == ""
    request, _ = adapted(b"{}", (1, 41))
    assert (request.host_config.ipc_mode, request.host_config.cgroupns_mode) == ("", "")


def test_fields_that_a_version_does_not_know_are_taken_away():
    body = (
        b'{"Healthcheck":{"StartInterval":5},"MacAddress":"02:00:00:00:00:01",'
        b'"HostConfig":{"Annotations":{"a":"b"},"ConsoleSize":[24,80],'
        b'"Mounts":[{"Type":"tmpfs","TmpfsOptions":{"Options":[["noexec"]]},"VolumeOptions":{}}]}}'
    )
    old = adapted(body, (1, 41))[0]
    assert old.host_config.console_size == [0, 0]
    assert old.host_config.annotations == {}
    assert old.healthcheck.start_interval == 0
    assert old.host_config.mounts[0].volume_options is None
    assert old.host_config.mounts[0].tmpfs_options.options == []
    new = adapted(body, (1, 52))[0]
    assert new.host_config.console_size == [24, 80]
    assert new.host_config.annotations == {"a": "b"}
    assert new.healthcheck.start_interval == 5
    assert new.host_config.mounts[0].tmpfs_options.options == [["noexec"]]
    assert new.mac_address == ""
    assert adapted(body, (1, 51))[0].mac_address == "02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("body", "last", "message"),
    [
        (b'{"NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}', 43, "multiple network endpoints: a, b"),
        (b'{"HostConfig":{"Mounts":[{"Type":"volume","VolumeOptions":{"Subpath":"x"}}]}}', 44, "needs API v1.45"),
        (b'{"HostConfig":{"Mounts":[{"Type":"image","Source":"x"}]}}', 47, "needs API v1.48"),
        (
            b'{"HostConfig":{"Mounts":[{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}]}}',
            43,
            "needs API v1.44",
        ),
    ],
)
def test_what_a_version_does_not_allow(body, last, message):
    with pytest.raises(InvalidParameter, match=message):
        adapted(body, (1, last))
    adapted(body, (1, last + 1))


def test_the_driver_that_mounts_ignore_is_warned_of():
    body = b'{"HostConfig":{"VolumeDriver":"local","Mounts":[{"Type":"volume","Target":"/x"}]}}'
    assert adapted(body, (1, 47))[1] == []
    assert "ignored for volumes specified via 'mount'" in adapted(body, (1, 48))[1][0]


def test_rules_for_block_devices_in_updates():
    body = b'{"PidsLimit":5,"BlkioDeviceReadBps":[{"Path":"/dev/null","Rate":1}],"BlkioWeightDevice":[]}'
    update = decode(body, ContainerUpdate)
    versions.adapt_update(update, (1, 55))
    assert update.blkio_device_read_bps[0].rate == 1
    assert update.blkio_weight_device == []
    assert update.blkio_device_write_bps is None
    versions.adapt_update(update, (1, 54))
    assert update.blkio_device_read_bps is None
    assert update.pids_limit == 5
    versions.adapt_update(update, (1, 39))
    assert update.pids_limit is None


def test_empty_port_bindings():
    body = b'{"HostConfig":{"PortBindings":{"80/tcp":[],"81/udp":null,"82/tcp":[{"HostPort":"8082"}]}}}'
    for version, warned in (((1, 51), False), ((1, 52), True), (CURRENT, True)):
        request, warnings = adapted(body, version)
        bindings = request.host_config.port_bindings
        assert bindings["80/tcp"] == bindings["81/udp"] == [PortBinding()]
        assert bindings["82/tcp"] == [PortBinding(host_port="8082")]
        assert any("80/tcp, 81/udp" in text for text in warnings) == warned


def test_consoles_of_further_programs():
    document = ExecCreate(console_size=[24, 80])
    versions.adapt_exec(document, (1, 42))
    assert document.console_size == [24, 80]
    versions.adapt_exec(document, (1, 41))
    assert document.console_size is None


def test_networks():
    document = {"Name": "net", "Status": {"IPAM": {}}}
    assert versions.network(document, (1, 52)) == document
    assert versions.network(document, (1, 51)) == {"Name": "net"}
    wanted = decode(b'{"EnableIPv4":false}', NetworkCreate)
    versions.adapt_network(wanted, (1, 48))
    assert not wanted.enable_ipv4
    versions.adapt_network(wanted, (1, 47))
    assert wanted.enable_ipv4
    connect = decode(b'{"EndpointConfig":{"MacAddress":"02:00:00:00:00:01","GwPriority":3}}', NetworkConnect)
    versions.adapt_connect(connect, (1, 54))
    assert (connect.endpoint_config.mac_address, connect.endpoint_config.gw_priority) == ("02:00:00:00:00:01", 3)
    versions.adapt_connect(connect, (1, 53))
    assert (connect.endpoint_config.mac_address, connect.endpoint_config.gw_priority) == ("", 3)
    versions.adapt_connect(connect, (1, 47))
    assert connect.endpoint_config.gw_priority == 0


def test_health_in_lists():
    row = {"HostConfig": {}, "Health": {"Status": "none", "FailingStreak": 0}}
    assert versions.container_row(row, (1, 52)) == row
    assert "Health" not in versions.container_row(row, (1, 51))


def test_platforms_in_queries():
    assert read_platform('{"os":"linux","architecture":"arm64","variant":"v8"}') == "linux/arm64/v8"
    assert read_platform("{}") == ""
    for text in ("[]", "x", '{"os":1,"architecture":"a"}', '{"os":"linux"}', '{"os":"a/b","architecture":"c"}'):
        with pytest.raises(InvalidParameter, match="failed to parse platform"):
            read_platform(text)


def test_images_of_another_platform_are_not_found():
    amd, arm = (f'%7B"os":"linux","architecture":"{name}"%7D'.replace('"', "%22") for name in ("amd64", "arm"))
    with ApiServer() as server:
        assert server.ask("GET", f"/images/host/json?platform={amd}").status == 200
        for path in ("/images/host/json", "/images/host/history", "/images/host/get", "/images/host/attestations"):
            assert server.ask("GET", f"{path}?platform={arm}").status == 404
            assert server.ask("GET", f"{path}?platform=%5B%5D").status == 400
        assert server.ask("DELETE", f"/images/host?platforms={arm}").status == 404
        assert server.ask("GET", f"/v1.48/images/host/json?platform={arm}").status == 200
        assert server.ask("GET", "/v1.54/images/host/attestations").status == 400
        assert server.ask("GET", "/images/host/attestations").json == []
