"""``RUN --device``: what it says, what a step gets, and what the client has to grant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from build_place import Workplace

from corten.build.devices import read_grants
from corten.cdi.catalogue import Device, Found
from corten.cdi.documents import Edits
from corten.dockerfile import instructions as ins
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.parser import parse
from corten.errors import CortenError, Forbidden, InvalidParameter, NotFound

CLASS = {"org.mobyproject.buildkit.device.class": "fast"}
ALLOWED = {"org.mobyproject.buildkit.device.autoallow": "true"}


def device(name: str, annotations: dict[str, str] | None = None) -> tuple[str, Device]:
    return name, Device(name, annotations or {}, Edits(env=["A=1"]), "/etc/cdi/a.json", Edits())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    made.workshop.found = Found(
        dict([device("a.com/x=one", CLASS), device("a.com/x=two"), device("b.com/y=free", {**ALLOWED, **CLASS})])
    )
    yield made
    assert not made.workshop.containers
    made.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.com/x=one", ins.Device("a.com/x=one")),
        ("a.com/x=one,required", ins.Device("a.com/x=one", True)),
        ("required=0,name=fast", ins.Device("fast")),
        ("fast,required=true", ins.Device("fast", True)),
        ("a.com/x=*", ins.Device("a.com/x=*")),
    ],
)
def test_words(text: str, expected: ins.Device) -> None:
    (instruction,) = parse(f"FROM base\nRUN --device={text} true\n".encode()).stages[0].instructions
    assert isinstance(instruction, ins.Run)
    assert instruction.devices == (expected,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("required", "a device needs a name"),
        ("a.com/x=one,required=maybe", "invalid value for required"),
        ("a.com/x=one,name=two", "already set"),
        ("a.com/x=one,nosuch", "unexpected 'nosuch'"),
        ("a.com/x=one,b.com/y=1", "unexpected"),
    ],
)
def test_words_that_mean_nothing(text: str, told: str) -> None:
    with pytest.raises(DockerfileError, match=told):
        parse(f"FROM base\nRUN --device={text} true\n".encode())


@pytest.mark.parametrize(
    ("wanted", "allow", "expected"),
    [
        ("a.com/x=two", ["device"], ["a.com/x=two"]),
        ("a.com/x", ["device=a.com/x=one"], ["a.com/x=one"]),
        ("a.com/x=*", ["device=a.com/x=*"], ["a.com/x=one", "a.com/x=two"]),
        ("fast", ["device=fast"], ["a.com/x=one", "b.com/y=free"]),
        ("b.com/y=free", [], ["b.com/y=free"]),
        ("gpu", ["device=a.com/x=two,alias=gpu"], ["a.com/x=two"]),
        ("a.com/x=nosuch", [], []),
    ],
)
def test_what_a_step_gets(place: Workplace, wanted: str, allow: list[str], expected: list[str]) -> None:
    run = place.build(f"FROM base\nRUN --device={wanted} write a b\n", allow=frozenset(allow))
    assert list(place.workshop.steps[0].devices) == expected
    assert ("device a.com/x=nosuch is not there" in run.text) is (not expected)


@pytest.mark.parametrize(
    ("wanted", "allow", "kind", "told"),
    [
        ("a.com/x=nosuch,required", ["device"], NotFound, 'required device "a.com/x=nosuch" is not registered'),
        ("a.com/x=one", [], Forbidden, "device a.com/x=one is requested by the build but not allowed"),
        ("a.com/x=*", ["device=b.com/y=free"], Forbidden, "devices a.com/x=one, a.com/x=two are requested"),
        ("a.com/x=*", ["device=a.com/x=one", "network.host"], Forbidden, "device a.com/x=two is requested"),
        ("fast", [], Forbidden, "device a.com/x=one is requested"),
    ],
)
def test_what_it_does_not_get(
    place: Workplace, wanted: str, allow: list[str], kind: type[CortenError], told: str
) -> None:
    with pytest.raises(kind, match=told.replace("*", r"\*")):
        place.build(f"FROM base\nRUN --device={wanted} write a b\n", allow=frozenset(allow))
    assert not place.workshop.ran


def test_the_cache_tells_devices_apart(place: Workplace) -> None:
    allow = frozenset({"device"})
    text = "FROM base\nRUN --device=a.com/x write a b\n"
    place.build(text, allow=allow)
    assert place.build(text, allow=allow).cached == 1
    place.workshop.found = Found(dict([device("a.com/x=two")]))
    assert place.build(text, allow=allow).cached == 0
    place.build("FROM base\nRUN write c d\n")
    assert place.build("FROM base\nRUN write c d\n").cached == 1


def test_grants() -> None:
    grants = read_grants(["network.host", "device=a.com/x=one", "device=a.com/x=two,alias=gpu"])
    assert (grants.everything, grants.names, grants.aliases) == (False, {"a.com/x=one"}, {"gpu": "a.com/x=two"})
    assert read_grants(["device"]).everything
    for bad in ("device=a,nosuch=1", "device=a,alias"):
        with pytest.raises(InvalidParameter, match="invalid device config"):
            read_grants([bad])
