"""The distribution API of ``corten registry serve``, request by request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from registry_server_place import EMPTY, Client, Place, manifest, served, sha256

from corten.oci import descriptor as media
from corten.registry.server import layout, manifests, spool
from corten.registry.server.disk import DiskStorage
from corten.registry.server.failures import Refusal

LAYER = bytes(range(256)) * 400
ABSENT = sha256(b"absent")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served(tmp_path / "registry") as place:
        yield place


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    client = place.client()
    yield client
    client.close()


def files(place: Place) -> set[str]:
    """Everything below the root that is content or an upload."""
    return {
        str(path.relative_to(place.root))
        for path in place.root.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != "usage"
    }


# -- base -------------------------------------------------------------------------------------------------------------


def test_says_what_it_is(client: Client) -> None:
    for method in ("GET", "HEAD"):
        answer = client(method, "/v2/")
        assert answer.status == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert client("POST", "/v2/").code == "UNSUPPORTED"
    assert client("GET", "/elsewhere").status == 404


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_a_blob_in_one_request(client: Client) -> None:
    digest = sha256(LAYER)
    answer = client("POST", f"/v2/a/b/blobs/uploads/?digest={digest}", LAYER)
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{digest}")
    assert answer.headers["docker-content-digest"] == digest
    found = client("GET", f"/v2/a/b/blobs/{digest}")
    assert (found.status, found.body) == (200, LAYER)
    assert found.headers["docker-content-digest"] == digest
    head = client("HEAD", f"/v2/a/b/blobs/{digest}")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(LAYER)), b"")


def test_a_blob_in_two_requests(client: Client) -> None:
    begun = client("POST", "/v2/a/blobs/uploads/", b"")
    assert begun.status == 202
    assert begun.headers["docker-upload-uuid"] in begun.headers["location"]
    answer = client("PUT", f"{begun.headers['location']}?digest={sha256(LAYER)}", LAYER)
    assert answer.status == 201
    assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER


def test_a_blob_in_pieces(client: Client) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    for first in range(0, len(LAYER), 30_000):
        piece = LAYER[first : first + 30_000]
        answer = client("PATCH", location, piece, Content_Range=f"{first}-{first + len(piece) - 1}")
        assert (answer.status, answer.headers["range"]) == (202, f"0-{first + len(piece) - 1}")
        location = answer.headers["location"]
        status = client("GET", location)
        assert (status.status, status.headers["range"]) == (204, f"0-{first + len(piece) - 1}")
    assert client("PUT", f"{location}?digest={sha256(LAYER)}", b"").status == 201
    assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER


def test_pieces_without_a_length(client: Client) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    answer = client("PATCH", location, iter([LAYER[:1000], LAYER[1000:]]))
    assert (answer.status, answer.headers["range"]) == (202, f"0-{len(LAYER) - 1}")
    assert client("PUT", f"{location}?digest={sha256(LAYER)}").status == 201


def test_a_piece_that_does_not_follow_is_refused(client: Client) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    assert client("PATCH", location, LAYER[:100], Content_Range="0-99").status == 202
    for wrong in ("200-299", "0-99", "50-149"):
        answer = client("PATCH", location, LAYER[:100], Content_Range=wrong)
        assert (answer.status, answer.code) == (416, "RANGE_INVALID")
        assert answer.headers["range"] == "0-99"
    assert client("PATCH", location, LAYER[:100], Content_Range="100-150").code == "SIZE_INVALID"


def test_a_malformed_content_range(client: Client) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    assert client("PATCH", location, b"x", Content_Range="first-last").status == 400


def test_content_that_is_not_its_digest_is_not_kept(client: Client, place: Place) -> None:
    answer = client("POST", f"/v2/a/blobs/uploads/?digest={ABSENT}", LAYER)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    assert client("PUT", f"{location}?digest={ABSENT}", LAYER).code == "DIGEST_INVALID"
    assert client("GET", f"/v2/a/blobs/{ABSENT}").status == 404
    assert files(place) == set()


@pytest.mark.parametrize("digest", ["", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + "g" * 64])
def test_bad_digests(client: Client, digest: str) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    assert client("PUT", f"{location}?digest={digest}", b"x").code == "DIGEST_INVALID"
    assert client("GET", f"/v2/a/blobs/{digest or 'x'}").code == "DIGEST_INVALID"


def test_sha512(client: Client) -> None:
    digest = f"sha512:{hashlib.sha512(LAYER).hexdigest()}"
    assert client("POST", f"/v2/a/blobs/uploads/?digest={digest}", LAYER).status == 201
    assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER
    client.push_blob("a", EMPTY)
    body = manifest()
    reference = f"sha512:{hashlib.sha512(body).hexdigest()}"
    put = client("PUT", f"/v2/a/manifests/{reference}", body, Content_Type=media.OCI_MANIFEST)
    assert (put.status, put.headers["docker-content-digest"]) == (201, reference)
    assert client("GET", f"/v2/a/manifests/{reference}").body == body


def test_cancelling_an_upload(client: Client, place: Place) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    client("PATCH", location, b"some")
    assert client("DELETE", location).status == 204
    assert client("GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert client("DELETE", location).status == 404
    assert files(place) == set()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])  # the other one is computed when all has come
def test_cancelling_an_upload_in_the_midst_of_its_commit(
    client: Client, place: Place, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    other = place.client()
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    storage, adopt, digest_of_file = place.content.repositories.storage, DiskStorage.adopt, spool._digest_of_file

    async def adopt_later(path: Path, key: str) -> None:
        assert (await asyncio.to_thread(other, "DELETE", location)).status == 204
        await adopt(storage, path, key)  # type: ignore[arg-type]

    def digest_later(path: Path, algorithm: str) -> str:
        assert other("DELETE", location).status == 204
        return digest_of_file(path, algorithm)

    monkeypatch.setattr(storage, "adopt", adopt_later)
    monkeypatch.setattr(spool, "_digest_of_file", digest_later)
    answer = client("PUT", f"{location}?digest={algorithm}:{hashlib.new(algorithm, LAYER).hexdigest()}", LAYER)
    other.close()
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert files(place) == set()


def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    assert client("PATCH", location.replace("/v2/a/", "/v2/b/"), b"x").code == "BLOB_UPLOAD_UNKNOWN"
    assert client("GET", "/v2/a/blobs/uploads/../../x").status == 404


def test_an_upload_goes_on_in_another_process(client: Client, place: Place, tmp_path: Path) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    client("PATCH", location, LAYER[:50_000])
    with served(place.root) as other:
        second = other.client()
        assert second("GET", location).headers["range"] == "0-49999"
        assert second("PATCH", location, LAYER[50_000:], Content_Range=f"50000-{len(LAYER) - 1}").status == 202
        second.close()
    assert client("PUT", f"{location}?digest={sha256(LAYER)}").status == 201
    assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER


def test_a_late_piece_does_not_get_into_the_blob(client: Client, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    client("PATCH", location, LAYER)
    storage, spool = place.content.repositories.storage, place.content.repositories.spool
    adopt, late = storage.adopt, []

    async def pieces(adopted: asyncio.Event) -> AsyncIterator[bytes]:
        await adopted.wait()
        yield b"more"

    async def slowly(path: Path, key: str) -> None:
        adopted = asyncio.Event()
        late.append(asyncio.ensure_future(spool.get("a", location.rpartition("/")[2]).append(pieces(adopted))))
        await asyncio.sleep(0)  # it has the file open now
        await adopt(path, key)
        adopted.set()

    monkeypatch.setattr(storage, "adopt", slowly)
    assert client("PUT", f"{location}?digest={sha256(LAYER)}").status == 201
    with pytest.raises(Refusal) as refused:
        place.run(asyncio.wait_for(late[0], 30))
    assert refused.value.code == "BLOB_UPLOAD_UNKNOWN"
    assert client("GET", f"/v2/a/blobs/{sha256(LAYER)}").body == LAYER


def test_uploads_begin_without_the_last_slash_too(client: Client) -> None:
    assert client("POST", "/v2/a/blobs/uploads", b"").status == 202
    assert client("POST", f"/v2/a/blobs/uploads?digest={sha256(LAYER)}", LAYER).status == 201
    assert client("GET", "/v2/a/blobs/uploads").status == 405


def test_what_came_before_a_cut_stays(client: Client, place: Place) -> None:
    location = client("POST", "/v2/a/blobs/uploads/", b"").headers["location"]
    with socket.create_connection(("127.0.0.1", place.port)) as sock:
        sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(LAYER)}\r\n\r\n".encode())
        sock.sendall(LAYER[:70_000])
        sock.shutdown(socket.SHUT_WR)
        sock.recv(4096)
    deadline = time.monotonic() + 60
    while (status := client("GET", location).headers["range"]) != "0-69999":
        assert time.monotonic() < deadline, status
    answer = client("PATCH", location, LAYER[70_000:], Content_Range=f"70000-{len(LAYER) - 1}")
    assert answer.status == 202
    assert client("PUT", f"{location}?digest={sha256(LAYER)}").status == 201


def test_the_largest_blob(tmp_path: Path) -> None:
    with served(tmp_path / "registry", max_blob_bytes=1000) as place:
        client = place.client()
        client.push_blob("a", b"x" * 1000)
        answer = client("POST", f"/v2/a/blobs/uploads/?digest={ABSENT}", b"x" * 1001)
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        assert not list((place.root / "uploads").iterdir())
        client.close()


# -- blobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=1000-", 1000, None), ("bytes=-500", -500, None), ("bytes=10-1999999", 10, None)],
)
def test_a_part_of_a_blob(client: Client, wanted: str, first: int, end: int | None) -> None:
    digest = client.push_blob("a", LAYER)
    answer = client("GET", f"/v2/a/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.body) == (206, LAYER[first:end])
    start = first if first >= 0 else len(LAYER) + first
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(LAYER)}"


def test_parts_that_are_not_there(client: Client) -> None:
    digest = client.push_blob("a", LAYER)
    answer = client("GET", f"/v2/a/blobs/{digest}", Range=f"bytes={len(LAYER)}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(LAYER)}")
    assert client("GET", f"/v2/a/blobs/{digest}", Range="bytes=0-1,5-6").status == 200
    assert client("GET", f"/v2/a/blobs/{digest}", Range="bytes=0-1", If_Range='"other"').status == 200


def test_a_large_blob_is_sent_as_a_file(client: Client) -> None:
    large = LAYER * 100
    digest = client.push_blob("a", large)
    assert client("GET", f"/v2/a/blobs/{digest}").body == large
    assert client("GET", f"/v2/a/blobs/{digest}", Range="bytes=5000000-").body == large[5_000_000:]
    assert client("GET", f"/v2/a/blobs/{digest}", If_None_Match=f'"{digest}"').status == 304


def test_an_empty_blob(client: Client) -> None:
    digest = client.push_blob("a", b"")
    assert client("GET", f"/v2/a/blobs/{digest}").body == b""


def test_a_blob_belongs_to_the_repositories_that_have_it(client: Client) -> None:
    digest = client.push_blob("mine", LAYER)
    assert client("GET", f"/v2/other/blobs/{digest}").code == "BLOB_UNKNOWN"
    assert client("DELETE", f"/v2/other/blobs/{digest}").status == 404
    assert client("DELETE", f"/v2/mine/blobs/{digest}").status == 202
    assert client("GET", f"/v2/mine/blobs/{digest}").status == 404


def test_mounting(client: Client) -> None:
    digest = client.push_blob("source", LAYER)
    answer = client("POST", f"/v2/target/blobs/uploads/?mount={digest}&from=source", b"")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/target/blobs/{digest}")
    assert client("GET", f"/v2/target/blobs/{digest}").body == LAYER
    for query in (f"mount={digest}&from=nowhere", f"mount={ABSENT}&from=source", f"mount={ABSENT}"):
        answer = client("POST", f"/v2/third/blobs/uploads/?{query}", b"")
        assert answer.status == 202
        assert "location" in answer.headers


def test_mounting_from_wherever_it_is(client: Client) -> None:
    digest = client.push_blob("some/where", LAYER)
    assert client("POST", f"/v2/target/blobs/uploads/?mount={digest}", b"").status == 201
    assert client("GET", f"/v2/target/blobs/{digest}").body == LAYER


# -- manifests --------------------------------------------------------------------------------------------------------


def test_a_manifest_by_tag_and_digest(client: Client) -> None:
    digest = client.push_manifest("a/b", "1", layers=(LAYER,))
    for reference in ("1", digest):
        for _ in range(2):  # the second time from memory
            answer = client("GET", f"/v2/a/b/manifests/{reference}")
            assert (answer.status, answer.headers["content-type"]) == (200, media.OCI_MANIFEST)
            assert (sha256(answer.body), answer.headers["docker-content-digest"]) == (digest, digest)
            assert answer.headers["etag"] == f'"{digest}"'
            head = client("HEAD", f"/v2/a/b/manifests/{reference}")
            assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))
    assert client("GET", "/v2/a/b/manifests/1", If_None_Match=f'"{digest}"').status == 304


def test_what_was_given_from_memory_is_never_old(client: Client, place: Place) -> None:
    with served(place.root) as second_worker:
        other = second_worker.client()
        for round_ in range(20):
            digest = client.push_manifest("a", "latest", annotations={"round": str(round_)})
            for asked in (client, other, client, other):
                assert asked("GET", "/v2/a/manifests/latest").headers["docker-content-digest"] == digest
        assert other("DELETE", "/v2/a/manifests/latest").status == 202
        assert client("GET", "/v2/a/manifests/latest").status == 404
        assert client("GET", f"/v2/a/manifests/{digest}").status == 200
        assert other("DELETE", f"/v2/a/manifests/{digest}").status == 202
        assert client("GET", f"/v2/a/manifests/{digest}").status == 404
        other.close()


@pytest.mark.parametrize("kind", [media.DOCKER_MANIFEST, media.DOCKER_INDEX, media.OCI_MANIFEST, media.OCI_INDEX])
def test_kinds_of_manifests(client: Client, kind: str) -> None:
    child = client.push_manifest("a")
    document = json.loads(manifest()) | {"mediaType": kind}
    if kind in media.INDEXES:
        entry = {"mediaType": media.OCI_MANIFEST, "digest": child, "size": len(manifest())}
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
    assert client("PUT", "/v2/a/manifests/x", json.dumps(document).encode(), Content_Type=kind).status == 201
    answer = client("GET", "/v2/a/manifests/x")
    assert (answer.headers["content-type"], answer.document) == (kind, document)


def test_manifests_that_say_no_media_type(client: Client) -> None:
    client.push_manifest("a")
    document = json.loads(manifest())
    del document["mediaType"]
    assert client("PUT", "/v2/a/manifests/x", json.dumps(document).encode()).status == 201
    assert client("GET", "/v2/a/manifests/x").headers["content-type"] == media.OCI_MANIFEST


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"not json", media.OCI_MANIFEST),
        (b"[]", media.OCI_MANIFEST),
        (b'{"schemaVersion": 1, "fsLayers": []}', "application/vnd.docker.distribution.manifest.v1+json"),
        (manifest(), media.DOCKER_MANIFEST),
        (manifest(manifests=[]), media.OCI_MANIFEST),
        (manifest(mediaType="text/html"), "text/html"),
        (manifest(config={"mediaType": "x", "digest": "sha256:../../x", "size": 1}), media.OCI_MANIFEST),
        (b"[" * 100_000, media.OCI_MANIFEST),
    ],
)
def test_manifests_that_are_none(client: Client, body: bytes, content_type: str) -> None:
    client.push_blob("a", EMPTY)
    answer = client("PUT", "/v2/a/manifests/x", body, Content_Type=content_type)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


def test_a_manifest_needs_its_blobs(client: Client) -> None:
    client.push_blob("a", EMPTY)
    client.push_blob("other", LAYER)
    answer = client("PUT", "/v2/a/manifests/x", manifest((LAYER,)), Content_Type=media.OCI_MANIFEST)
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert answer.document["errors"][0]["detail"] == {"digest": sha256(LAYER)}
    assert client("GET", "/v2/a/manifests/x").status == 404


def test_foreign_layers_need_not_be_there(client: Client) -> None:
    foreign = {"mediaType": media.DOCKER_LAYER_FOREIGN + ".gzip", "digest": ABSENT, "size": 1, "urls": ["http://x/"]}
    client.push_manifest("a", "x")
    body = manifest().replace(b'"layers": []', b'"layers": ' + json.dumps([foreign]).encode())
    assert client("PUT", "/v2/a/manifests/x", body, Content_Type=media.OCI_MANIFEST).status == 201


def test_a_manifest_that_is_not_its_digest(client: Client) -> None:
    client.push_blob("a", EMPTY)
    answer = client("PUT", f"/v2/a/manifests/{ABSENT}", manifest(), Content_Type=media.OCI_MANIFEST)
    assert answer.code == "DIGEST_INVALID"


def test_a_manifest_that_is_too_large(client: Client) -> None:
    client.push_blob("a", EMPTY)
    body = manifest(annotations={"x": "y" * (4 << 20)})
    answer = client("PUT", "/v2/a/manifests/x", body, Content_Type=media.OCI_MANIFEST)
    assert (answer.status, answer.code) == (413, "MANIFEST_INVALID")


def test_deleting_a_tag_leaves_the_manifest(client: Client) -> None:
    digest = client.push_manifest("a", "1")
    client.push_manifest("a", "2")
    assert client("DELETE", "/v2/a/manifests/1").status == 202
    assert client("GET", "/v2/a/tags/list").document["tags"] == ["2"]
    assert client("GET", f"/v2/a/manifests/{digest}").status == 200
    assert client("DELETE", f"/v2/a/manifests/{digest}").status == 202
    assert client("GET", "/v2/a/tags/list").document["tags"] == []
    assert client("DELETE", f"/v2/a/manifests/{digest}").code in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")


def test_unknown_things(client: Client) -> None:
    assert client("GET", "/v2/nobody/manifests/x").code == "NAME_UNKNOWN"
    assert client("GET", "/v2/nobody/tags/list").code == "NAME_UNKNOWN"
    client.push_manifest("a", "1")
    answer = client("GET", "/v2/a/manifests/2")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert client("GET", f"/v2/a/manifests/{ABSENT}").code == "MANIFEST_UNKNOWN"


def test_damaged_content_is_not_served_as_a_manifest(client: Client, place: Place) -> None:
    digest = client.push_manifest("a", "1")
    data = next(path for path in place.root.rglob("data") if digest[7:] in str(path))
    data.write_bytes(data.read_bytes().replace(b"schemaVersion", b"schemaVersioN"))
    with served(place.root) as other:
        fresh = other.client()
        assert fresh("GET", "/v2/a/manifests/1").code == "MANIFEST_UNKNOWN"
        fresh.close()


@pytest.mark.parametrize("damage", [b"{}", b"schemaVersion"], ids=["cut", "changed"])
def test_pushing_a_damaged_manifest_again_heals_it(client: Client, place: Place, damage: bytes) -> None:
    digest = client.push_manifest("a", "1")
    data = next(path for path in place.root.rglob("data") if digest[7:] in str(path))
    whole = data.read_bytes()
    data.write_bytes(whole.replace(damage, damage.upper()) if damage in whole else damage)
    assert data.read_bytes() != whole
    with served(place.root) as other:
        fresh = other.client()
        assert fresh("GET", "/v2/a/manifests/1").status == 404
        fresh.push_manifest("a", "1")
        assert fresh("GET", "/v2/a/manifests/1").headers["docker-content-digest"] == digest
        fresh.close()
    assert data.read_bytes() == whole


def test_pushing_a_blob_again_that_was_cut_short_heals_it(client: Client, place: Place) -> None:
    digest = client.push_blob("a", LAYER)
    data = next(path for path in place.root.rglob("data") if digest[7:] in str(path))
    data.write_bytes(LAYER[:1000])
    client.push_blob("b", LAYER)
    assert client("GET", f"/v2/a/blobs/{digest}").body == LAYER


# -- lists ------------------------------------------------------------------------------------------------------------


def pages(client: Client, path: str, key: str) -> list[list[str]]:
    found = []
    while path:
        answer = client("GET", path)
        assert answer.status == 200
        found.append(answer.document[key])
        link = answer.headers.get("link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link.partition(">")[0][1:]
    return found


def test_tags_page_by_page(client: Client) -> None:
    tags = ["1", "2", "a", "b", "latest"]
    for tag in reversed(tags):
        client.push_manifest("some/name", tag)
    whole = client("GET", "/v2/some/name/tags/list")
    assert whole.document == {"name": "some/name", "tags": tags}
    assert "link" not in whole.headers
    assert pages(client, "/v2/some/name/tags/list?n=2", "tags") == [["1", "2"], ["a", "b"], ["latest"]]
    assert pages(client, "/v2/some/name/tags/list?n=5", "tags") == [tags]
    assert pages(client, "/v2/some/name/tags/list?last=a", "tags") == [["b", "latest"]]
    assert pages(client, "/v2/some/name/tags/list?n=0", "tags") == [[]]


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "99999999999999999999999"])
def test_bad_numbers(client: Client, n: str) -> None:
    client.push_manifest("a", "1")
    assert client("GET", f"/v2/a/tags/list?n={n}").code == "PAGINATION_NUMBER_INVALID"
    assert client("GET", f"/v2/_catalog?n={n}").code == "PAGINATION_NUMBER_INVALID"


def test_a_number_is_no_reason_to_take_memory(client: Client) -> None:
    client.push_manifest("a", "1")
    assert client("GET", "/v2/a/tags/list?n=2147483647").document["tags"] == ["1"]
    assert client("GET", "/v2/_catalog?n=2147483647").document["repositories"] == ["a"]


def test_the_catalog(client: Client) -> None:
    names = ["a", "a/b", "a/b/c", "a-b", "b/x", "b/y", "c.d/e"]
    for name in names:
        client.push_manifest(name, "1")
    client.push_blob("only/blobs", LAYER)
    found = pages(client, "/v2/_catalog", "repositories")
    assert len(found) == 1
    assert sorted(found[0]) == sorted(names)
    for n in (1, 2, 3, 7):
        assert [name for page in pages(client, f"/v2/_catalog?n={n}", "repositories") for name in page] == found[0]


# -- referrers --------------------------------------------------------------------------------------------------------


def refers(client: Client, subject: str, artifact_type: str, note: str) -> str:
    return client.push_manifest(
        "a",
        subject={"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 1},
        artifactType=artifact_type,
        annotations={"note": note},
    )


def test_referrers(client: Client) -> None:
    subject = client.push_manifest("a", "1")
    empty = client("GET", f"/v2/a/referrers/{subject}")
    assert (empty.status, empty.headers["content-type"]) == (200, media.OCI_INDEX)
    assert empty.document["manifests"] == []
    one = refers(client, subject, "text/one", "first")
    two = refers(client, subject, "text/two", "second")
    found = client("GET", f"/v2/a/referrers/{subject}")
    assert {item["digest"] for item in found.document["manifests"]} == {one, two}
    assert "oci-filters-applied" not in found.headers
    filtered = client("GET", f"/v2/a/referrers/{subject}?artifactType=text/two")
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    (item,) = filtered.document["manifests"]
    assert (item["digest"], item["artifactType"], item["annotations"]) == (two, "text/two", {"note": "second"})
    assert client("DELETE", f"/v2/a/manifests/{two}").status == 202
    assert len(client("GET", f"/v2/a/referrers/{subject}").document["manifests"]) == 1
    assert client("GET", "/v2/a/referrers/x").code == "DIGEST_INVALID"


def test_a_referrer_that_is_larger_than_a_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = client.push_manifest("a", "1")
    all_of_them = {refers(client, subject, "text/one", note) for note in ("first", "second")}
    monkeypatch.setattr(manifests, "_MAX_REFERRERS_BYTES", 1024)
    first = client("GET", f"/v2/a/referrers/{subject}")
    next_page = first.headers["link"].partition("<")[2].partition(">")[0]
    pages = [first.document["manifests"], client("GET", next_page).document["manifests"]]
    assert [len(page) for page in pages] == [1, 1]
    assert {page[0]["digest"] for page in pages} == all_of_them


def test_a_subject_is_named_and_need_not_be_there(client: Client) -> None:
    client.push_blob("a", EMPTY)
    body = manifest(subject={"mediaType": media.OCI_MANIFEST, "digest": ABSENT, "size": 5})
    answer = client("PUT", "/v2/a/manifests/x", body, Content_Type=media.OCI_MANIFEST)
    assert (answer.status, answer.headers["oci-subject"]) == (201, ABSENT)
    (item,) = client("GET", f"/v2/a/referrers/{ABSENT}").document["manifests"]
    assert item["artifactType"] == media.OCI_CONFIG


def test_referrers_that_clients_listed_themselves(client: Client, place: Place) -> None:
    subject = client.push_manifest("a", "1")
    referring = refers(client, subject, "text/one", "old")
    # as a registry stored it that knew no referrers
    next(place.root.rglob("_manifests/referrers/*/*/*")).unlink()
    entry = {"mediaType": media.OCI_MANIFEST, "digest": referring, "size": 1}
    index = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}).encode()
    tag = subject.replace(":", "-")
    assert client("PUT", f"/v2/a/manifests/{tag}", index, Content_Type=media.OCI_INDEX).status == 201
    (item,) = client("GET", f"/v2/a/referrers/{subject}").document["manifests"]
    assert (item["digest"], item["artifactType"]) == (referring, "text/one")


# -- names and rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "a/../b",
        "a//b",
        "A",
        "_layers",
        "a/_manifests",
        "a b",
        ".a",
        "a/",
        "a%00b",
        "%2e%2e",
        "é",
        "x" * 256,
    ],
)
def test_names_that_are_none(client: Client, place: Place, name: str) -> None:
    from urllib.parse import quote

    path = quote(name, safe="/%.")
    for method, rest in (
        ("GET", "manifests/x"),
        ("POST", "blobs/uploads/"),
        ("GET", "tags/list"),
        ("PUT", "manifests/x"),
    ):
        answer = client(method, f"/v2/{path}/{rest}", b"" if method != "GET" else None)
        assert answer.status in (400, 404), (name, answer)
    assert files(place) == set()


@pytest.mark.parametrize("tag", ["..", "-x", ".x", "a:b", "x" * 129, "a%2fb"])
def test_tags_that_are_none(client: Client, tag: str) -> None:
    client.push_blob("a", EMPTY)
    answer = client("PUT", f"/v2/a/manifests/{tag}", manifest(), Content_Type=media.OCI_MANIFEST)
    assert answer.status in (400, 404)


def test_a_read_only_registry(tmp_path: Path) -> None:
    with served(tmp_path / "registry") as place:
        client = place.client()
        digest = client.push_manifest("a", "1", layers=(LAYER,))
        client.close()
    with served(tmp_path / "registry", read_only=True) as place:
        client = place.client()
        assert client("GET", "/v2/a/manifests/1").status == 200
        for method, path in (
            ("PUT", "manifests/2"), ("DELETE", f"manifests/{digest}"), ("POST", "blobs/uploads/"),
            ("DELETE", f"blobs/{sha256(LAYER)}"),
        ):  # fmt: skip
            answer = client(method, f"/v2/a/{path}", b"")
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")
        client.close()


def test_deletions_can_be_forbidden(tmp_path: Path) -> None:
    with served(tmp_path / "registry", no_delete=True) as place:
        client = place.client()
        digest = client.push_manifest("a", "1")
        assert client("DELETE", f"/v2/a/manifests/{digest}").status == 405
        client.close()


def test_a_quota(tmp_path: Path) -> None:
    with served(tmp_path / "registry", quota_bytes=5000) as place:
        client = place.client()
        client.push_blob("a", b"x" * 4000)
        answer = client("POST", f"/v2/a/blobs/uploads/?digest={sha256(b'y' * 2000)}", b"y" * 2000)
        assert (answer.status, answer.code) == (403, "DENIED")
        place.collect(grace_s=-1)
        client.push_blob("a", b"y" * 2000)
        client.close()


def test_a_tag_that_another_registry_made_is_deleted_with_its_history(client: Client, place: Place) -> None:
    digests = [client.push_manifest("a", tag, annotations={"tag": tag}) for tag in ("1", "2", "3")]
    for tag in ("1", "2"):
        for digest in (*digests, ABSENT):
            link = place.root / layout.tag_index("a", tag) / digest.replace(":", "/") / "link"
            link.parent.mkdir(parents=True)
            link.write_text(digest)
    assert client("DELETE", "/v2/a/manifests/1").status == 202
    assert client("GET", "/v2/a/tags/list").document["tags"] == ["2", "3"]
    assert client("DELETE", f"/v2/a/manifests/{digests[1]}").status == 202
    assert client("GET", "/v2/a/tags/list").document["tags"] == ["3"]
