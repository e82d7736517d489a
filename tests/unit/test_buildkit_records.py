"""The history of builds as BuildKit's clients read and change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.api.buildkit.records import Records, changes
from corten.build.history import COMPLETED, History, Record
from corten.buildkit.proto import control_pb2 as pb
from corten.errors import InvalidParameter


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path / "history.db")
    made.put(Record(id="one", started=1, completed=2, status=COMPLETED))
    made.put(Record(id="both", started=3, completed=4, status=COMPLETED, platform="linux/amd64"))
    made.put(Record(id="both-1", started=3, completed=4, status=COMPLETED, part_of="both", platform="linux/arm64"))
    yield made
    made.close()


def test_a_build_for_several_platforms_is_one_record(history: History) -> None:
    events = Records(history).events(pb.BuildHistoryRequest())
    assert [event.record.ref for event in events] == ["both", "one"]
    assert sorted(events[0].record.results) == ["linux/amd64", "linux/arm64"]
    assert len(events[1].record.result.attestations) == 1


def test_the_history_is_read_once(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """It unpacks every record: once a record would make it quadratic."""
    reads = []
    read = history.all
    monkeypatch.setattr(history, "all", lambda: reads.append(1) or read())
    Records(history).events(pb.BuildHistoryRequest())
    assert len(reads) == 1


def test_no_ref_is_no_record(history: History) -> None:
    records = Records(history)
    for request in (
        pb.UpdateBuildHistoryRequest(delete=True),
        pb.UpdateBuildHistoryRequest(pinned=True),
    ):
        with pytest.raises(InvalidParameter, match="needs a ref"):
            records.update(request)
    with pytest.raises(InvalidParameter, match="needs a ref"):
        list(records.log(""))
    assert [(record.id, record.pinned) for record in history.all()] == [
        ("both", False),
        ("both-1", False),
        ("one", False),
    ]


@pytest.mark.parametrize("ref", ["both", "bo"])
def test_a_record_goes_with_its_parts(history: History, ref: str) -> None:
    Records(history).update(pb.UpdateBuildHistoryRequest(ref=ref, delete=True))
    assert [record.id for record in history.all()] == ["one"]


def test_old_records_go_unless_they_are_pinned(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.build.history._KEPT", 2)
    Records(history).update(pb.UpdateBuildHistoryRequest(ref="one", pinned=True))
    history.put(Record(id="new", started=9, completed=10, status=COMPLETED))
    history.put(Record(id="newer", started=11, completed=12, status=COMPLETED))
    assert [record.id for record in history.all()] == ["newer", "new", "one"]


def test_changes_are_told_once(history: History) -> None:
    records, told = Records(history), []
    with records.watched(lambda: told.append(1)):
        known, messages = changes({}, records.events(pb.BuildHistoryRequest()))
        assert len(messages) == 2
        assert changes(known, records.events(pb.BuildHistoryRequest())) == (known, [])
        records.update(pb.UpdateBuildHistoryRequest(ref="one", pinned=True))
        records.update(pb.UpdateBuildHistoryRequest(ref="both", delete=True))
        history.put(Record(id="new", started=9))
        known, messages = changes(known, records.events(pb.BuildHistoryRequest()))
    history.put(Record(id="more", started=10))
    assert len(told) == 3
    events = [pb.BuildHistoryEvent.FromString(message) for message in messages]
    assert [(event.type, event.record.ref) for event in events] == [
        (pb.STARTED, "new"),
        (pb.COMPLETE, "one"),
        (pb.DELETED, "both"),
    ]
    assert set(known) == {"new", "one"}
