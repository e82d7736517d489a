"""Images from a registry that behaves: every form, nothing twice, Docker's words."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from pathlib import Path

import pytest
import zstandard
from fake_registry import FakeRegistry
from image_archives import config, described, oci_index, sha
from registry_place import ME, Place
from tar_builder import Tar, one_line

from corten.errors import CortenError, InvalidParameter, NotFound, Unavailable
from corten.oci import descriptor as media
from corten.oci import reference
from corten.registry.auth import Credentials
from corten.registry.pulling import tags_of
from corten.snapshot.vfs import VfsSnapshotter

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).dir("etc").file("etc/passwd", b"root\n").bytes()
NEXT = Tar().dir("etc").file("etc/.wh.passwd").file("etc/group", b"wheel\n").bytes()
TOP = Tar().dir("srv").file("srv/data", bytes(range(256)) * 4000).bytes()
LATE = Tar().dir("opt").file("opt/late", b"late").bytes()


def pack(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zpack(content: bytes) -> bytes:
    return zstandard.compress(content)


@pytest.fixture
def registry():
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path):
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize(
    ("packer", "suffix"), [(pack, "gzip"), (zpack, "zstd"), (None, "")], ids=["gzip", "zstd", "plain"]
)
def test_every_form_of_manifest_and_layer(place, registry, docker, packer, suffix):
    base = media.DOCKER_LAYER if docker else media.OCI_LAYER
    kind = base + ((".gzip" if docker else f"+{suffix}") if suffix else "")
    digest = registry.put_image("team/app", [BASE, NEXT], "1", pack=packer, layer_type=kind, docker=docker)
    name = f"{registry.netloc}/team/app"
    pulled = place.pull(f"{name}:1")
    image = place.store.get(f"{name}:1")
    assert (pulled.digest, pulled.image_id, pulled.is_new) == (digest, sha(config(BASE, NEXT)), True)
    assert image.digests == (f"{name}@{digest}",)
    assert image.tags == (f"{name}:1",)
    assert b"".join(place.store.open_layer_tar(image.layers[0])) == BASE
    assert place.store.get(f"{name}@{digest}").id == image.id
    assert place.statuses("1") == ["Pulling from team/app"]
    assert place.statuses() == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}:1"]
    line = [item["status"] for item in place.reports if item.get("id") == sha(packer(BASE) if packer else BASE)[7:19]]
    assert list(dict.fromkeys(line)) == [
        "Pulling fs layer", "Downloading", "Verifying Checksum", "Download complete", "Extracting", "Pull complete",
    ]  # fmt: skip


def test_by_digest_there_is_no_tag(place, registry):
    digest = registry.put_image("app", [BASE], "1", pack=pack)
    name = f"{registry.netloc}/app@{digest}"
    place.pull(name)
    assert place.store.get(name).tags == ()
    assert place.statuses()[-1] == f"Status: Downloaded newer image for {name}"
    # a digest beside a tag decides
    assert place.pull(f"{registry.netloc}/app:other@{digest}").is_new is False


def test_what_is_here_is_not_fetched(place, registry):
    registry.put_image("app", [BASE, NEXT], "1", pack=pack)
    registry.put_image("app", [BASE, NEXT, TOP], "2", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    registry.requests.clear()
    place.pull(f"{registry.netloc}/app:2")
    assert [seen.path.rpartition("/")[2] for seen in registry.asked("blobs")] == [
        sha(config(BASE, NEXT, TOP)),
        sha(pack(TOP)),
    ]
    assert place.statuses(sha(pack(BASE))[7:19])[-1] == "Already exists"
    registry.requests.clear()
    again = place.pull(f"{registry.netloc}/app:2")
    assert (again.is_new, len(registry.requests)) == (False, 1)
    assert place.statuses()[-1] == f"Status: Image is up to date for {registry.netloc}/app:2"


def test_a_layer_on_another_parent_is_copied_and_not_fetched(place, registry):
    registry.put_image("app", [BASE, TOP], "1", pack=pack)
    registry.put_image("app", [NEXT, TOP], "2", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    registry.requests.clear()
    place.pull(f"{registry.netloc}/app:2")
    assert not registry.asked(f"blobs/{sha(pack(TOP))}")
    image = place.store.get(f"{registry.netloc}/app:2")
    assert b"".join(place.store.open_layer_tar(image.layers[1])) == TOP


def test_the_same_layer_twice_in_an_image(place, registry):
    registry.put_image("app", [BASE, NEXT, BASE], "1", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    assert len(registry.asked(f"blobs/{sha(pack(BASE))}")) == 1
    assert len(place.store.get(f"{registry.netloc}/app:1").layers) == 3


def test_an_image_without_layers(place, registry):
    registry.put_image("app", [], "1")
    place.pull(f"{registry.netloc}/app:1")
    assert place.store.get(f"{registry.netloc}/app:1").layers == ()


def test_vfs_unpacks_layer_on_layer(tmp_path, registry):
    place = Place(tmp_path, VfsSnapshotter)
    registry.put_image("app", [BASE, NEXT], "1", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    image = place.store.get(f"{registry.netloc}/app:1")
    with place.snapshotter.open_layer(image.layers[1]) as root:
        etc = Path(f"/proc/self/fd/{root}/etc")
        assert sorted(path.name for path in etc.iterdir()) == ["group"]
    place.close()


def test_a_tag_that_moved_takes_its_name_along(place, registry):
    first = registry.put_image("app", [BASE], "1", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    registry.put_image("app", [BASE, TOP], "1", pack=pack)
    assert place.pull(f"{registry.netloc}/app:1").is_new
    assert place.store.get(f"{registry.netloc}/app@{first}").tags == ()


def test_a_hundred_layers(place, registry):
    layers = [Tar().file(f"file{number}", b"%d" % number).bytes() for number in range(100)]
    registry.put_image("app", layers, "1", pack=pack)
    place.pull(f"{registry.netloc}/app:1")
    image = place.store.get(f"{registry.netloc}/app:1")
    assert image.config["rootfs"]["diff_ids"] == [sha(layer) for layer in layers]
    assert len(image.layers) == 100


def test_sha512_blobs(place, registry):
    import hashlib

    packed = pack(BASE)
    digest = f"sha512:{hashlib.sha512(packed).hexdigest()}"
    image = config(BASE)
    registry.put_blob("app", image)
    registry.blobs["app"][digest] = packed
    layer = {"mediaType": media.OCI_LAYER + "+gzip", "digest": digest, "size": len(packed)}
    document = {"schemaVersion": 2, "config": described(image, media.OCI_CONFIG), "layers": [layer]}
    registry.put_manifest("app", json.dumps(document).encode(), "1")
    place.pull(f"{registry.netloc}/app:1")
    registry.blobs["app"][digest] = pack(TOP)
    other = place.pull
    place.store.remove(f"{registry.netloc}/app:1", force=True, prune=True, in_use=lambda _: [])
    with pytest.raises(CortenError):
        other(f"{registry.netloc}/app:1")


# -- indexes ----------------------------------------------------------------------------------------------------------


def multi_platform(registry: FakeRegistry, kind: str = media.OCI_INDEX) -> tuple[str, dict[str, str]]:
    """(digest of the index, image ids by platform)."""
    entries, ids = [], {}
    for text in ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6"):
        system, machine, *variant = text.split("/")
        layer = Tar().file("which", text.encode()).bytes()
        image = config(layer, architecture=machine, os=system, **({"variant": variant[0]} if variant else {}))
        digest = registry.put_image("multi", [layer], pack=pack, image=image)
        content = registry.manifests[("multi", digest)][0]
        platform = {"os": system, "architecture": machine, **({"variant": variant[0]} if variant else {})}
        entries.append(described(content, media.OCI_MANIFEST, platform=platform))
        ids[text] = sha(image)
    attestation = b'{"schemaVersion": 2}'
    entries.insert(0, described(attestation, media.OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}))
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    return registry.put_manifest("multi", content, "1"), ids


@pytest.mark.parametrize("kind", [media.OCI_INDEX, media.DOCKER_INDEX], ids=["oci", "docker"])
@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/amd64", "linux/amd64"),
    ],
)
def test_an_index_gives_the_platform_that_is_asked_for(place, registry, kind, asked, given):
    digest, ids = multi_platform(registry, kind)
    pulled = place.pull(f"{registry.netloc}/multi:1", platform=asked)
    assert (pulled.image_id, pulled.digest) == (ids[given], digest)
    assert place.store.get(f"{registry.netloc}/multi:1").digests == (f"{registry.netloc}/multi@{digest}",)


def test_without_a_platform_it_is_this_machine_s(place, registry):
    from corten.oci.platform import this_machine

    _, ids = multi_platform(registry)
    assert place.pull(f"{registry.netloc}/multi:1").image_id == ids[str(this_machine())]


def test_no_such_platform(place, registry):
    multi_platform(registry)
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
        place.pull(f"{registry.netloc}/multi:1", platform="linux/s390x")
    assert place.is_untouched()


def test_a_single_image_of_another_platform_comes_with_a_warning(place, registry):
    registry.put_image("app", [BASE], "1", pack=pack)
    place.pull(f"{registry.netloc}/app:1", platform="linux/arm64")
    assert place.statuses()[0].startswith(f"WARNING: image with reference {registry.netloc}/app:1 was found but does")


def test_an_artifact_is_no_image(place, registry):
    helm = "application/vnd.cncf.helm.config.v1+json"
    document = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described(b"{}", helm), "layers": []}
    registry.put_manifest("chart", json.dumps(document).encode(), "1")
    with pytest.raises(InvalidParameter, match=re.escape(f'Encountered remote "{helm}"')):
        place.pull(f"{registry.netloc}/chart:1")
    assert place.is_untouched()


def test_indexes_nested_too_deeply(place, registry):
    registry.put_image("app", [BASE], pack=pack)
    content = next(content for (_, ref), (content, _) in registry.manifests.items() if ":" in ref)
    kind = media.OCI_MANIFEST
    for _ in range(5):
        content, kind = oci_index(described(content, kind)), media.OCI_INDEX
        registry.put_manifest("app", content, "1")
    with pytest.raises(InvalidParameter, match="nested too deeply"):
        place.pull(f"{registry.netloc}/app:1")


# -- authentication ---------------------------------------------------------------------------------------------------


def test_bearer_tokens(place, registry):
    registry.put_image("app", [BASE], "1", pack=pack)
    registry.token_realm = f"{registry.url}/token"
    registry.passwords = {"me": "s3cret"}
    with pytest.raises(
        NotFound, match=r"pull access denied for .*/app, repository does not exist or may require"
    ) as no:
        place.pull(f"{registry.netloc}/app:1")
    one_line(no.value)
    with pytest.raises(NotFound, match="incorrect username or password"):
        place.pull(f"{registry.netloc}/app:1", Credentials("me", "wrong"))
    assert place.is_untouched()
    registry.requests.clear()
    assert place.pull(f"{registry.netloc}/app:1", ME).is_new
    asked = registry.asked("GET /token")
    assert [seen.query["scope"] for seen in asked] == [["repository:app:pull"]]
    assert asked[0].query["service"] == ["reg"]
    # the password went to the token service and nowhere else
    assert not any(seen.secret.startswith("Basic") for seen in registry.asked("/v2/"))


def test_a_token_that_expired_is_asked_for_again(place, registry):
    registry.put_image("app", [BASE, TOP], "1", pack=pack)
    registry.token_realm = f"{registry.url}/token"

    def expire(exchange):
        registry.tokens.clear()
        registry.answer(exchange)

    registry.on("GET .*/blobs/", expire, times=1)
    place.pull(f"{registry.netloc}/app:1")
    assert 2 <= len(registry.asked("GET /token")) <= 3


def test_identity_tokens_and_passwords_by_post(place, registry):
    registry.put_image("app", [BASE], "1", pack=pack)
    registry.token_realm = f"{registry.url}/token"
    registry.passwords, registry.refresh_tokens = {"me": "s3cret"}, {"refresh"}
    place.pull(f"{registry.netloc}/app:1", Credentials(identity_token="refresh"))
    assert not registry.asked("GET /token")
    registry.on("GET /token", lambda exchange: exchange.answer(405))
    assert place.pull(f"{registry.netloc}/app:1", ME).is_new is False
    assert b"grant_type=password" in registry.asked("POST /token")[-1].body


def test_basic_authentication_and_a_registry_token(place, registry):
    registry.put_image("app", [BASE], "1", pack=pack)
    registry.basic, registry.passwords = True, {"me": "s3cret"}
    with pytest.raises(NotFound, match="no basic auth credentials"):
        place.pull(f"{registry.netloc}/app:1")
    with pytest.raises(NotFound, match="unauthorized"):
        place.pull(f"{registry.netloc}/app:1", Credentials("me", "wrong"))
    place.pull(f"{registry.netloc}/app:1", ME)
    registry.basic = False
    registry.requests.clear()
    place.pull(f"{registry.netloc}/app:1", Credentials(registry_token="given"))
    assert {seen.secret for seen in registry.asked("/v2/app")} == {"Bearer given"}


# -- errors in Docker's words -----------------------------------------------------------------------------------------


def test_what_is_not_there(place, registry):
    with pytest.raises(NotFound) as caught:
        place.pull(f"{registry.netloc}/app:1")
    assert str(caught.value) == f"manifest for {registry.netloc}/app:1 not found: manifest unknown: manifest unknown"
    registry.on("GET .*/manifests/", lambda exchange: exchange.error(404, "NAME_UNKNOWN", "no such repository"))
    with pytest.raises(NotFound, match=f"repository {registry.netloc}/app not found: name unknown: no such repository"):
        place.pull(f"{registry.netloc}/app:1")


def test_what_is_denied(place, registry):
    registry.on("GET .*/manifests/", lambda exchange: exchange.error(403, "DENIED", "requested access is denied"))
    with pytest.raises(NotFound) as caught:
        place.pull(f"{registry.netloc}/app:1")
    assert str(caught.value) == (
        f"pull access denied for {registry.netloc}/app, repository does not exist or may require 'docker login': "
        "denied: requested access is denied"
    )


def test_a_web_server_that_is_no_registry(place, registry):
    page = b"<html>\n<body>Welcome" + b" " * 5000
    for status in (200, 404, 500):
        registry.rules.clear()
        registry.on(
            "GET .*/manifests/",
            lambda exchange, status=status: exchange.answer(status, page, content_type="text/html; charset=utf-8"),
        )
        with pytest.raises(CortenError) as caught:
            place.pull(f"{registry.netloc}/app:1")
        one_line(caught.value)
        assert "<html>" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_nobody_there(place):
    with pytest.raises(Unavailable, match=r'Get "http://127\.0\.0\.1:1/v2/app/manifests/1": connection refused'):
        place.pull("127.0.0.1:1/app:1")
    with pytest.raises(Unavailable, match=r"lookup nowhere\.invalid: no such host"):
        place.pull("nowhere.invalid/app:1")


def test_names_of_the_machine_s_own_image_are_kept(place, registry):
    with pytest.raises(CortenError, match="belongs to the built-in image"):
        place.pull("host:latest")
    assert not registry.requests


# -- tags -------------------------------------------------------------------------------------------------------------


def test_all_tags_page_by_page(place, registry):
    pages = iter([(["a", "b"], '</v2/app/tags/list?last=b>; rel="next"'), (["c"], "")])

    def page(exchange):
        tags, link = next(pages)
        exchange.answer(200, json.dumps({"tags": tags}).encode(), **({"link": link} if link else {}))

    registry.on("GET .*/tags/list", page)
    transport = place.registry.transport()
    assert tags_of(transport, reference.parse(f"{registry.netloc}/app"), ME) == ["a", "b", "c"]
    registry.rules.clear()
    registry.on("tags/list", lambda exchange: exchange.answer(200, b'{"tags": null}'))
    with pytest.raises(NotFound, match="it has no tags"):
        tags_of(transport, reference.parse(f"{registry.netloc}/app"), ME)
    registry.rules.clear()
    link = f'<{registry.url.replace("127.0.0.1", "127.0.0.3")}/v2/app/tags/list?last=b>; rel="next"'
    registry.on("tags/list", lambda exchange: exchange.answer(200, b'{"tags": ["a"]}', link=link))
    with pytest.raises(Unavailable, match="another host"):
        tags_of(transport, reference.parse(f"{registry.netloc}/app"), ME)
    transport.close()


# -- beside others ----------------------------------------------------------------------------------------------------


def test_prune_and_removal_leave_alone_what_a_pull_needs(place, registry):
    """What is placed and has no image yet, and what it shares with an image that goes meanwhile."""
    registry.put_image("old", [BASE], "1", pack=pack)
    registry.put_image("app", [BASE, TOP, LATE], "1", pack=pack)
    place.pull(f"{registry.netloc}/old:1")
    asked, go = threading.Event(), threading.Event()

    def hold(exchange):
        asked.set()
        go.wait(20)
        exchange.registry.answer(exchange)

    registry.on(f"GET .*/blobs/{sha(pack(LATE))}", hold)
    puller = threading.Thread(target=place.pull, args=(f"{registry.netloc}/app:1",))
    puller.start()
    try:
        assert asked.wait(10)
        placed = {"status": "Pull complete", "progressDetail": {}, "id": sha(pack(TOP))[7:19]}
        deadline = time.monotonic() + 20
        while placed not in place.reports:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rows, _ = place.store.prune(in_use=lambda _: [], every=True)
        assert {"Untagged": f"{registry.netloc}/old:1"} in rows
        place.store._garbage.sweep_blobs()
    finally:
        go.set()
        puller.join()
    image = place.store.get(f"{registry.netloc}/app:1")
    assert len(image.layers) == 3
    assert not list(place.store.check(list).findings())


def test_a_config_that_a_removal_takes_at_the_last_moment(place, registry, monkeypatch):
    """The same image is removed and pulled: what is there when the pull looks is gone when it is recorded."""
    registry.put_image("app", [BASE], "1", pack=pack)
    name = f"{registry.netloc}/app:1"
    place.pull(name)
    blobs, put = place.store._blobs, type(place.store._blobs).put
    taken = []

    def taking(self, content, **options):
        found = put(self, content, **options)
        if not taken:
            taken.append(place.store.remove(name, force=True, prune=True, in_use=lambda _: []))
            place.store._garbage.sweep_blobs()
        return found

    monkeypatch.setattr(type(blobs), "put", taking)
    place.pull(name)
    assert taken
    assert place.store.get(name).layers
    assert not list(place.store.check(list).findings())
