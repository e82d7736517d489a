"""The history of builds as BuildKit's clients read and change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.api.buildkit.records import Records
from corten.build.history import COMPLETED, History, Record
from corten.buildkit.proto import control_pb2 as pb
from corten.errors import InvalidParameter


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path / "history.db")
    made.put(Record(id="one", started=1, completed=2, status=COMPLETED))
    made.put(Record(id="both", started=3, completed=4, status=COMPLETED, platform="linux/amd64"))
    made.put(Record(id="part", started=3, completed=4, status=COMPLETED, part_of="both", platform="linux/arm64"))
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
        ("part", False),
        ("one", False),
    ]


def test_a_record_goes_with_its_parts(history: History) -> None:
    Records(history).update(pb.UpdateBuildHistoryRequest(ref="both", delete=True))
    assert [record.id for record in history.all()] == ["one"]
