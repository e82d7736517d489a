"""Classes of cache and memory bandwidth: made, taken, compared and given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import InvalidParameter, SystemFailure
from corten.runtime import resctrl
from resctrl_double import MOST_CLASSES, FakeResctrl


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeResctrl:
    return FakeResctrl(tmp_path / "resctrl", monkeypatch)


def test_nothing_is_touched_unless_it_is_asked_for(fake: FakeResctrl) -> None:
    assert resctrl.make(None, "c1") is None
    assert fake.classes == set()


def test_a_machine_without_resctrl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resctrl, "mount_point", lambda: "")
    with pytest.raises(InvalidParameter, match=r"linux.intelRdt: this machine has no resctrl file system mounted"):
        resctrl.make({}, "c1")


def test_a_class_of_the_containers_own_goes_with_it(fake: FakeResctrl) -> None:
    group = resctrl.make({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"}, "c1")
    assert group is not None
    assert (group.is_ours, fake.classes) == (True, {"c1"})
    group.join(4711)
    assert (fake.root / "c1" / "tasks").read_text() == "4711\n"
    group.remove()
    assert fake.classes == set()
    group.remove()  # also when somebody was faster


def test_shares_are_written_in_order(fake: FakeResctrl, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []
    monkeypatch.setattr(resctrl, "_write", lambda root, path, line: written.append((path, line)))
    rdt = {"schemata": ["L2:0=f", "L3:0=3"], "memBwSchema": "MB:0=20", "l3CacheSchema": "L3CODE:0=1\nL3DATA:0=2"}
    resctrl.make(rdt, "c1")
    assert [line for _, line in written] == ["L3CODE:0=1", "L3DATA:0=2", "MB:0=20", "L2:0=f", "L3:0=3"]
    assert {path for path, _ in written} == {f"{fake.root}/c1/schemata"}


def test_without_shares_schemata_is_not_written(fake: FakeResctrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resctrl, "_write", lambda *_: pytest.fail("schemata was written"))
    resctrl.make({}, "c1")
    assert fake.classes == {"c1"}


def test_a_named_class_must_be_there_or_say_its_shares(fake: FakeResctrl) -> None:
    with pytest.raises(InvalidParameter, match=r"linux.intelRdt.closID: there is no class gold"):
        resctrl.make({"closID": "gold"}, "c1")
    assert fake.classes == set()
    first = resctrl.make({"closID": "gold", "l3CacheSchema": "L3:0=f"}, "c1")
    again = resctrl.make({"closID": "gold"}, "c2")
    assert first is not None
    assert again is not None
    first.remove()
    again.remove()
    assert fake.classes == {"gold"}, "a named class is for others, too"


@pytest.mark.parametrize(
    ("rdt", "is_same"),
    [
        ({"l3CacheSchema": "L3:0=7ff;1=7ff"}, True),
        ({"l3CacheSchema": "L3:1=7FF;0=07ff", "memBwSchema": "MB:1=70"}, True),
        ({"l3CacheSchema": "L3:0=7f0;1=7ff"}, False),
        ({"l3CacheSchema": "L3:2=7ff"}, False),
        ({"memBwSchema": "MB:0=100;1=60"}, False),
    ],
)
def test_a_named_class_that_is_there_must_have_the_shares(
    fake: FakeResctrl, rdt: dict[str, str], is_same: bool
) -> None:
    fake.make(fake.root / "gold")
    if is_same:
        resctrl.make({"closID": "gold", **rdt}, "c1")
    else:
        with pytest.raises(InvalidParameter, match="is not what class gold has"):
            resctrl.make({"closID": "gold", **rdt}, "c1")
    assert fake.classes == {"gold"}


def test_the_machines_own_class(fake: FakeResctrl) -> None:
    group = resctrl.make({"closID": "/", "enableMonitoring": True}, "c1")
    assert group is not None
    group.join(5)
    assert (fake.root / "tasks").read_text() == (fake.root / "mon_groups" / "c1" / "tasks").read_text() == "5\n"
    group.remove()
    assert not (fake.root / "mon_groups" / "c1").exists()
    assert (fake.root / "tasks").exists()


@pytest.mark.parametrize("field", ["enableMonitoring", "enableCMT", "enableMBM"])
def test_measuring_is_in_a_group_of_its_own(fake: FakeResctrl, field: str) -> None:
    fake.make(fake.root / "gold")
    group = resctrl.make({"closID": "gold", field: True}, "c1")
    assert group is not None
    assert group.monitor == f"{fake.root}/gold/mon_groups/c1"
    assert Path(group.monitor).is_dir()
    group.remove()
    assert not Path(group.monitor).exists()
    assert fake.classes == {"gold"}


def test_the_kernels_reason_is_told_and_nothing_is_left(fake: FakeResctrl, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in range(MOST_CLASSES):
        fake.make(fake.root / str(name))
    with pytest.raises(SystemFailure, match=r"resctrl: cannot make .*/c1: out of CLOSIDs"):
        resctrl.make({}, "c1")
    fake.remove(fake.root / "0")
    (fake.root / "info" / "last_cmd_status").write_text("ok\n")

    def refuse(*_: object) -> int:
        (fake.root / "info" / "last_cmd_status").write_text("mask f0f has non-consecutive 1-bits\n")
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.write", refuse)
    with pytest.raises(SystemFailure, match=r"cannot write 'L3:0=f0f' to .*: mask f0f has non-consecutive 1-bits"):
        resctrl.make({"l3CacheSchema": "L3:0=f0f"}, "c1")
    assert "c1" not in fake.classes


def test_an_id_that_is_no_class(fake: FakeResctrl) -> None:
    with pytest.raises(InvalidParameter, match="'info' cannot be the name of a class"):
        resctrl.make({}, "info")
