"""What every storage of ``corten registry serve`` must do: on a disk, in an object store, in one that speaks S3."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_server_place import served, sha256

from corten.registry.server.disk import DiskStorage
from corten.registry.server.objects import ObjectStorage, open_store
from corten.registry.server.settings import StoreSettings
from corten.registry.server.storage import Missing, Storage, StorageFailure

CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """URL of a server that speaks S3, with the bucket "images"."""
    server_of = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="images")
    yield url
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def in_memory() -> Storage:
    store = pytest.importorskip("obstore.store")
    return ObjectStorage(store.MemoryStore())


@pytest.fixture(params=["disk", "memory", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Storage]:
    if request.param == "disk":
        return lambda: DiskStorage(tmp_path / "root")
    if request.param == "memory":
        return in_memory
    url = request.getfixturevalue("s3")
    return lambda: ObjectStorage(open_store(StoreSettings(bucket="images", prefix=tmp_path.name, endpoint=url)))


def with_storage(make: Callable[[], Storage], work: Callable[[Storage], Any]) -> None:
    async def run() -> None:
        storage = make()
        try:
            await work(storage)
        finally:
            await storage.close()

    asyncio.run(run())


async def all_of(storage: Storage, key: str, start: int, length: int) -> bytes:
    return b"".join([chunk async for chunk in storage.chunks(key, start, length)])


def test_write_read_replace(make: Callable[[], Storage]) -> None:
    async def work(storage: Storage) -> None:
        await storage.write("a/b/link", b"one")
        assert await storage.read("a/b/link") == b"one"
        first = storage.stamp("a/b/link")
        await storage.write("a/b/link", b"two")
        assert await storage.read("a/b/link") == b"two"
        assert storage.stamp("a/b/link") != first or first is None
        stat = await storage.stat("a/b/link")
        assert stat.size == 3
        assert abs(stat.modified_s - time.time()) < 60

    with_storage(make, work)


def test_what_is_missing(make: Callable[[], Storage]) -> None:
    async def work(storage: Storage) -> None:
        await storage.write("a/b/link", b"one")
        for key in ("a/c/link", "a/b/link/x", "x"):
            for question in (storage.read, storage.stat, storage.touch, storage.touched):
                with pytest.raises(Missing):
                    await question(key)
            await storage.delete(key)
        with pytest.raises(Missing):
            await all_of(storage, "x", 0, 1)
        assert await storage.names("x") == []
        assert await storage.read("a/b/link") == b"one"

    with_storage(make, work)


def test_adopting_and_reading_parts(make: Callable[[], Storage], tmp_path: Path) -> None:
    async def work(storage: Storage) -> None:
        (tmp_path / "spooled").write_bytes(CONTENT)
        await storage.adopt(tmp_path / "spooled", "blobs/data")
        assert not (tmp_path / "spooled").exists()
        assert (await storage.stat("blobs/data")).size == len(CONTENT)
        assert await all_of(storage, "blobs/data", 0, len(CONTENT)) == CONTENT
        assert await all_of(storage, "blobs/data", 1_500_000, 10) == CONTENT[1_500_000:1_500_010]
        assert await all_of(storage, "blobs/data", len(CONTENT) - 1, 1) == CONTENT[-1:]
        file = await storage.open("blobs/data")
        if file is not None:
            with file:
                assert file.read() == CONTENT

    with_storage(make, work)


def test_names(make: Callable[[], Storage]) -> None:
    async def work(storage: Storage) -> None:
        for key in ("top/b/x", "top/a/x", "top/c", "top/ab/deeper/x", "topper/z"):
            await storage.write(key, b"")
        assert await storage.names("top") == ["a", "ab", "b", "c"]
        assert await storage.names("top", "a") == ["ab", "b", "c"]
        assert await storage.names("top", "aa", 2) == ["ab", "b"]
        assert await storage.names("top/ab") == ["deeper"]
        await storage.delete("top/ab/deeper/x")
        await storage.delete("top/c")
        assert await storage.names("top") == ["a", "b"]

    with_storage(make, work)


def test_touching(make: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def work(storage: Storage) -> None:
        await storage.write("key", b"x")
        written = await storage.touched("key")
        now = time.time() + 100
        monkeypatch.setattr(time, "time", lambda: now)
        if isinstance(storage, DiskStorage):
            os.utime(tmp_path / "root/key", (written - 100, written - 100))
            written -= 100
        else:
            await asyncio.sleep(1.1)  # the times of objects are whole seconds
        await storage.touch("key")
        assert await storage.touched("key") > written
        await storage.touch("key")
        await storage.delete("key")
        with pytest.raises(Missing):
            await storage.touched("key")

    with_storage(make, work)


def test_writers_and_deleters_at_once(make: Callable[[], Storage]) -> None:
    async def work(storage: Storage) -> None:
        async def write(number: int) -> None:
            for _ in range(5):
                await storage.write(f"d/e/{number % 2}/link", b"x")

        async def delete(number: int) -> None:
            for _ in range(5):
                await storage.delete(f"d/e/{number % 2}/link")
                await asyncio.sleep(0)

        await asyncio.gather(*(write(number) for number in range(4)), *(delete(number) for number in range(4)))
        await storage.write("d/e/0/link", b"last")
        assert await storage.read("d/e/0/link") == b"last"

    with_storage(make, work)


# -- the registry over an object store --------------------------------------------------------------------------------


def test_a_registry_in_a_bucket(s3: str, tmp_path: Path) -> None:
    store = StoreSettings(bucket="images", prefix="a/registry", endpoint=s3)
    layer = CONTENT[:1_000_000]
    with served(tmp_path / "one", store=store) as place:
        client = place.client()
        digest = client.push_manifest("some/app", "1", layers=(layer,))
        assert client("GET", "/v2/some/app/manifests/1").headers["docker-content-digest"] == digest
        part = client("GET", f"/v2/some/app/blobs/{sha256(layer)}", Range="bytes=10-19")
        assert (part.status, part.body) == (206, layer[10:20])
        assert client("HEAD", f"/v2/some/app/blobs/{sha256(layer)}").headers["content-length"] == str(len(layer))
        client.push_blob("some/app", b"unneeded")
        client.close()
    with served(tmp_path / "two", store=store) as place:  # another machine
        client = place.client()
        assert client("GET", f"/v2/some/app/blobs/{sha256(layer)}").body == layer
        assert client("GET", "/v2/_catalog").document["repositories"] == ["some/app"]
        assert client("GET", "/v2/some/app/tags/list").document["tags"] == ["1"]
        assert place.collect(grace_s=-10).blobs == [sha256(b"unneeded")]
        assert client("POST", f"/v2/b/blobs/uploads/?mount={sha256(layer)}&from=some/app", b"").status == 201
        assert client("DELETE", f"/v2/some/app/manifests/{digest}").status == 202
        assert client("GET", "/v2/some/app/manifests/1").status == 404
        client.close()
    assert not list((tmp_path / "two").rglob("docker"))


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    obstore = pytest.importorskip("obstore.store")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    store = obstore.S3Store(
        "images", endpoint=f"http://127.0.0.1:{port}", region="x", access_key_id="x", secret_access_key="x",
        client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip

    async def ask() -> None:
        with pytest.raises(StorageFailure, match="the object store"):
            await ObjectStorage(store).read("key")

    asyncio.run(ask())
