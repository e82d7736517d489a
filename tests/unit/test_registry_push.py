"""Images to a registry: nothing sent twice, the same bytes every time, gone on with after a cut."""

from __future__ import annotations

import gzip
import hashlib
import io
import json

import image_archives as archives
import pytest
from fake_registry import FakeRegistry
from image_archives import config, sha
from registry_place import ME, Place
from tar_builder import Tar, one_line

from corten.errors import CortenError, DataLoss, Forbidden, InvalidParameter, NotFound, Unauthorized, Unavailable
from corten.oci import descriptor as media
from corten.registry.auth import Credentials
from corten.registry.packing import compressed

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).bytes()
BIG = Tar().file("noise", bytes((i * i * 31 + i // 7) % 251 for i in range(700_000)) * 4).bytes()
PACKED = {layer: b"".join(compressed(iter([layer]))) for layer in (BASE, BIG)}


@pytest.fixture
def registry():
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.close()


def load(place: Place, *names: str, layers: tuple[bytes, ...] = (BASE, BIG), **fields) -> None:
    place.store.archives.load(
        io.BytesIO(archives.tar(archives.docker_members(list(layers), tags=list(names), **fields)))
    )


def test_a_push_and_what_lies_there_then(place, registry):
    name = f"{registry.netloc}/team/app"
    load(place, f"{name}:1")
    (pushed,) = place.push(f"{name}:1")
    body, kind = registry.manifests[("team/app", "1")]
    assert (pushed.digest, pushed.size, kind) == (sha(body), len(body), media.DOCKER_MANIFEST)
    document = json.loads(body)
    assert document["mediaType"] == media.DOCKER_MANIFEST
    assert document["config"]["digest"] == sha(config(BASE, BIG))
    assert [layer["mediaType"] for layer in document["layers"]] == [media.DOCKER_LAYER + ".gzip"] * 2
    blobs = registry.blobs["team/app"]
    assert [gzip.decompress(blobs[layer["digest"]]) for layer in document["layers"]] == [BASE, BIG]
    assert [layer["size"] for layer in document["layers"]] == [len(PACKED[BASE]), len(PACKED[BIG])]
    assert f"{name}@{pushed.digest}" in place.store.get(f"{name}:1").digests
    assert not registry.uploads
    assert place.statuses() == [
        f"The push refers to repository [{name}]",
        f"1: digest: {pushed.digest} size: {len(body)}",
    ]
    assert place.reports[-1]["aux"] == {"Tag": "1", "Digest": pushed.digest, "Size": len(body)}
    assert set(place.statuses(sha(BASE)[7:19])) >= {"Preparing", "Pushed"}


def test_what_is_there_is_not_sent_again(place, registry):
    name = f"{registry.netloc}/app"
    load(place, f"{name}:1", f"{name}:2")
    place.push(f"{name}:1")
    registry.requests.clear()
    place.reports.clear()
    place.push(f"{name}:2")
    assert not registry.asked("POST|PATCH")
    assert registry.manifests[("app", "2")] == registry.manifests[("app", "1")]
    assert place.statuses(sha(BASE)[7:19])[-1] == "Layer already exists"


def test_another_repository_is_mounted_from(place, registry):
    load(place, f"{registry.netloc}/one:1", f"{registry.netloc}/two:1")
    place.push(f"{registry.netloc}/one:1")
    registry.requests.clear()
    place.reports.clear()
    place.push(f"{registry.netloc}/two:1")
    assert not registry.asked("PATCH")
    mounts = [seen.query for seen in registry.asked("POST") if "mount" in seen.query]
    assert {query["from"][0] for query in mounts} == {"one"}
    assert place.statuses(sha(BASE)[7:19])[-1] == "Mounted from one"
    # when the blob has gone there, it is sent
    load(place, f"{registry.netloc}/three:1")
    registry.blobs.pop("one"), registry.blobs.pop("two")
    place.push(f"{registry.netloc}/three:1")
    assert set(registry.blobs["three"]) == {sha(config(BASE, BIG)), sha(PACKED[BASE]), sha(PACKED[BIG])}
    assert not registry.uploads


def test_what_was_pulled_goes_back_as_it_came(tmp_path, place, registry):
    digest = registry.put_image("app", [BASE, BIG], "1", pack=lambda layer: gzip.compress(layer, mtime=0))
    place.pull(f"{registry.netloc}/app:1")
    place.store.tag(f"{registry.netloc}/app:1", f"{registry.netloc}/copy:1")
    (pushed,) = place.push(f"{registry.netloc}/copy:1")
    assert pushed.digest == digest
    assert not registry.asked("PATCH")
    # another registry has none of it: packed anew, under another digest
    other = FakeRegistry("127.0.0.2")
    place.store.tag(f"{registry.netloc}/app:1", f"{other.netloc}/app:1")
    (elsewhere,) = place.push(f"{other.netloc}/app:1")
    assert elsewhere.digest != digest
    assert sha(PACKED[BIG]) in other.blobs["app"]
    other.close()


def test_zstd_layers_make_an_oci_manifest(place, registry):
    import zstandard

    kind = media.OCI_LAYER + "+zstd"
    registry.put_image("app", [BASE], "1", pack=zstandard.compress, layer_type=kind)
    place.pull(f"{registry.netloc}/app:1")
    with place.store.pin(f"{registry.netloc}/app:1") as image:
        config_id = image.id
    load(place, f"{registry.netloc}/app:2", layers=(BASE, BIG))
    place.push(f"{registry.netloc}/app:2")
    document = json.loads(registry.manifests[("app", "2")][0])
    assert document["mediaType"] == media.OCI_MANIFEST
    assert [layer["mediaType"] for layer in document["layers"]] == [kind, media.OCI_LAYER + "+gzip"]
    assert config_id


def test_the_same_bytes_whatever_they_come_in():
    chunks = [BIG[:1000], BIG[1000:1_500_000], BIG[1_500_000:]]
    assert b"".join(compressed(iter(chunks))) == PACKED[BIG]
    assert gzip.decompress(PACKED[BIG]) == BIG
    assert gzip.decompress(b"".join(compressed(iter([])))) == b""


def test_all_tags_of_a_repository(place, registry):
    name = f"{registry.netloc}/app"
    load(place, f"{name}:1", f"{name}:2")
    assert [str(item.name) for item in place.push(name)] == [f"{name}:1", f"{name}:2"]
    assert {("app", "1"), ("app", "2")} <= set(registry.manifests)


def test_a_layer_twice_is_sent_once(place, registry):
    load(place, f"{registry.netloc}/app:1", layers=(BASE, BIG, BASE))
    place.push(f"{registry.netloc}/app:1")
    # the small one in one piece, the large one as it is packed
    assert len(registry.asked("PATCH")) == 1
    assert len(registry.asked(r"PUT .*/uploads/")) == 3
    assert len(json.loads(registry.manifests[("app", "1")][0])["layers"]) == 3


def test_small_layers_that_are_there_are_not_sent(place, registry):
    """By their bytes: this store never had anything to do with that registry."""
    load(place, f"{registry.netloc}/app:1", layers=(BASE,))
    registry.put_blob("app", PACKED[BASE])
    place.push(f"{registry.netloc}/app:1")
    assert [seen.query["digest"] for seen in registry.asked("PUT .*/uploads/")] == [[sha(config(BASE))]]


# -- cuts -------------------------------------------------------------------------------------------------------------


def test_a_cut_upload_goes_on_where_it_stopped(place, registry):
    load(place, f"{registry.netloc}/app:1", layers=(BIG,))

    def half(exchange):
        upload = registry.uploads[exchange.seen.path.rpartition("/")[2]]
        for piece in exchange.pieces():
            upload.data += piece
            if len(upload.data) > len(PACKED[BIG]) // 3:
                break
        exchange.reset()

    registry.on("PATCH", half, times=1)
    place.push(f"{registry.netloc}/app:1")
    assert registry.asked("GET .*/uploads/")
    second = registry.asked("PATCH")[1]
    assert 0 < int(second.headers["content-range"].rstrip("-")) < len(PACKED[BIG])
    assert gzip.decompress(registry.blobs["app"][sha(PACKED[BIG])]) == BIG


def test_an_upload_that_the_registry_forgot_begins_anew(place, registry):
    load(place, f"{registry.netloc}/app:1", layers=(BIG,))

    def forget(exchange):
        registry.uploads.clear()
        exchange.reset()

    registry.on("PATCH", forget, times=1)
    place.push(f"{registry.netloc}/app:1")
    assert len(registry.asked("POST .*/uploads/")) >= 2
    assert sha(PACKED[BIG]) in registry.blobs["app"]


def test_a_server_that_fails_for_a_while(place, registry):
    load(place, f"{registry.netloc}/app:1")
    for what in ("HEAD", "POST", "PATCH", "PUT .*/blobs", "PUT .*/manifests"):
        registry.on(what, lambda exchange: (list(exchange.pieces()), exchange.error(503, "UNAVAILABLE")), times=1)
    place.push(f"{registry.netloc}/app:1")
    assert ("app", "1") in registry.manifests


@pytest.mark.parametrize("what", ["HEAD .*/blobs", "POST", "PATCH", "PUT .*/blobs", "PUT .*/manifests"])
@pytest.mark.parametrize("fault", ["500", "reset", "stall", "refuse"])
def test_what_keeps_failing_fails_the_push(place, registry, what, fault):
    load(place, f"{registry.netloc}/app:1")
    before = place.state()
    acts = {
        "500": lambda exchange: (list(exchange.pieces()), exchange.error(500, "UNKNOWN")),
        "reset": lambda exchange: exchange.reset(),
        "stall": lambda exchange: exchange.stall(),
        "refuse": lambda exchange: (list(exchange.pieces()), exchange.error(400, "UNSUPPORTED", "no")),
    }
    if fault == "stall":
        place.hurry(0.3)
    registry.on(what, acts[fault])
    with pytest.raises(CortenError) as caught:
        place.push(f"{registry.netloc}/app:1")
    one_line(caught.value)
    assert place.state() == before
    assert ("app", "1") not in registry.manifests


def test_a_layer_that_was_changed_on_disk_is_not_pushed(place, registry):
    load(place, f"{registry.netloc}/app:1")
    image = place.store.get(f"{registry.netloc}/app:1")
    (place.snapshotter.diff_path(image.layers[0]) / "bin/sh").write_bytes(b"evil" * 1500)
    with pytest.raises(DataLoss, match="was changed on disk"):
        place.push(f"{registry.netloc}/app:1")
    assert not registry.manifests


# -- who may ----------------------------------------------------------------------------------------------------------


def test_bearer_tokens_for_both_repositories(place, registry):
    load(place, f"{registry.netloc}/one:1", f"{registry.netloc}/two:1")
    place.push(f"{registry.netloc}/one:1")
    registry.token_realm, registry.passwords = f"{registry.url}/token", {"me": "s3cret"}
    with pytest.raises(Unauthorized, match=r"push access to .*/two denied"):
        place.push(f"{registry.netloc}/two:1", Credentials("me", "wrong"))
    registry.requests.clear()
    place.push(f"{registry.netloc}/two:1", ME)
    assert registry.asked("GET /token")[0].query["scope"] == ["repository:two:pull,push", "repository:one:pull"]
    assert not registry.asked("PATCH")


def test_what_is_refused_and_what_is_not_here(place, registry):
    load(place, f"{registry.netloc}/app:1")
    with pytest.raises(NotFound, match=r"An image does not exist locally with the tag: .*/nothing"):
        place.push(f"{registry.netloc}/nothing:1")
    registry.on("POST", lambda exchange: exchange.error(403, "DENIED", "requested access to the resource is denied"))
    with pytest.raises(
        Forbidden, match=r"push access to .*/app denied: denied: requested access to the resource is denied"
    ):
        place.push(f"{registry.netloc}/app:1")
    with pytest.raises(InvalidParameter, match="cannot be pushed"):
        place.push("host:latest")
    load(place, "127.0.0.1:1/app:1")
    with pytest.raises(Unavailable, match="connection refused"):
        place.push("127.0.0.1:1/app:1")
    registry.rules.clear()
    registry.on("GET /v2/$", lambda exchange: exchange.answer(200, b"<html>", content_type="text/html"))
    with pytest.raises(Unavailable, match=r"it is no registry \(HTTP status 200, text/html\)"):
        place.push(f"{registry.netloc}/app:1")


def test_an_upload_at_another_host_gets_bytes_and_no_secret(place, registry):
    stranger = FakeRegistry("127.0.0.2")
    load(place, f"{registry.netloc}/app:1", layers=(BIG,))
    registry.basic, registry.passwords = True, {"me": "s3cret"}
    received = []

    def away(exchange):
        stranger.uploads["x"] = registry.uploads["x"] = type("U", (), {"data": bytearray()})()
        exchange.answer(202, location=f"{stranger.url}/v2/app/blobs/uploads/x")

    def keep(exchange):
        received.append(b"".join(exchange.pieces()))
        digest = exchange.seen.query.get("digest", [""])[0]
        if digest:
            registry.put_blob("app", b"".join(received))
        exchange.answer(201 if digest else 202, location=f"{stranger.url}/v2/app/blobs/uploads/x")

    registry.on("POST", away, times=1)
    stranger.on("PATCH|PUT", keep)
    place.push(f"{registry.netloc}/app:1", ME)
    assert stranger.asked("PATCH")
    assert not any(seen.secret for seen in stranger.requests)
    stranger.close()


def test_hashes_are_those_of_the_bytes():
    assert hashlib.sha256(PACKED[BASE]).hexdigest() == sha(PACKED[BASE])[7:]
