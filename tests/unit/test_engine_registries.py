"""Registries behind the engine: work that several follow is done once, and ends with the last of them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import sha
from registry_place import Place
from tar_builder import Tar

from corten.config import Config, export_proxies, load
from corten.dockerapi.registry_auth import RegistryAuth
from corten.engine.events import Events
from corten.engine.registries import Registries, settings_of
from corten.errors import CortenError, InvalidParameter, NotFound, Unauthorized
from corten.registry.proxies import proxy_for

BASE = Tar().file("noise", bytes((i * i * 31) % 251 for i in range(400_000))).bytes()
NOBODY = RegistryAuth()


def pack(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


@pytest.fixture
def registry():
    made = FakeRegistry()
    made.put_image("app", [BASE], "1", pack=pack)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.close()


class Engine:
    def __init__(self, place: Place) -> None:
        self.events = Events()
        root = place.data_root
        self.registries = Registries(Config(data_root=root, exec_root=root, hosts=()), place.store, self.events)

    async def collect(self, stream) -> list[dict]:
        return [document async for document in stream]


def waiting_layer(registry: FakeRegistry) -> tuple[threading.Event, threading.Event]:
    """(the layer was asked for, it may go on)"""
    asked, go = threading.Event(), threading.Event()

    def act(exchange):
        asked.set()
        go.wait(20)
        exchange.registry.answer(exchange)

    registry.on(f"GET .*/blobs/{sha(pack(BASE))}", act)
    return asked, go


def test_a_pull_by_several_clients_is_done_once(place, registry):
    asked, go = waiting_layer(registry)
    name = f"{registry.netloc}/app"

    async def main():
        engine = Engine(place)
        first = asyncio.create_task(engine.collect(engine.registries.pull(name, "1", "", NOBODY)))
        await asyncio.to_thread(asked.wait, 10)
        streams = [engine.registries.pull(f"{name}:1", "", "", NOBODY) for _ in range(3)]
        # who comes later is told where everything stands
        assert [await anext(stream) for stream in streams] == [{"status": "Pulling from app", "id": "1"}] * 3
        go.set()
        results = await asyncio.gather(first, *map(engine.collect, streams))
        assert not engine.registries._transfers._running
        return results

    results = asyncio.run(main())
    assert len(registry.asked("blobs/")) == 2
    last = {"status": f"Status: Downloaded newer image for {name}:1"}
    assert all(documents[-1] == last for documents in results)


def test_one_leaves_and_the_other_gets_the_image(place, registry):
    asked, go = waiting_layer(registry)
    name = f"{registry.netloc}/app"

    async def main():
        engine = Engine(place)
        first = asyncio.create_task(engine.collect(engine.registries.pull(name, "1", "", NOBODY)))
        await asyncio.to_thread(asked.wait, 10)
        second = engine.registries.pull(name, "1", "", NOBODY)
        await anext(second)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        go.set()
        return await engine.collect(second)

    assert asyncio.run(main())[-1]["status"].startswith("Status: Downloaded")


def test_when_all_have_left_nothing_goes_on(place, registry):
    asked, go = waiting_layer(registry)

    async def main():
        engine = Engine(place)
        task = asyncio.create_task(engine.collect(engine.registries.pull(f"{registry.netloc}/app", "1", "", NOBODY)))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not engine.registries._transfers._running
        go.set()

    asyncio.run(main())
    assert place.is_untouched()


def test_other_credentials_are_other_work(place, registry):
    registry.basic, registry.passwords = True, {"me": "x"}
    asked, go = waiting_layer(registry)
    name = f"{registry.netloc}/app"

    async def main():
        engine = Engine(place)
        good = asyncio.create_task(
            engine.collect(engine.registries.pull(name, "1", "", RegistryAuth(username="me", password="x")))
        )
        await asyncio.to_thread(asked.wait, 10)
        with pytest.raises(NotFound, match="pull access denied"):
            await engine.collect(engine.registries.pull(name, "1", "", NOBODY))
        go.set()
        return await good

    assert asyncio.run(main())[-1]["status"].startswith("Status: Downloaded")


def test_the_daemon_s_end_ends_pulls(place, registry):
    asked, go = waiting_layer(registry)

    async def main():
        engine = Engine(place)
        task = asyncio.create_task(engine.collect(engine.registries.pull(f"{registry.netloc}/app", "1", "", NOBODY)))
        await asyncio.to_thread(asked.wait, 10)
        await engine.registries.close()
        with pytest.raises(CortenError, match="cancelled"):
            await task
        go.set()

    asyncio.run(main())
    assert place.is_untouched()


def test_all_tags_events_and_push(place, registry):
    registry.put_image("app", [BASE], "2", pack=pack)
    name = f"{registry.netloc}/app"

    async def main():
        engine = Engine(place)
        seen = []
        engine.events.publish = lambda kind, action, actor, attributes, **_: seen.append((action, actor, attributes))
        await engine.collect(engine.registries.pull(name, "", "", NOBODY))
        pushed = await engine.collect(engine.registries.push(name, "2", NOBODY))
        assert pushed[-1]["aux"]["Tag"] == "2"
        return seen

    assert asyncio.run(main()) == [
        ("pull", f"{name}:1", {"name": name}),
        ("pull", f"{name}:2", {"name": name}),
        ("push", f"{name}:2", {"name": name}),
    ]


def test_questions(place, registry):
    registry.basic, registry.passwords = True, {"me": "x"}
    me = RegistryAuth(username="me", password="x", server=registry.netloc)

    async def main():
        engine = Engine(place)
        answer = await engine.registries.login(me)
        assert answer == {"Status": "Login Succeeded", "IdentityToken": ""}
        with pytest.raises(Unauthorized, match="401 Unauthorized"):
            await engine.registries.login(RegistryAuth(username="me", password="no", server=registry.netloc))
        with pytest.raises(InvalidParameter, match="invalid registry address"):
            await engine.registries.login(RegistryAuth(username="me", server="no host"))
        found = await engine.registries.distribution(f"{registry.netloc}/app:1", me)
        body = registry.manifests[("app", "1")][0]
        assert found["Descriptor"]["digest"] == sha(body)
        assert found["Descriptor"]["size"] == len(body)
        assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
        with pytest.raises(NotFound, match="manifest unknown"):
            await engine.registries.distribution(f"{registry.netloc}/app:9", me)

    asyncio.run(main())


def test_search(place, registry):
    rows = (
        b'{"results": [{"name": "a", "description": "A", "star_count": 5, "is_official": true},'
        b' {"name": "b", "star_count": 1}]}'
    )
    registry.on("GET /v1/search", lambda exchange: exchange.answer(200, rows, content_type="application/json"))

    async def main():
        ask = Engine(place).registries.search
        found = await ask(f"{registry.netloc}/word", 3, {}, NOBODY)
        assert [row["name"] for row in found] == ["a", "b"]
        assert registry.requests[-1].query == {"q": ["word"], "n": ["3"]}
        assert [row["name"] for row in await ask(f"{registry.netloc}/x", 0, {"stars": ["2"]}, NOBODY)] == ["a"]
        assert [row["name"] for row in await ask(f"{registry.netloc}/x", 0, {"is-official": ["false"]}, NOBODY)] == [
            "b"
        ]
        for bad in ({"stars": ["x"]}, {"nothing": ["1"]}):
            with pytest.raises(InvalidParameter):
                await ask("x", 0, bad, NOBODY)
        with pytest.raises(InvalidParameter, match="outside the range"):
            await ask("x", 101, {}, NOBODY)
        registry.rules.clear()
        registry.on("GET /v1/search", lambda exchange: exchange.answer(200, b"<html>"))
        with pytest.raises(CortenError, match="cannot be searched"):
            await ask(f"{registry.netloc}/x", 0, {}, NOBODY)

    asyncio.run(main())


# -- configuration ----------------------------------------------------------------------------------------------------


def test_configuration(tmp_path: Path):
    file = tmp_path / "daemon.json"
    file.write_text(
        '{"registry-mirrors": ["https://m.example/"], "insecure-registries": ["r.io:5000", "10.0.0.0/8"],'
        ' "max-concurrent-downloads": 7, "max-concurrent-uploads": 2, "max-download-attempts": 1}'
    )
    settings = settings_of(load(["--config-file", str(file)]))
    assert settings.mirrors == ("https://m.example",)
    assert settings.insecure == ("r.io:5000", "10.0.0.0/8")
    assert (settings.downloads, settings.uploads, settings.attempts) == (7, 2, 1)
    flags = ["--registry-mirror", "http://a", "--registry-mirror", "http://b", "--max-concurrent-downloads", "4"]
    assert settings_of(load(flags)).mirrors == ("http://a", "http://b")


@pytest.mark.parametrize(
    "flags",
    [
        ["--registry-mirror", "m.example"],
        ["--registry-mirror", "ftp://m.example"],
        ["--registry-mirror", "https://me:x@m.example"],
        ["--registry-mirror", "https://m.example/?x=1"],
        ["--insecure-registry", "http://r.io"],
        ["--insecure-registry", "r.io/x"],
        ["--max-concurrent-downloads", "0"],
        ["--max-concurrent-uploads", "-1"],
        ["--http-proxy", "ftp://p"],
        ["--https-proxy", "http://"],
    ],
)
def test_configuration_that_cannot_be_meant(flags):
    with pytest.raises(InvalidParameter):
        load(flags)


def test_proxies_of_the_configuration(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "of.the.environment:1")
            monkeypatch.delenv(spelling)
    file = tmp_path / "daemon.json"
    file.write_text('{"proxies": {"https-proxy": "http://me:secret@p.test:8080", "no-proxy": "internal.test"}}')
    export_proxies(load(["--config-file", str(file), "--http-proxy", "plain.test:3128"]))
    assert proxy_for("https://r.test/v2/") == "http://me:secret@p.test:8080"
    assert proxy_for("http://r.test/v2/") == "http://plain.test:3128"
    assert proxy_for("https://internal.test/v2/") == ""
    shown = {"HttpProxy": "plain.test:3128", "HttpsProxy": "http://xxxxx:xxxxx@p.test:8080"}
    assert Registries.proxies() == {**shown, "NoProxy": "internal.test"}
    file.write_text('{"proxies": {"ftp-proxy": "x"}}')
    with pytest.raises(InvalidParameter, match="proxies needs http-proxy, https-proxy, no-proxy"):
        load(["--config-file", str(file)])


def test_a_reload_is_for_the_next_pull(place, registry, monkeypatch):
    engine_config = Config(data_root=place.data_root, exec_root=place.data_root, hosts=())

    async def main():
        registries = Registries(engine_config, place.store, Events())
        assert registries.describe()["Mirrors"] == []
        registries.reload(load(["--registry-mirror", "https://m.example", "--insecure-registry", "r.io"]))
        described = registries.describe()
        assert described["Mirrors"] == ["https://m.example/"]
        assert described["IndexConfigs"]["r.io"]["Secure"] is False
        assert "127.0.0.0/8" in described["InsecureRegistryCIDRs"]

    asyncio.run(main())
