"""The engine's database, also when the disk refuses."""

from __future__ import annotations

import pytest

from corten.engine.container import Container, Status
from corten.engine.store import RootLock, Store
from corten.errors import Conflict, SystemFailure
from records import record


def container(number: int) -> Container:
    return record(id=f"{number:064x}", name=f"name{number}", image_id="sha256:" + "0" * 64, created_ns=number)


def refuse(store: Store) -> None:
    """No page more than there are: every record that grows the file meets a full disk."""
    pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
    store.connection.execute(f"PRAGMA max_page_count={pages}")


def give_room(store: Store) -> None:
    store.connection.execute("PRAGMA max_page_count=1000000")


def grown(number: int) -> Container:
    made = container(number)
    made.config.labels = {"long": "x" * 100_000}
    return made


def test_what_is_saved_comes_back(tmp_path):
    store = Store(tmp_path)
    first = container(1)
    first.become(Status.RUNNING)
    store.save(first)
    store.save(container(2))
    store.remove(container(2).id)
    store.close()
    (found,) = Store(tmp_path).containers()
    assert (found.id, found.name, found.status) == (first.id, "name1", Status.RUNNING)


def test_a_full_disk_is_an_error_of_save_and_a_delay_of_record(tmp_path, caplog):
    store = Store(tmp_path)
    refuse(store)
    with pytest.raises(SystemFailure, match="database or disk is full"):
        store.save(grown(1))
    late, other = grown(2), grown(3)
    assert not store.record(late)
    assert not store.record(other)
    assert not store.is_saved(late)
    assert "disk is full" in caplog.text
    assert store.containers() == []
    give_room(store)
    late.config.user = "changed meanwhile"
    assert store.record(container(4))
    assert store.is_saved(late)
    assert {found.id: found.config.user for found in store.containers()} == {
        late.id: "changed meanwhile",
        other.id: "",
        container(4).id: "",
    }


def test_what_was_removed_meanwhile_is_not_written_later(tmp_path):
    store = Store(tmp_path)
    refuse(store)
    gone = grown(1)
    assert not store.record(gone)
    store.remove(gone.id)
    give_room(store)
    store.save(container(2))
    assert [found.id for found in store.containers()] == [container(2).id]


def test_a_database_of_the_future_is_refused(tmp_path):
    store = Store(tmp_path)
    store.connection.execute("UPDATE meta SET value='99' WHERE key='schema'")
    store.close()
    with pytest.raises(SystemFailure, match="schema version 99"):
        Store(tmp_path)


def test_one_daemon_per_data_root(tmp_path):
    lock = RootLock(tmp_path)
    with pytest.raises(Conflict, match=r"another daemon \(pid \d+\) uses the data root"):
        RootLock(tmp_path)
    lock.release()
    RootLock(tmp_path).release()
