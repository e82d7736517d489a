"""What the filters of lists and prunes mean."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from corten.dockerapi.container import ContainerConfig, HostConfig, PortBinding
from corten.engine import filters as room
from corten.engine.container import Container, State, Status
from corten.engine.endpoint import Endpoint, PublishedPort
from corten.engine.filters import ContainerFilter, PruneFilter
from corten.engine.mount_points import MountPoint
from corten.engine.network_records import host_record
from corten.errors import InvalidParameter, NotFound

SECOND = 10**9


@dataclass
class FakeImage:
    id: str
    parent: str = ""


class FakeImages:
    """base <- middle <- top, and one apart."""

    images = (FakeImage("base"), FakeImage("middle", "base"), FakeImage("top", "middle"), FakeImage("apart"))

    def get(self, ref):
        if ref == "Bad":
            raise InvalidParameter("invalid reference format")
        for image in self.images:
            if image.id == ref:
                return image
        raise NotFound(f"No such image: {ref}")

    def all(self):
        return list(self.images)


def container(number=1, **changes):
    """Container number n was made at second n."""
    made = {
        "id": f"{number:x}" * 64,
        "name": f"name{number}",
        "created_ns": number * SECOND,
        "image_id": "middle",
        "config": ContainerConfig(labels={"tier": "front", "empty": ""}, exposed_ports={"80/tcp": {}, "53/udp": {}}),
        "host_config": HostConfig(network_mode="none", port_bindings={"81/tcp": [PortBinding(host_port="8081")]}),
        "networks": {
            "none": Endpoint(
                network_id=host_record("none").id,
                published=[PublishedPort(protocol="tcp", port=80, host_address="", host_port=8080, versions=(4,))],
            )
        },
        "driver": "overlay2",
        "state": State(status=Status.EXITED, exit_code=3, started_ns=number * SECOND),
        "mount_points": [
            MountPoint(type="volume", name="data", source="/v/data/_data", destination="/data"),
            MountPoint(type="bind", source="/srv", destination="/www"),
        ],
    }
    return Container(**{**made, **changes})


class FakeIndex:
    def find(self, reference):
        if not reference.startswith("name"):
            raise NotFound(f"No such container: {reference}")
        return SimpleNamespace(container=container(int(reference[4:])))


def matches(filters, subject=None, health=""):
    return ContainerFilter(filters, FakeIndex(), FakeImages()).matches(subject or container(), health)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"name": []}, True),
        ({"name": ["ame1"]}, True),
        ({"name": ["^/name1$"]}, True),
        ({"name": ["^name"]}, True),
        ({"name": ["2", "1"]}, True),
        ({"name": ["ame2"]}, False),
        ({"name": ["["]}, False),
        ({"id": ["1111"]}, True),
        ({"id": ["2"]}, False),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=front", "empty="]}, True),
        ({"label": ["tier=back"]}, False),
        ({"label": ["tier", "other"]}, False),
        ({"status": ["exited"]}, True),
        ({"status": ["running", "exited"]}, True),
        ({"status": ["running"]}, False),
        ({"exited": ["3"]}, True),
        ({"exited": ["0", "3"]}, True),
        ({"exited": ["0"]}, False),
        ({"health": ["none"]}, True),
        ({"health": ["healthy"]}, False),
        ({"ancestor": ["middle"]}, True),
        ({"ancestor": ["base"]}, True),
        ({"ancestor": ["top"]}, False),
        ({"ancestor": ["apart", "base"]}, True),
        ({"ancestor": ["unknown"]}, False),
        ({"ancestor": ["Bad"]}, False),
        ({"volume": ["data"]}, True),
        ({"volume": ["/data"]}, True),
        ({"volume": ["/srv"]}, True),
        ({"volume": ["/v/data/_data"]}, False),
        ({"volume": ["dat"]}, False),
        ({"network": ["none"]}, True),
        ({"network": [host_record("none").id]}, True),
        ({"network": [host_record("none").id[:12]]}, True),
        ({"network": ["host"]}, False),
        ({"expose": ["80"]}, True),
        ({"expose": ["70-90/tcp"]}, True),
        ({"expose": ["53"]}, False),
        ({"expose": ["53/udp"]}, True),
        ({"publish": ["8080"]}, True),
        ({"publish": ["80"]}, False),
        ({"publish": ["8081"]}, False),
        ({"expose": ["81"]}, True),
        ({"is-task": ["false"]}, True),
        ({"is-task": ["true"]}, False),
        ({"before": ["name2"]}, True),
        ({"before": ["name1"]}, False),
        ({"since": ["name0"]}, True),
        ({"since": ["name1"]}, False),
        ({"name": ["name1"], "status": ["running"]}, False),
    ],
)
def test_container_filters(filters, expected):
    assert matches(filters) is expected


def test_health_is_that_of_the_monitor():
    assert matches({"health": ["unhealthy"]}, health="unhealthy")
    assert not matches({"health": ["none"]}, health="starting")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State(status=Status.RUNNING, exit_code=0, started_ns=SECOND), False),
        (State(status=Status.CREATED, exit_code=0), False),
        (State(status=Status.EXITED, exit_code=0, started_ns=SECOND), True),
        (State(status=Status.DEAD, exit_code=0, started_ns=SECOND), True),
    ],
)
def test_exited_is_what_ran_and_ended(state, expected):
    assert matches({"exited": ["0"]}, container(state=state)) is expected


def test_only_status_looks_at_stopped_containers_by_itself():
    def covers(filters):
        return ContainerFilter(filters, FakeIndex(), FakeImages()).covers_stopped

    assert covers({"status": ["exited"]})
    assert not covers({"status": []})
    assert not covers({"exited": ["0"]})


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"colour": ["red"]}, "invalid filter 'colour'"),
        ({"status": ["sleeping"]}, "invalid filter 'status=sleeping'"),
        ({"health": ["ill"]}, "invalid filter 'health=ill'"),
        ({"exited": ["one"]}, "invalid filter 'exited=one'"),
        ({"exited": ["9" * 50]}, "invalid filter 'exited="),
        ({"is-task": ["maybe"]}, r"invalid filter 'is-task=\[maybe\]'"),
        ({"is-task": ["true", "false"]}, "invalid filter 'is-task="),
        ({"expose": ["http"]}, "invalid filter 'expose=http'"),
        ({"expose": ["90-80"]}, "invalid filter 'expose=90-80'"),
        ({"expose": ["70000"]}, "invalid filter 'expose=70000'"),
        ({"publish": ["1:2"]}, "invalid filter 'publish=1:2'"),
    ],
)
def test_bad_filters_are_refused(filters, text):
    with pytest.raises(InvalidParameter, match=text):
        matches(filters)


def test_before_and_since_name_a_container_that_exists():
    with pytest.raises(NotFound, match="No such container: x"):
        matches({"before": ["x"]})


@pytest.mark.parametrize("text", ["(a+)+$" * 200, "a" * 1000])
def test_patterns_of_a_client_are_bounded(text):
    assert not room.text_matches("a" * 64 + "!", text)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"label": ["tier"]}, True),
        ({"label!": ["tier"]}, False),
        ({"label!": ["tier=back"]}, True),
        ({"label": ["tier"], "label!": ["empty"]}, False),
        ({"until": ["2"]}, True),
        ({"until": ["1"]}, True),
        ({"until": ["0.5"]}, False),
        ({"until": ["1h"]}, True),
    ],
)
def test_prune_filters(filters, expected):
    assert PruneFilter(filters).matches(container()) is expected


def test_bad_prune_filters_are_refused():
    with pytest.raises(InvalidParameter, match="more than one until filter specified"):
        PruneFilter({"until": ["1h", "2h"]})
    with pytest.raises(InvalidParameter, match="invalid filter 'name'"):
        PruneFilter({"name": ["x"]})
    with pytest.raises(InvalidParameter):
        PruneFilter({"until": ["yesterday"]})
