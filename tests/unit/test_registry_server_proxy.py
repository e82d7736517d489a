"""``corten registry serve --proxy``: content of another registry, kept."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from registry_server_place import Client, Place, served, sha256

from corten.errors import InvalidParameter
from corten.oci import descriptor as media
from corten.registry.server import layout
from corten.registry.server.settings import ProxySettings
from corten.registry.server.upstream import Upstream

LAYER = os.urandom(3_000_000)


@dataclass
class Pair:
    """A registry and a cache of it."""

    origin: Place
    log: Path
    cache: Place

    def asked(self, what: str) -> int:
        """How often the origin was asked for something."""
        self.origin.run(flush(self.origin))
        return sum(what in line for line in self.log.read_text().splitlines())


async def flush(place: Place) -> None:
    place.service._log.flush()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    log = tmp_path / "origin.log"
    with served(tmp_path / "origin", access_log=str(log)) as origin:
        proxy = ProxySettings(url=f"http://127.0.0.1:{origin.port}")
        with served(tmp_path / "cache", proxy=proxy) as cache:
            yield Pair(origin, log, cache)


@pytest.fixture
def writer(pair: Pair) -> Iterator[Client]:
    client = pair.origin.client()
    yield client
    client.close()


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    client = pair.cache.client()
    yield client
    client.close()


def test_everything_is_fetched_once(pair: Pair, writer: Client, client: Client) -> None:
    digest = writer.push_manifest("some/app", "1", layers=(LAYER,))
    for _ in range(3):
        answer = client("GET", "/v2/some/app/manifests/1")
        assert (answer.status, answer.headers["docker-content-digest"]) == (200, digest)
        assert answer.headers["content-type"] == media.OCI_MANIFEST
        assert client("HEAD", f"/v2/some/app/blobs/{sha256(LAYER)}").headers["content-length"] == str(len(LAYER))
        assert client("GET", f"/v2/some/app/blobs/{sha256(LAYER)}").body == LAYER
        assert client("GET", f"/v2/some/app/manifests/{digest}").status == 200
    assert pair.asked(f"GET /v2/some/app/blobs/{sha256(LAYER)}") == 1
    assert pair.asked("GET /v2/some/app/manifests/") == 1
    counter = Client(pair.cache.metrics_port)
    values = counter("GET", "/metrics").body.decode()
    counter.close()
    assert "corten_registry_proxy_misses_total 2\n" in values
    assert "corten_registry_proxy_failures_total 0\n" in values


def test_a_tag_is_never_old(writer: Client, client: Client) -> None:
    for note in "abc":
        digest = writer.push_manifest("a", "latest", annotations={"note": note})
        for _ in range(2):
            assert client("GET", "/v2/a/manifests/latest").headers["docker-content-digest"] == digest
    writer("DELETE", "/v2/a/manifests/latest")
    assert client("GET", "/v2/a/manifests/latest").code == "MANIFEST_UNKNOWN"


def test_without_the_origin_what_is_here_is_served(tmp_path: Path) -> None:
    with served(tmp_path / "origin") as origin:
        writer = origin.client()
        digest = writer.push_manifest("a", "1", layers=(LAYER,))
        writer.push_manifest("a", "2", layers=(b"other",))
        writer.close()
        proxy = ProxySettings(url=f"http://127.0.0.1:{origin.port}")
        with served(tmp_path / "cache", proxy=proxy) as cache:
            client = cache.client()
            assert client("GET", "/v2/a/manifests/1").status == 200
            assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER
            client.close()
    with served(tmp_path / "cache", proxy=proxy) as cache:
        client = cache.client()
        assert client("GET", "/v2/a/manifests/1").headers["docker-content-digest"] == digest
        assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER
        assert client("GET", "/v2/a/tags/list").document["tags"] == ["1"]
        answer = client("GET", "/v2/a/manifests/2")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert client("GET", f"/v2/a/blobs/{sha256(b'other')}").status == 502
        client.close()


def test_many_clients_of_a_cold_blob(pair: Pair, writer: Client) -> None:
    digest = writer.push_blob("a", LAYER)
    bodies: list[bytes] = []

    def get(first: int) -> None:
        mine = pair.cache.client()
        bodies.append(mine("GET", f"/v2/a/blobs/{digest}", Range=f"bytes={first}-").body)
        mine.close()

    threads = [threading.Thread(target=get, args=(first * 1000,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(len, bodies)) == sorted(len(LAYER) - first * 1000 for first in range(8))
    assert all(LAYER.endswith(body) for body in bodies)
    assert pair.asked(f"GET /v2/a/blobs/{digest}") == 1
    assert not list((pair.cache.root / "fetching").iterdir())


def test_nobody_gets_the_whole_of_something_wrong(pair: Pair, writer: Client, client: Client) -> None:
    digest = writer.push_blob("a", LAYER)
    (pair.origin.root / layout.blob(digest)).write_bytes(LAYER[:-1] + bytes([LAYER[-1] ^ 1]))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client("GET", f"/v2/a/blobs/{digest}")
    client.close()
    assert not list(pair.cache.root.rglob("blobs/*/*/*/data"))
    (pair.origin.root / layout.blob(digest)).write_bytes(LAYER)
    assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER


def test_what_the_origin_does_not_have(writer: Client, client: Client) -> None:
    writer.push_manifest("a", "1")
    assert client("GET", f"/v2/a/blobs/{sha256(b'absent')}").code == "BLOB_UNKNOWN"
    assert client("GET", "/v2/a/manifests/2").code == "MANIFEST_UNKNOWN"
    assert client("GET", "/v2/nobody/manifests/2").status == 404
    assert client("GET", "/v2/a/tags/list").document["tags"] == ["1"]


def test_a_blob_of_one_repository_is_not_one_of_another(writer: Client, client: Client) -> None:
    digest = writer.push_blob("a", LAYER)
    assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER
    assert client("GET", f"/v2/b/blobs/{digest}").status == 404
    writer.push_blob("b", LAYER)
    assert client("GET", f"/v2/b/blobs/{digest}").body == LAYER


def test_nothing_is_pushed_to_a_cache(client: Client) -> None:
    for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/1"), ("DELETE", "manifests/1")):
        answer = client(method, f"/v2/a/{path}", b"")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")


def test_referrers_of_the_origin(writer: Client, client: Client) -> None:
    subject = writer.push_manifest("a", "1")
    described = {"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 1}
    referring = writer.push_manifest("a", subject=described, artifactType="text/note")
    (item,) = client("GET", f"/v2/a/referrers/{subject}").document["manifests"]
    assert item["digest"] == referring
    assert client("GET", f"/v2/a/referrers/{subject}?artifactType=x").document["manifests"] == []


def test_credentials_for_the_origin(tmp_path: Path) -> None:
    bcrypt = pytest.importorskip("bcrypt")
    (tmp_path / "users").write_text(f"cache:{bcrypt.hashpw(b's3cret', bcrypt.gensalt(4)).decode()}\n")
    secret = "Basic " + base64.b64encode(b"cache:s3cret").decode()
    with served(tmp_path / "origin", htpasswd=tmp_path / "users") as origin:
        writer = origin.client(Authorization=secret)
        writer.push_manifest("a", "1", layers=(LAYER,))
        writer.close()
        url = f"http://127.0.0.1:{origin.port}"
        good = ProxySettings(url=url, username="cache", password="s3cret")
        with served(tmp_path / "cache", proxy=good) as cache:
            client = cache.client()
            assert client("GET", "/v2/a/manifests/1").status == 200
            assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER
            client.close()
        for number, bad in enumerate((ProxySettings(url=url), ProxySettings(url=url, username="cache", password="x"))):
            with served(tmp_path / f"cache{number}", proxy=bad) as cache:
                client = cache.client()
                answer = client("GET", "/v2/a/manifests/1")
                assert (answer.status, answer.code) == (403, "DENIED")
                client.close()


def test_an_origin_that_cuts_is_asked_for_the_rest(tmp_path: Path) -> None:
    with contextlib.closing(FakeRegistry()) as fake:
        digest = fake.put_blob("a", LAYER)
        fake.on(r"GET /v2/a/blobs/", lambda exchange: exchange.cut(200, len(LAYER), LAYER[:1_000_000]), times=1)
        with served(tmp_path / "cache", proxy=ProxySettings(url=f"http://{fake.netloc}")) as cache:
            client = cache.client()
            assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER
            client.close()
        assert [seen.headers.get("range") for seen in fake.asked("GET /v2/a/blobs/")] == [None, "bytes=1000000-"]


def test_what_nobody_asks_for_is_collected(pair: Pair, writer: Client, client: Client) -> None:
    writer.push_manifest("a", "1", layers=(LAYER,))
    writer.push_manifest("a", "2", layers=(b"other",))
    for tag, content in (("1", LAYER), ("2", b"other")):
        client("GET", f"/v2/a/manifests/{tag}")
        client("GET", f"/v2/a/blobs/{sha256(content)}")
    old = pair.cache.root / layout.blob(client("HEAD", "/v2/a/manifests/1").headers["docker-content-digest"])
    for path in (old, pair.cache.root / layout.blob(sha256(LAYER))):
        os.utime(path, (0, 0))
    found = pair.cache.collect()
    assert len(found.manifests) == 1
    assert found.blobs.count(sha256(LAYER)) == 1
    assert client("GET", "/v2/a/tags/list").document["tags"] == ["1", "2"]
    assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER


@pytest.mark.parametrize("url", ["https://", "https://host/path", "https://user:secret@host", "https://host:x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid URL"):
        Upstream(ProxySettings(url=url))
