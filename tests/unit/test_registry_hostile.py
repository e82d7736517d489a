"""Registries that lie, cut, stall, flood and fish: never a secret in another host's log, never a part of an image."""

from __future__ import annotations

import gzip
import json
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from fake_registry import FakeRegistry
from image_archives import config, described, sha
from registry_place import ME, Place
from tar_builder import Tar, one_line

from corten.errors import CortenError, DataLoss, InvalidParameter, NotFound, SystemFailure, Unavailable
from corten.image import intake, unpackers
from corten.image.compression import Limits
from corten.image.store import ImageStore
from corten.oci import descriptor as media
from corten.registry.auth import Authorizer, Credentials, same_site
from corten.registry.challenges import Challenge
from corten.registry.failures import Cancelled, Unreachable
from corten.registry.hosts import Endpoint
from corten.registry.transport import retry_after
from corten.registry.urls import redirected
from corten.snapshot.overlay import OverlaySnapshotter

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).bytes()
BIG = Tar().file("noise", bytes(i * i % 251 for i in range(400_000)) * 8).bytes()
GZIP = media.OCI_LAYER + "+gzip"


def pack(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def zpack(content: bytes) -> bytes:
    return zstandard.compress(content)


PACKED = pack(BIG)


@pytest.fixture
def registry():
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def stranger():
    """Another host, as far as names tell."""
    made = FakeRegistry("127.0.0.2")
    yield made
    made.close()


@pytest.fixture(params=["threads", "processes"])
def place(tmp_path, monkeypatch, request):
    """Layers are unpacked in this process, or each in one of its own."""
    monkeypatch.setattr(intake, "_BESIDE_BYTES", 0 if request.param == "processes" else 1 << 40)
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def image(registry):
    """The name of an image whose layer has some megabytes."""
    registry.put_image("app", [BASE, BIG], "1", pack=pack)
    return f"{registry.netloc}/app:1"


def fails(place: Place, name: str, kind: type[CortenError] = CortenError, match: str = "", **options) -> None:
    with pytest.raises(kind, match=match or None) as caught:
        place.pull(name, **options)
    one_line(caught.value)
    assert place.is_untouched()


# -- content that is not what its digest says -------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_wrong_bytes(place, registry, image, which):
    """T31."""
    manifest = registry.manifests[("app", "1")][0]
    if which == "manifest":
        digest = sha(manifest)
        registry.on(
            "manifests/", lambda exchange: exchange.answer(200, manifest + b" ", content_type=media.OCI_MANIFEST)
        )
        fails(place, f"{registry.netloc}/app@{digest}", DataLoss, "manifest verification failed for digest")
        return
    target = sha(config(BASE, BIG)) if which == "config" else sha(PACKED)
    wrong = bytearray(registry.blobs["app"][target])
    wrong[len(wrong) // 2] ^= 1
    registry.blobs["app"][target] = bytes(wrong)
    fails(place, image)


def test_a_header_that_contradicts_the_body(place, registry, image):
    manifest = registry.manifests[("app", "1")][0]
    registry.on(
        "manifests/",
        lambda exchange: exchange.answer(
            200, manifest, content_type=media.OCI_MANIFEST, docker_content_digest=sha(b"something else")
        ),
    )
    fails(place, image, DataLoss, "manifest verification failed")


def test_a_layer_that_is_good_and_not_the_one_that_the_config_says(place, registry):
    other = Tar().file("evil", b"x").bytes()
    image = config(BASE)
    registry.put_blob("app", image)
    registry.put_blob("app", pack(other))
    document = {
        "schemaVersion": 2,
        "config": described(image, media.OCI_CONFIG),
        "layers": [described(pack(other), GZIP)],
    }
    registry.put_manifest("app", json.dumps(document).encode(), "1")
    fails(place, f"{registry.netloc}/app:1", DataLoss, "invalid diffID")


@pytest.mark.parametrize("change", [-1, 1, 1000], ids=["shorter", "longer", "much longer"])
def test_sizes_that_do_not_fit(place, registry, change):
    image = config(BASE)
    layer = {**described(pack(BASE), GZIP), "size": len(pack(BASE)) + change}
    registry.put_blob("app", image)
    registry.put_blob("app", pack(BASE))
    document = {"schemaVersion": 2, "config": described(image, media.OCI_CONFIG), "layers": [layer]}
    registry.put_manifest("app", json.dumps(document).encode(), "1")
    fails(place, f"{registry.netloc}/app:1", DataLoss, "offers")
    # without a promise of a length the bytes are counted
    body = pack(BASE)

    def chunked(exchange):
        exchange.head(200, transfer_encoding="chunked")
        exchange.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    registry.on(f"blobs/{sha(body)}", chunked)
    fails(place, f"{registry.netloc}/app:1")


@pytest.mark.parametrize(
    "digest", ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "", 3, "sha256:" + "0" * 63]
)
def test_digests_that_are_none(place, registry, digest):
    layer = {"mediaType": GZIP, "digest": digest, "size": 1}
    document = {"schemaVersion": 2, "config": described(b"{}", media.OCI_CONFIG), "layers": [layer]}
    registry.put_manifest("app", json.dumps(document).encode(), "1")
    fails(place, f"{registry.netloc}/app:1", InvalidParameter, "invalid digest format")


# -- documents that mean two things -----------------------------------------------------------------------------------


def test_a_document_that_is_manifest_and_index(place, registry):
    """T30, CVE-2021-41190."""
    document = {
        "schemaVersion": 2,
        "config": described(config(BASE), media.OCI_CONFIG),
        "layers": [],
        "manifests": [],
    }
    for kind in (media.OCI_MANIFEST, media.OCI_INDEX, "application/json"):
        registry.put_manifest("app", json.dumps(document).encode(), "1", media_type=kind)
        fails(place, f"{registry.netloc}/app:1", InvalidParameter, "both manifests and")


def test_a_content_type_that_contradicts_the_document(place, registry, image):
    manifest = registry.manifests[("app", "1")][0]
    for kind in (media.OCI_INDEX, media.DOCKER_MANIFEST):
        registry.put_manifest("app", manifest, "1", media_type=kind)
        fails(place, image, InvalidParameter, "does not match")


def test_a_child_that_is_served_as_something_else(place, registry, image):
    manifest = registry.manifests[("app", "1")][0]
    plain = json.loads(manifest)
    del plain["mediaType"]
    body = json.dumps(plain).encode()
    registry.put_manifest("app", body, media_type=media.DOCKER_MANIFEST)
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [described(body, media.OCI_MANIFEST)]}
    registry.put_manifest("app", json.dumps(index).encode(), "2")
    fails(place, f"{registry.netloc}/app:2", InvalidParameter, "its index says")
    registry.put_manifest("app", body, media_type=media.OCI_MANIFEST)
    child = {**described(body, media.OCI_MANIFEST), "size": len(body) + 5}
    index["manifests"] = [child]
    registry.put_manifest("app", json.dumps(index).encode(), "3")
    fails(place, f"{registry.netloc}/app:3", DataLoss, "instead of")


def test_old_and_broken_documents(place, registry):
    for body, kind in (
        (b'{"schemaVersion": 1, "fsLayers": []}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "application/json"),
        (b"not json", media.OCI_MANIFEST),
        (b"[" * 200_000, media.OCI_MANIFEST),
        (b'{"a":' * 100 + b"1" + b"}" * 100, media.OCI_MANIFEST),
        (b'{"schemaVersion": 2, "config": 3}', media.OCI_MANIFEST),
        (b"", media.OCI_MANIFEST),
    ):
        registry.put_manifest("app", body, "1", media_type=kind)
        fails(place, f"{registry.netloc}/app:1", InvalidParameter)


def test_mutations(place, registry, image):
    """T29: whatever is broken, the client fails cleanly and a good pull works afterwards."""
    import random

    chance = random.Random(7)
    manifest = registry.manifests[("app", "1")][0]
    for _ in range(50):
        wrong = bytearray(manifest)
        for _ in range(chance.randrange(1, 6)):
            wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        registry.put_manifest("app", bytes(wrong), "2", media_type=media.OCI_MANIFEST)
        try:
            place.pull(f"{registry.netloc}/app:2")
        except CortenError as error:
            one_line(error)
            continue
        place.store.remove(f"{registry.netloc}/app:2", force=True, prune=True, in_use=lambda _: [])
    assert place.pull(image).is_new


# -- cuts and silence -------------------------------------------------------------------------------------------------


def cut_at(registry: FakeRegistry, *places: int) -> None:
    """The layer breaks off at these offsets, one request after the other."""
    for position in places:

        def cut(exchange, position=position):
            start = int(exchange.seen.headers.get("range", "bytes=0-")[6:-1])
            if start:
                rest = f"bytes {start}-{len(PACKED) - 1}/{len(PACKED)}"
                exchange.head(206, content_length=str(len(PACKED) - start), content_range=rest)
            else:
                exchange.head(200, content_length=str(len(PACKED)))
            exchange.wfile.write(PACKED[start:position])
            exchange.close_connection = True

        registry.on(f"GET .*/blobs/{sha(PACKED)}", cut, times=1)


def test_a_cut_download_goes_on_where_it_stopped(place, registry, image):
    first, second = len(PACKED) // 3, len(PACKED) * 2 // 3
    cut_at(registry, first, second)
    assert place.pull(image).is_new
    asked = [seen.headers.get("range", "") for seen in registry.asked(f"blobs/{sha(PACKED)}")]
    assert asked == ["", f"bytes={first}-", f"bytes={second}-"]


def test_a_reset_in_the_midst(place, registry, image):
    def reset(exchange):
        exchange.head(200, content_length=str(len(PACKED)))
        exchange.wfile.write(PACKED[:100_000])
        exchange.wfile.flush()
        exchange.reset()

    registry.on(f"GET .*/blobs/{sha(PACKED)}", reset, times=2)
    assert place.pull(image).is_new


def test_a_registry_that_knows_no_ranges(place, registry, image):
    cut_at(registry, len(PACKED) // 2)
    registry.on(f"GET .*/blobs/{sha(PACKED)}", lambda exchange: exchange.answer(200, PACKED))
    assert place.pull(image).is_new


def test_resumed_bytes_that_differ(place, registry, image):
    half = len(PACKED) // 2
    cut_at(registry, half)
    other = PACKED[half:-100] + bytes(100)
    rest = f"bytes {half}-{len(PACKED) - 1}/{len(PACKED)}"
    registry.on(f"GET .*/blobs/{sha(PACKED)}", lambda exchange: exchange.answer(206, other, content_range=rest))
    fails(place, image)


@pytest.mark.parametrize("rest", ["bytes 0-10/20", "", "bytes 7-", "pages 1-2/3"])
def test_a_range_that_was_not_asked_for(place, registry, image, rest):
    half = len(PACKED) // 2
    cut_at(registry, half)
    registry.on(f"GET .*/blobs/{sha(PACKED)}", lambda exchange: exchange.answer(206, PACKED[half:], content_range=rest))
    fails(place, image, DataLoss, "asked for byte")


def test_a_part_that_nobody_asked_for(place, registry, image):
    registry.on(
        f"GET .*/blobs/{sha(PACKED)}", lambda exchange: exchange.answer(206, PACKED, content_range="bytes 0-1/2")
    )
    fails(place, image)


def test_cut_again_and_again(place, registry, image):
    registry.on(f"GET .*/blobs/{sha(PACKED)}", lambda exchange: exchange.cut(200, len(PACKED), b""))
    fails(place, image, Unavailable, "unexpected EOF")
    assert len(registry.asked(f"blobs/{sha(PACKED)}")) == 3


def test_a_server_that_fails_for_a_while(place, registry, image):
    registry.on("manifests/", lambda exchange: exchange.error(503, "UNAVAILABLE"), times=2)
    registry.on("blobs/", lambda exchange: exchange.answer(502, b"<html>"), times=2)
    assert place.pull(image).is_new


def test_too_many_requests(place, registry, image):
    waits = []
    transport = place.registry.transport
    place.registry.transport = lambda: _noting(transport(), waits)
    registry.on("manifests/", lambda exchange: exchange.error(429, "TOOMANYREQUESTS", retry_after="3"), times=2)
    assert place.pull(image).is_new
    assert waits == [3.0, 3.0]
    registry.on("manifests/", lambda exchange: exchange.error(429, "TOOMANYREQUESTS", "slow down", retry_after="9999"))
    with pytest.raises(Unavailable, match="toomanyrequests: slow down"):
        place.pull(image)
    assert waits[2:] == [60.0, 60.0]


def _noting(transport, waits):
    transport.wait = waits.append
    return transport


def test_retry_after_in_every_form():
    assert retry_after("7", 60) == 7
    assert retry_after("700", 60) == 60
    assert (
        retry_after("", 60) == retry_after("soon", 60) == retry_after("-3", 60) == retry_after("9" * 500, 60) - 60 == 0
    )
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 60) == 0


@pytest.mark.parametrize("what", ["manifests/", "blobs/"])
def test_silence_is_cut(place, registry, image, what):
    place.hurry(0.3)
    registry.on(what, lambda exchange: exchange.stall())
    fails(place, image, Unavailable, "silent|no complete answer")


def test_silence_in_a_body_is_cut_and_the_rest_fetched(place, registry, image):
    def half(exchange):
        exchange.head(200, content_length=str(len(PACKED)))
        exchange.wfile.write(PACKED[: len(PACKED) // 2])
        exchange.wfile.flush()
        exchange.stall()

    place.hurry(1.5)
    registry.on(f"GET .*/blobs/{sha(PACKED)}", half, times=1)
    assert place.pull(image).is_new
    assert registry.asked(f"blobs/{sha(PACKED)}")[1].headers["range"]


def test_a_drip_is_cut(place, registry, image):
    """A byte now and then keeps a connection alive, but not a pull."""

    def drip(exchange):
        exchange.head(200, content_length=str(len(PACKED)))
        for byte in PACKED:
            if exchange.registry.closing.wait(0.05):
                return
            exchange.wfile.write(bytes([byte]))

    place.hurry(0.4)
    registry.on(f"GET .*/blobs/{sha(PACKED)}", drip)
    fails(place, image, Unavailable, "too slow")


def test_a_head_that_drips_is_cut(place, registry, image):
    def drip(exchange):
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 2000:
            if exchange.registry.closing.wait(0.05):
                return
            exchange.wfile.write(bytes([byte]))

    place.hurry(0.4)
    registry.on("manifests/", drip)
    fails(place, image, Unavailable, "no complete answer in|the server is silent")


# -- floods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 500, 401])
def test_endless_answers(place, registry, image, status):
    """T28: memory and time stay bounded."""
    registry.on("manifests/", lambda exchange: exchange.endless(status))
    tracemalloc.start()
    fails(place, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20
    assert registry.endless_bytes < 60 << 20


def test_an_endless_token(place, registry, image):
    registry.token_realm = f"{registry.url}/token"
    registry.on("GET /token", lambda exchange: exchange.endless(200))
    fails(place, image, Unavailable, "more than 262144 bytes")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"x",
        b'{"token": 3}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_tokens_that_are_none(place, registry, image, body):
    registry.token_realm = f"{registry.url}/token"
    registry.on("GET /token", lambda exchange: exchange.answer(200, body))
    fails(place, image, Unavailable, "token")


def test_a_huge_manifest_and_a_huge_config(place, registry, image):
    registry.put_manifest("app", b'{"a": "' + b"x" * (5 << 20) + b'"}', "2", media_type=media.OCI_MANIFEST)
    fails(place, f"{registry.netloc}/app:2", Unavailable, "more than 4194304 bytes")
    document = {"schemaVersion": 2, "config": {**described(b"", media.OCI_CONFIG), "size": 9 << 20}, "layers": []}
    registry.put_manifest("app", json.dumps(document).encode(), "3")
    fails(place, f"{registry.netloc}/app:3", DataLoss, "the limit is")


def test_headers_without_an_end(place, registry, image):
    def flood(exchange):
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not exchange.registry.closing.is_set():
            exchange.wfile.write(b"X-A: " + b"b" * 1000 + b"\r\n")

    registry.on("manifests/", flood)
    fails(place, image, Unavailable)


@pytest.mark.parametrize("packer", [pack, zpack, lambda layer: pack(pack(layer))], ids=["gzip", "zstd", "twice"])
def test_a_decompression_bomb(tmp_path, registry, packer):
    """T27."""
    place = Place(tmp_path)
    place.store.close()
    place.store = ImageStore(
        place.data_root,
        OverlaySnapshotter(place.data_root),
        exec_root=tmp_path / "run",
        host_root=str(tmp_path / "host"),
        limits=Limits(ratio=20, grace=1 << 20, absolute=1 << 30),
    )
    bomb = Tar().file("zeros", bytes(8 << 20)).bytes()
    registry.put_image("app", [bomb], "1", pack=packer)
    fails(place, f"{registry.netloc}/app:1", InvalidParameter, "bomb|does not begin with a tar header")
    place.close()


# -- layers that lead out ---------------------------------------------------------------------------------------------

OUTSIDE = "../" * 12 + "tmp"
LEADING_OUT = {
    "dots": Tar().file(f"{OUTSIDE}/corten-pulled", b"x"),
    "a link": Tar().symlink("out", "/tmp").file("out/corten-pulled", b"x"),
    "a link of dots": Tar().symlink("out", OUTSIDE).file("out/corten-pulled", b"x"),
    "a link of the layer below": Tar().file("below/corten-pulled", b"x"),
    "a hard link": Tar().hardlink("passwd", f"{OUTSIDE}/../etc/passwd"),
    "a hard link through a link": Tar().symlink("out", "/etc").hardlink("passwd", "out/passwd"),
    "a whiteout of all": Tar().file(".wh...", b""),
    "a whiteout through a link": Tar().symlink("out", "/tmp").file("out/.wh.corten-canary", b""),
    "a whiteout without a name": Tar().file("bin/.wh.", b""),
}


@pytest.mark.parametrize("name", LEADING_OUT)
def test_nothing_outside_is_made_read_or_removed(place, registry, name):
    """T24, T25: whether it is refused or harmless."""
    canary, made = Path("/tmp/corten-canary"), Path("/tmp/corten-pulled")
    canary.write_text("here")
    below = Tar().symlink("below", "/tmp").bytes()
    registry.put_image("app", [below, LEADING_OUT[name].bytes()], "1", pack=pack)
    try:
        try:
            place.pull(f"{registry.netloc}/app:1")
        except CortenError as error:
            one_line(error)
            assert place.is_untouched()
        else:
            layers = place.store.get(f"{registry.netloc}/app:1").layers
            inode = os.stat("/etc/passwd").st_ino
            paths = [path for layer in layers for path in place.snapshotter.diff_path(layer).rglob("*")]
            assert all(path.lstat().st_ino != inode for path in paths)
        assert canary.read_text() == "here"
        assert not made.exists()
    finally:
        canary.unlink()
        made.unlink(missing_ok=True)


# -- fishing for secrets ----------------------------------------------------------------------------------------------


def test_a_redirect_gets_no_secret(place, registry, stranger, image):
    """T32."""
    registry.basic, registry.passwords = True, {"me": "s3cret"}
    stranger.blobs = registry.blobs
    location = f"{stranger.url}/v2/app/blobs/"

    def away(exchange):
        exchange.answer(307, location=location + exchange.seen.path.rpartition("/")[2])

    registry.on(f"GET .*/blobs/{sha(PACKED)}", away)
    assert place.pull(image, ME).is_new
    assert stranger.asked(f"GET .*/blobs/{sha(PACKED)}")
    assert not stranger.secrets


def test_a_redirect_that_asks_for_a_password(place, registry, stranger, image):
    """CVE-2020-15157: whoever is redirected to is a stranger, whatever it asks for."""
    registry.basic, registry.passwords = True, {"me": "s3cret"}
    for challenge in ('Basic realm="x"', f'Bearer realm="{stranger.url}/token",service="s"'):
        stranger.on("GET /v2/", lambda exchange, challenge=challenge: exchange.answer(401, www_authenticate=challenge))
        registry.on("GET .*/blobs/", lambda exchange: exchange.answer(302, location=f"{stranger.url}/v2/app/blobs/x"))
        fails(place, image, credentials=ME)
    assert stranger.requests
    assert not stranger.secrets


def test_urls_of_foreign_layers_are_not_asked(place, registry, stranger):
    image = config(BASE)
    foreign = {
        **described(pack(BASE), media.DOCKER_LAYER_FOREIGN + ".gzip"),
        "urls": [f"{stranger.url}/v2/app/blobs/x"],
    }
    registry.put_blob("app", image)
    document = {"schemaVersion": 2, "config": described(image, media.OCI_CONFIG), "layers": [foreign]}
    registry.put_manifest("app", json.dumps(document).encode(), "1")
    fails(place, f"{registry.netloc}/app:1", credentials=ME)
    assert not stranger.requests


def test_a_realm_at_another_host_gets_no_secret(place, registry, stranger, image):
    """CVE-2026-33540."""
    registry.token_realm = f"{stranger.url}/token"
    fails(place, image, NotFound, credentials=ME)
    fails(place, image, NotFound, credentials=Credentials(identity_token="refresh"))
    assert stranger.asked("GET /token")
    assert not stranger.asked("POST /token")
    assert not stranger.secrets
    assert "s3cret" not in str([seen.query for seen in stranger.requests])


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "http://", "http://me:x@127.0.0.1/", "http://[::1/token"])
def test_realms_that_are_none(place, registry, image, realm):
    registry.on(
        "manifests/", lambda exchange: exchange.error(401, "UNAUTHORIZED", www_authenticate=f'Bearer realm="{realm}"')
    )
    fails(place, image, Unavailable, "no usable realm", credentials=ME)


@pytest.mark.parametrize(
    ("registry_host", "realm", "trusted"),
    [
        ("registry-1.docker.io", "https://auth.docker.io/token", True),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", True),
        ("r.example.co.uk", "https://auth.example.co.uk/", True),
        ("r.example.co.uk", "https://evil.co.uk/", False),
        ("r.io", "https://r.io.evil.com/", False),
        ("r.io", "https://evil.com/", False),
        ("10.0.0.1", "https://10.0.0.2/", False),
        ("10.0.0.1:5000", "https://10.0.0.1:8443/", True),
        ("intranet", "https://other/", False),
    ],
)
def test_who_is_the_same_site(registry_host, realm, trusted):
    authorizer = Authorizer(None, Endpoint(base=f"https://{registry_host}/v2", domain=registry_host), ME)
    authorizer._challenge = Challenge("bearer", {"realm": realm})
    assert authorizer._realm() == (realm, trusted)
    assert same_site(registry_host, realm.split("/")[2]) is trusted


def test_a_realm_without_tls_is_refused_and_a_listed_one_is_trusted():
    endpoint = Endpoint(base="https://r.io/v2", domain="r.io", token_hosts=("auth.other.org",))
    authorizer = Authorizer(None, endpoint, ME)
    authorizer._challenge = Challenge("bearer", {"realm": "http://r.io/token"})
    with pytest.raises(Unreachable, match="plain HTTP: refused"):
        authorizer._realm()
    authorizer._challenge = Challenge("bearer", {"realm": "https://auth.other.org/token"})
    assert authorizer._realm()[1]


def test_redirects_do_not_leave_tls_nor_the_web():
    assert redirected("https://a/x", "/y") == "https://a/y"
    assert redirected("http://a/x", "http://b/y") == "http://b/y"
    for target in ("http://a/y", "file:///etc/passwd", "ftp://a/", "//[x/", "https://u:p@a/"):
        with pytest.raises(Unreachable):
            redirected("https://a/x", target)


def test_a_redirect_to_plain_http_elsewhere(place, registry, image):
    registry.on("blobs/", lambda exchange: exchange.answer(307, location="http://192.0.2.1/metadata"))
    fails(place, image, InvalidParameter, "plain HTTP to 192.0.2.1 is refused")


def test_redirects_in_a_circle(place, registry, image):
    registry.on("blobs/", lambda exchange: exchange.answer(307, location=exchange.seen.path))
    fails(place, image, Unavailable, "more than 10 redirects")


def test_plain_http_is_for_this_machine_and_listed_hosts(tmp_path, registry):
    place = Place(tmp_path)
    trust = place.registry.transport().hosts.trust
    assert trust("127.0.0.1:5000").plain
    assert trust("localhost").plain
    assert trust("[::1]:5000").plain
    assert not trust("192.0.2.1").plain
    assert not trust("localhost.evil.com").plain
    assert not trust("127.0.0.1.evil.com").plain
    place.close()


# -- the end ----------------------------------------------------------------------------------------------------------


def test_cancelled_in_the_midst(place, registry, image):
    arrived = threading.Event()

    def half(exchange):
        exchange.head(200, content_length=str(len(PACKED)))
        exchange.wfile.write(PACKED[: len(PACKED) // 2])
        exchange.wfile.flush()
        arrived.set()
        exchange.stall()

    registry.on(f"GET .*/blobs/{sha(PACKED)}", half)
    place.hurry(30)
    errors = []

    def work():
        try:
            place.pull(image)
        except CortenError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert arrived.wait(10)
    place.transports[0].abort()
    thread.join(15)  # half of what silence would take
    assert not thread.is_alive()
    assert isinstance(errors[0], Cancelled)
    assert place.is_untouched()
    with pytest.raises(Cancelled):
        place.transports[0].send("GET", registry.url, {})


def test_a_process_that_unpacks_and_dies(place, registry, image, monkeypatch):
    monkeypatch.setattr(intake, "_BESIDE_BYTES", 0)
    monkeypatch.setattr(unpackers, "_START", "import os, sys; os.read(0, 10); os.kill(os.getpid(), 9)")
    fails(place, image, SystemFailure, "the process that unpacks layers has ended")
    monkeypatch.undo()
    assert place.pull(image).is_new


def test_without_processes_threads_do_it(place, image, monkeypatch):
    monkeypatch.setattr(intake, "_BESIDE_BYTES", 0)

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(unpackers.subprocess, "Popen", refuse)
    assert place.pull(image).is_new


def test_processes_end_with_the_pull(place, registry, monkeypatch):
    monkeypatch.setattr(intake, "_BESIDE_BYTES", 0)
    layers = [Tar().file(f"f{number}", bytes([number]) * 200_000).bytes() for number in range(8)]
    registry.put_image("app", layers, "1", pack=pack)
    started = []
    popen = unpackers.subprocess.Popen

    def noted(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(unpackers.subprocess, "Popen", noted)
    assert place.pull(f"{registry.netloc}/app:1").is_new
    assert 1 <= len(started) <= 3
    assert all(process.returncode is not None for process in started)


def test_one_bad_layer_ends_the_others(place, registry):
    layers = [Tar().file(f"f{number}", bytes([number]) * 200_000).bytes() for number in range(8)]
    registry.put_image("app", layers, "1", pack=pack)
    registry.on(f"blobs/{sha(pack(layers[1]))}", lambda exchange: exchange.error(404, "BLOB_UNKNOWN", "gone"))
    fails(place, f"{registry.netloc}/app:1", CortenError, "blob unknown: gone")
