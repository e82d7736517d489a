"""Events: documents, filters, readers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from corten.engine import events as room
from corten.engine.events import Events, event_document, matches
from corten.errors import InvalidParameter

ID = "ab" * 32
IMAGE_ID = "sha256:" + "cd" * 32


def container_event(action="start", name="web", image="busybox:1", **attributes):
    described = {"name": name, "image": image, **attributes}
    return event_document("container", action, ID, described, scope="local", now_ns=5_000_000_007)


def image_event(name="busybox:1"):
    return event_document("image", "tag", IMAGE_ID, {"name": name}, scope="local", now_ns=0)


def test_the_document_of_a_container():
    assert container_event() == {
        "status": "start",
        "id": ID,
        "from": "busybox:1",
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": ID, "Attributes": {"name": "web", "image": "busybox:1"}},
        "scope": "local",
        "time": 5,
        "timeNano": 5_000_000_007,
    }


def test_legacy_fields_are_for_containers_and_images_only():
    assert image_event()["status"] == "tag"
    assert "from" not in image_event()
    volume = event_document("volume", "create", "v", {"driver": "local"}, scope="local", now_ns=0)
    assert not {"status", "id", "from"} & set(volume)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"type": ["container"]}, True),
        ({"type": ["image", "container"]}, True),
        ({"type": ["contain"]}, False),
        ({"event": ["start"]}, True),
        ({"event": ["star"]}, False),
        ({"event": ["stop", "start"]}, True),
        ({"scope": ["local"]}, True),
        ({"scope": ["swarm"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["we"]}, True),
        ({"container": [ID]}, True),
        ({"container": ["abab"]}, True),
        ({"container": ["other"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:1"]}, True),
        ({"image": ["busybox:2"]}, False),
        ({"image": ["busy"]}, False),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=front", "absent"]}, False),
        ({"label": ["tier=back"]}, False),
        ({"type": ["container"], "event": ["die"]}, False),
        ({"network": ["bridge"]}, False),
        ({"container": []}, True),
    ],
)
def test_filters(filters, expected):
    assert matches(container_event(tier="front"), filters) is expected


def test_actions_with_a_command_are_found_by_their_beginning():
    event = container_event("exec_start: ls -l")
    assert matches(event, {"event": ["exec_start"]})
    assert matches(event, {"event": ["exec_start: ls -l"]})
    assert not matches(event, {"event": ["exec_create"]})
    assert matches(container_event("health_status: healthy"), {"event": ["health_status"]})
    # an exact filter stays exact
    assert not matches(container_event("execute"), {"event": ["exec"]})


def test_images_are_found_by_name_with_and_without_tag_and_by_id():
    assert matches(image_event(), {"image": ["busybox"]})
    assert matches(image_event(), {"image": [IMAGE_ID]})
    assert matches(image_event("ghcr.io/a/b:2"), {"image": ["ghcr.io/a/b"]})
    assert not matches(image_event("ghcr.io/a/b:2"), {"image": ["b"]})


async def read(subscription, count):
    return [(await anext(subscription))["Action"] for _ in range(count)]


def test_what_was_kept_comes_first_and_then_what_happens():
    async def scenario():
        events = Events()
        for number in range(300):
            events.publish("volume", f"a{number}", "v", {})
        assert len(events._kept) == room.KEPT
        subscription = events.subscribe(1, None, {})
        events.publish("volume", "new", "v", {})
        assert await read(subscription, room.KEPT + 1) == [f"a{number}" for number in range(44, 300)] + ["new"]
        assert events.listeners == 1
        await subscription.aclose()
        assert events.listeners == 0

    asyncio.run(scenario())


def test_without_since_only_what_comes_is_told():
    async def scenario():
        events = Events()
        events.publish("volume", "old", "v", {})
        subscription = events.subscribe(None, None, {"type": ["volume"]})
        events.publish("container", "start", ID, {})
        events.publish("volume", "new", "v", {})
        assert await read(subscription, 1) == ["new"]

    asyncio.run(scenario())


def test_until_in_the_past_ends_after_what_was_kept():
    async def scenario():
        events = Events()
        events.publish("volume", "one", "v", {})
        middle = time.time_ns()
        events.publish("volume", "two", "v", {})
        found = [event["Action"] async for event in events.subscribe(None, middle, {})]
        assert found == ["one"]
        found = [event["Action"] async for event in events.subscribe(middle, time.time_ns(), {})]
        assert found == ["two"]
        assert events.listeners == 0

    asyncio.run(scenario())


def test_until_in_the_future_waits_for_it():
    async def scenario():
        events = Events()
        until = time.time_ns() + 50_000_000
        subscription = events.subscribe(None, until, {})
        events.publish("volume", "in time", "v", {})
        assert [event["Action"] async for event in subscription] == ["in time"]
        assert time.time_ns() >= until

    asyncio.run(scenario())


def test_attributes_are_copied():
    async def scenario():
        events = Events()
        attributes = {"driver": "local"}
        subscription = events.subscribe(None, None, {})
        events.publish("volume", "create", "v", attributes)
        attributes["driver"] = "changed"
        assert (await anext(subscription))["Actor"]["Attributes"] == {"driver": "local"}

    asyncio.run(scenario())


def test_a_slow_reader_is_dropped_and_harms_nobody(caplog, monkeypatch):
    monkeypatch.setattr(room, "QUEUE", 3)

    async def scenario():
        events = Events()
        slow = events.subscribe(None, None, {})
        picky = events.subscribe(None, None, {"event": ["a4"]})
        fast = events.subscribe(None, None, {})
        seen = []
        for number in range(5):
            events.publish("volume", f"a{number}", "v", {})
            seen += await read(fast, 1)
        assert seen == ["a0", "a1", "a2", "a3", "a4"]
        # what it does not want does not fill its queue
        assert await read(picky, 1) == ["a4"]
        assert [event["Action"] async for event in slow] == ["a0", "a1", "a2"]
        assert events.listeners == 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert "dropped" in caplog.text


def test_a_reader_that_waits_ends_when_it_is_closed():
    async def scenario():
        events = Events()
        subscription = events.subscribe(None, None, {})
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        await subscription.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting

    asyncio.run(scenario())


def test_worker_threads_may_publish():
    async def scenario():
        events = Events()
        subscription = events.subscribe(None, None, {})
        thread = threading.Thread(target=lambda: [events.publish("volume", f"a{n}", "v", {}) for n in range(5)])
        thread.start()
        assert await asyncio.wait_for(read(subscription, 5), 5) == ["a0", "a1", "a2", "a3", "a4"]
        thread.join()

    asyncio.run(scenario())


def test_unknown_filters_are_refused():
    with pytest.raises(InvalidParameter, match="invalid filter 'colour'"):
        Events().subscribe(None, None, {"colour": ["red"]})
