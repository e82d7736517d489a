"""Garbage collection of ``corten registry serve``, while others push."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registry_server_place import EMPTY, Client, Place, manifest, served, sha256

from corten.oci import descriptor as media
from corten.oci.digest import Digest
from corten.registry.server import layout
from corten.registry.server.repositories import TOUCH_AFTER_S

OLD_S = 7200.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served(tmp_path / "registry") as place:
        yield place


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    client = place.client()
    yield client
    client.close()


def layer(number: int) -> bytes:
    return f"layer {number}".encode() * 100


def age(place: Place, by_s: float = OLD_S) -> None:
    """Everything that is stored was stored so much earlier."""
    for path in place.root.rglob("docker/**/*"):
        if path.is_file():
            moment = path.stat().st_mtime - by_s
            os.utime(path, (moment, moment))


def stored(place: Place) -> set[str]:
    return {path.parent.name for path in place.root.rglob("blobs/*/*/*/data")}


def hexes(*contents: bytes) -> set[str]:
    return {sha256(content)[7:] for content in contents}


def test_what_a_manifest_needs_stays(client: Client, place: Place) -> None:
    digest = client.push_manifest("a", "1", layers=(layer(1), layer(2)))
    client.push_blob("a", layer(3))
    age(place)
    found = place.collect()
    assert found.blobs == [sha256(layer(3))]
    assert found.bytes == len(layer(3))
    assert stored(place) == hexes(EMPTY, layer(1), layer(2)) | {digest[7:]}
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").body == layer(1)
    assert client("HEAD", f"/v2/a/blobs/{sha256(layer(3))}").status == 404
    assert not list(place.root.rglob(f"_layers/sha256/{sha256(layer(3))[7:]}"))


def test_what_is_young_stays(client: Client, place: Place) -> None:
    client.push_blob("a", layer(1))
    assert place.collect().blobs == []
    assert place.collect(grace_s=0).blobs == [sha256(layer(1))]


def test_what_was_deleted_goes_with_its_blobs(client: Client, place: Place) -> None:
    one = client.push_manifest("a", "1", layers=(layer(1), layer(2)))
    two = client.push_manifest("b", "1", layers=(layer(2), layer(3)))
    client("DELETE", f"/v2/a/manifests/{one}")
    age(place)
    place.collect()
    assert stored(place) == hexes(EMPTY, layer(2), layer(3)) | {two[7:]}


def test_a_dry_run_deletes_nothing(client: Client, place: Place) -> None:
    client.push_blob("a", layer(1))
    age(place)
    found = place.run(place.content.collection(dry=True).run())
    assert found.blobs == [sha256(layer(1))]
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").status == 200


def test_untagged_manifests(client: Client, place: Place) -> None:
    child = client.push_manifest("a", layers=(layer(1),))
    push_index(client, "index", child)
    subject = {"mediaType": media.OCI_MANIFEST, "digest": child, "size": 1}
    signature = client.push_manifest("a", subject=subject)
    untagged = client.push_manifest("a", "2", layers=(layer(2),))
    client.push_manifest("a", "2", layers=(layer(3),))
    age(place)
    assert place.collect().manifests == []
    found = place.collect(delete_untagged=True)
    assert found.manifests == [f"a@{untagged}"]
    assert sha256(layer(2)) in found.blobs
    for kept in (child, signature):
        assert client("GET", f"/v2/a/manifests/{kept}").status == 200
    assert client("GET", f"/v2/a/manifests/{untagged}").status == 404
    client("DELETE", "/v2/a/manifests/index")
    age(place)
    assert set(place.collect(delete_untagged=True).manifests) >= {f"a@{child}", f"a@{signature}"}


def test_a_damaged_manifest_is_named(client: Client, place: Place) -> None:
    digest = client.push_manifest("a", "1")
    (place.root / layout.blob(digest)).write_bytes(b"{}")
    place.content.repositories._cache.clear()
    assert place.collect().damaged == [f"a@{digest}"]


def push_index(client: Client, reference: str, *digests: str) -> str:
    """An OCI index of the repository "a"; its digest."""
    entries = [{"mediaType": media.OCI_MANIFEST, "digest": digest, "size": 1} for digest in digests]
    body = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    answer = client("PUT", f"/v2/a/manifests/{reference or sha256(body)}", body, Content_Type=media.OCI_INDEX)
    assert answer.status == 201, answer
    return sha256(body)


def test_below_a_damaged_index_everything_stays(client: Client, place: Place) -> None:
    child = client.push_manifest("a", layers=(layer(1),))
    index = push_index(client, "index", child)
    client.push_blob("a", layer(2))
    client.push_blob("b", layer(3))
    (place.root / layout.blob(Digest(index))).write_bytes(b"{}")
    place.content.repositories._cache.clear()
    age(place)
    found = place.collect(delete_untagged=True)
    assert (found.damaged, found.manifests, found.blobs) == ([f"a@{index}"], [], [sha256(layer(3))])
    assert client("GET", f"/v2/a/manifests/{child}").status == 200
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").status == 200


def test_a_manifest_of_a_kind_that_is_not_understood_keeps_its_layers(client: Client, place: Place) -> None:
    client.push_blob("a", layer(1))
    old = json.dumps({"schemaVersion": 1, "fsLayers": [{"blobSum": sha256(layer(1))}]}).encode()
    digest = Digest(sha256(old))
    for key, content in ((layout.blob(digest), old), (layout.revision("a", digest), digest.encode())):
        place.run(place.content.repositories.storage.write(key, content))
    age(place)
    assert place.collect().blobs == []
    assert stored(place) == hexes(layer(1), old)


def test_a_foreign_layer_that_was_pushed_stays(client: Client, place: Place) -> None:
    client.push_blob("a", EMPTY)
    client.push_blob("a", layer(1))
    kind = media.OCI_LAYER_NONDISTRIBUTABLE
    layers = [{"mediaType": kind, "digest": sha256(layer(number)), "size": 700} for number in (1, 2)]
    body = json.dumps(json.loads(manifest()) | {"layers": layers}).encode()
    assert client("PUT", "/v2/a/manifests/1", body, Content_Type=media.OCI_MANIFEST).status == 201
    age(place)
    assert place.collect().blobs == []
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").status == 200


def test_what_is_tagged_before_the_sweep_keeps_all_that_belongs_to_it(
    client: Client, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = client.push_manifest("a", layers=(layer(1),))
    middle = push_index(client, "", child)
    top = push_index(client, "", middle)
    signature = client.push_manifest("a", subject={"mediaType": media.OCI_INDEX, "digest": top, "size": 1})
    unneeded = client.push_manifest("a", layers=(layer(2),))
    age(place)
    repositories = place.content.repositories
    collection = replace(place.content, settings=replace(place.content.settings, delete_untagged=True)).collection()
    body = client("GET", f"/v2/a/manifests/{top}").body
    is_old, tagged = collection._is_old, []

    async def tagging(key: str, before: float) -> bool:
        if not tagged:
            tagged.append(await repositories.put_manifest("a", "late", body, media.OCI_INDEX))
        return await is_old(key, before)

    monkeypatch.setattr(collection, "_is_old", tagging)
    assert place.run(collection.run()).manifests == [f"a@{unneeded}"]
    for digest in (top, middle, child, signature):
        assert client("GET", f"/v2/a/manifests/{digest}").status == 200
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").status == 200


def test_being_asked_for_keeps_a_blob(client: Client, place: Place) -> None:
    client.push_blob("a", layer(1))
    client.push_blob("a", layer(2))
    age(place)
    assert client("HEAD", f"/v2/a/blobs/{sha256(layer(1))}").status == 200
    assert client("POST", f"/v2/b/blobs/uploads/?mount={sha256(layer(2))}&from=a", b"").status == 201
    assert place.collect(grace_s=TOUCH_AFTER_S).blobs == []


def test_a_manifest_that_comes_between_mark_and_sweep_keeps_its_blobs(client: Client, place: Place) -> None:
    client.push_blob("a", EMPTY)
    client.push_blob("a", layer(1))
    age(place)
    collection = place.content.collection()

    async def run() -> Any:
        async for name in collection._repositories.walk():
            await collection._mark(name)

    place.run(run())
    answer = client("PUT", "/v2/a/manifests/1", manifest((layer(1),)), Content_Type=media.OCI_MANIFEST)
    assert answer.status == 201
    place.run(collection._sweep_blobs())
    place.run(collection._sweep_links())
    assert client("GET", f"/v2/a/blobs/{sha256(layer(1))}").status == 200
    assert client("GET", f"/v2/a/blobs/{sha256(EMPTY)}").status == 200


def test_pushing_waits_for_a_sweep_and_loses_nothing(client: Client, place: Place) -> None:
    client.push_blob("a", EMPTY)
    client.push_blob("a", layer(1))
    body = manifest((layer(1),))
    entered, leave = threading.Event(), threading.Event()

    async def sweep() -> None:
        async with place.content.lock.alone():
            entered.set()
            await asyncio.to_thread(leave.wait, 30)

    thread = threading.Thread(target=place.run, args=(sweep(),))
    thread.start()
    entered.wait(10)
    answers: list[int] = []
    push = threading.Thread(
        target=lambda: answers.append(
            place.client()("PUT", "/v2/a/manifests/1", body, Content_Type=media.OCI_MANIFEST).status
        )
    )
    push.start()
    assert client("GET", "/v2/").status == 200  # the server goes on
    assert answers == []
    leave.set()
    thread.join(10)
    push.join(10)
    assert answers == [201]


def test_collecting_under_load(place: Place) -> None:
    """Between pushes everything grows old; collections and pushes overlap, and only promises keep what pushes need."""
    stop = threading.Event()
    turns = [threading.Lock() for _ in range(3)]
    problems: list[str] = []

    def push(worker: int) -> None:
        client = place.client()
        number = 0
        while not stop.is_set():
            number += 1
            with turns[worker]:
                push_once(client, f"r{worker}", number)
        client.close()

    def push_once(client: Client, name: str, number: int) -> None:
        mine = (layer(number % 5), layer(number % 7))
        for content in (EMPTY, *mine):
            if client("HEAD", f"/v2/{name}/blobs/{sha256(content)}").status != 200:
                client.push_blob(name, content)
        body = manifest(mine, annotations={"number": str(number)})
        answer = client("PUT", f"/v2/{name}/manifests/latest", body, Content_Type=media.OCI_MANIFEST)
        if answer.status != 201:
            problems.append(f"{name}: {answer}")
        for content in mine:
            if client("GET", f"/v2/{name}/blobs/{sha256(content)}").body != content:
                problems.append(f"{name}: {content[:10]!r} is gone")
        if number % 3 == 0:
            client("DELETE", f"/v2/{name}/manifests/{sha256(body)}")

    threads = [threading.Thread(target=push, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    orphan = place.client()
    orphan.push_blob("orphans", b"orphan")
    orphan.close()
    collected: list[str] = []
    try:
        for _ in range(4):
            with contextlib.ExitStack() as stack:
                for turn in turns:
                    stack.enter_context(turn)
                age(place)
            collected += place.collect(grace_s=TOUCH_AFTER_S + 30, delete_untagged=True).blobs
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert problems == []
    assert sha256(b"orphan") in collected


def test_old_uploads_are_removed(client: Client, place: Place) -> None:
    old = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    new = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    for path in (place.root / "uploads" / old.rpartition("/")[2]).iterdir():
        os.utime(path, (time.time() - OLD_S, time.time() - OLD_S))
    assert place.collect().uploads == 1
    assert client("GET", old).status == 404
    assert client("GET", new).status == 204


def test_collecting_by_itself(tmp_path: Path) -> None:
    with served(tmp_path / "registry", gc_every_s=0.01, grace_s=60) as place:
        client = place.client()
        client.push_blob("a", layer(1))
        client.push_blob("a", layer(2))
        age(place)
        client.push_blob("a", layer(2))
        work = asyncio.run_coroutine_threadsafe(place.content.housekeeping(), place.loop)
        deadline = time.monotonic() + 30
        left = None
        while left != hexes(layer(2)):
            assert time.monotonic() < deadline
            assert not work.done()
            with contextlib.suppress(FileNotFoundError):  # a directory that goes while it is listed
                left = stored(place)
        work.cancel()
        client.close()


def test_the_command(client: Client, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from corten.cli.main import main

    client.push_blob("a", layer(1))
    age(place)
    assert main(["registry", "gc", "--root", str(place.root), "--dry-run"]) == 0
    assert f"Would delete: {sha256(layer(1))}\nWould reclaim: 700B" in capsys.readouterr().out
    assert main(["registry", "gc", "--root", str(place.root)]) == 0
    assert f"Deleted: {sha256(layer(1))}\nReclaimed: 700B (0B kept)\n" in capsys.readouterr().out
    assert main(["registry", "gc", "--root", str(place.root / "nowhere")]) == 1
    assert "there is no registry in" in capsys.readouterr().err
