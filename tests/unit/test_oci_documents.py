"""Digests, manifests, configs and platforms: what is accepted, what is refused, and why."""

from __future__ import annotations

import json

import pytest

from corten.errors import InvalidParameter
from corten.oci import config, descriptor, digest, documents, manifest, platform

HEX = "b" * 64
DIGEST = f"sha256:{HEX}"
LAYER = {"mediaType": descriptor.OCI_LAYER, "digest": DIGEST, "size": 10}
CONFIG = {"mediaType": descriptor.OCI_CONFIG, "digest": DIGEST, "size": 10}


def encoded(**fields) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "md5:" + "a" * 32,
        HEX,
        "",
        None,
        5,
        f"{DIGEST}\n",
        f"sha512:{HEX}",
    ],
)
def test_only_digests_are_digests(text):
    with pytest.raises(InvalidParameter, match="invalid digest format"):
        digest.parse_digest(text)


def test_chain_id_as_the_specification_computes_them():
    first, second = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    assert digest.chain_id("", first) == first
    assert digest.chain_id(first, second) == digest.digest_of(f"{first} {second}".encode())


def test_manifests_and_indexes():
    found = manifest.parse_document(encoded(config=CONFIG, layers=[LAYER, LAYER]))
    assert isinstance(found, manifest.Manifest)
    assert found.is_image
    assert len(found.layers) == 2
    docker = encoded(
        mediaType=descriptor.DOCKER_MANIFEST, config={**CONFIG, "mediaType": descriptor.DOCKER_CONFIG}, layers=[]
    )
    assert manifest.parse_document(docker, descriptor.DOCKER_MANIFEST).is_image
    index = manifest.parse_document(
        encoded(manifests=[{**CONFIG, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}])
    )
    assert isinstance(index, manifest.Index)
    assert str(index.manifests[0].platform) == "linux/arm64"
    artifact = encoded(config={**CONFIG, "mediaType": "application/vnd.oci.empty.v1+json"}, layers=[LAYER])
    assert not manifest.parse_document(artifact).is_image


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [
        ({"manifests": [], "layers": []}, ""),
        ({"manifests": [], "config": CONFIG}, ""),
        ({"mediaType": descriptor.OCI_INDEX, "config": CONFIG, "layers": []}, ""),
        ({"mediaType": descriptor.OCI_MANIFEST, "manifests": []}, ""),
        ({"mediaType": descriptor.OCI_MANIFEST, "config": CONFIG, "layers": []}, descriptor.OCI_INDEX),
        ({"config": CONFIG, "layers": []}, descriptor.OCI_INDEX),
        ({"manifests": []}, descriptor.OCI_MANIFEST),
        ({"mediaType": "text/plain", "config": CONFIG, "layers": []}, ""),
        ({"fsLayers": [], "config": CONFIG}, ""),
        ({"schemaVersion": 1, "config": CONFIG, "layers": []}, ""),
        ({"config": CONFIG, "layers": [LAYER] * 128}, ""),
        ({"config": CONFIG, "layers": "x"}, ""),
        ({"config": CONFIG, "layers": [{**LAYER, "size": -1}]}, ""),
        ({"config": CONFIG, "layers": [{**LAYER, "size": True}]}, ""),
        ({"config": CONFIG, "layers": [{**LAYER, "size": "10"}]}, ""),
        ({"config": CONFIG, "layers": [{**LAYER, "digest": "sha256:../x"}]}, ""),
        ({"config": CONFIG, "layers": [{**LAYER, "annotations": {"a": 1}}]}, ""),
        ({"config": [], "layers": []}, ""),
        ({"layers": []}, ""),
    ],
)
def test_ambiguous_and_malformed_manifests_are_refused(fields, media_type):
    """CVE-2021-41190: one document, two meanings."""
    with pytest.raises(InvalidParameter):
        manifest.parse_document(encoded(**fields), media_type)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"a": 1}' + b" " * (5 << 20),
        b'{"a": "\xff"}',
    ],
)
def test_hostile_json_is_refused(content):
    with pytest.raises(InvalidParameter) as caught:
        documents.load_object(content, "manifest")
    assert "\n" not in str(caught.value)


def minimal(**fields) -> bytes:
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **fields}
    ).encode()


def test_configs():
    run = {"Env": ["A=1"], "Cmd": None, "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "Unknown": [1, {"deep": True}]}
    parsed = config.parse_config(minimal(config=run, history=[{"created_by": "x"}, {"empty_layer": True}]))
    assert config.diff_ids(parsed) == [DIGEST]
    assert parsed["config"]["Unknown"] == [1, {"deep": True}]
    config.check_layer_count(parsed, 1)
    with pytest.raises(InvalidParameter, match="invalid manifest, layers length mismatch: expected 1, got 2"):
        config.check_layer_count(parsed, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"rootfs": None},
        {"rootfs": {"type": "other", "diff_ids": []}},
        {"rootfs": {"diff_ids": ["sha256:x"]}},
        {"rootfs": {"diff_ids": [f"sha512:{'a' * 128}"]}},
        {"rootfs": {"diff_ids": [DIGEST] * 128}},
        {"rootfs": {"diff_ids": {}}},
        {"architecture": 5},
        {"created": []},
        {"history": {}},
        {"history": ["x"]},
        {"history": [{"empty_layer": "yes"}]},
        {"history": [{}] * 5000},
        {"config": []},
        {"config": {"Env": "A=1"}},
        {"config": {"Cmd": [1]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Volumes": ["/v"]}},
        {"config": {"Healthcheck": {"Interval": "10s"}}},
        {"config": {"Healthcheck": {"Test": "x"}}},
        {"config": {"WorkingDir": {}}},
    ],
)
def test_configs_of_wrong_types_are_refused(fields):
    with pytest.raises(InvalidParameter, match=r"invalid image config|max depth exceeded|invalid digest"):
        config.parse_config(minimal(**fields))


def test_times():
    assert config.parse_time("2023-11-14T22:13:20.123456789Z") == 1_700_000_000_123_456_789
    assert config.parse_time("2023-11-14T23:13:20+01:00") == 1_700_000_000 * 10**9
    assert config.format_time(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert config.format_time(1_700_000_000 * 10**9) == "2023-11-14T22:13:20Z"
    for text in ("0001-01-01T00:00:00Z", "yesterday", "", "2023-13-45T99:99:99Z", "9" * 30):
        assert config.parse_time(text) is None
    assert config.parse_time(config.now()) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AArch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("linux/i386", "linux/386"),
        ("arm64", "linux/arm64"),
    ],
)
def test_platforms(text, expected):
    assert str(platform.parse_platform(text)) == expected


def test_platform_of_this_machine_and_ranks():
    here = platform.this_machine()
    assert platform.parse_platform("linux") == here
    amd64, arm64, i386 = (platform.parse_platform(f"linux/{name}") for name in ("amd64", "arm64", "386"))
    assert amd64.rank(amd64) == 0
    assert i386.rank(amd64) > 0
    assert arm64.rank(amd64) < 0
    assert platform.parse_platform("windows/amd64").rank(amd64) < 0
    assert platform.parse_platform("linux/arm/v6").rank(platform.parse_platform("linux/arm/v7")) == 1
    assert platform.parse_platform("linux/arm/v7").rank(platform.parse_platform("linux/arm/v6")) == -1
    for text in ("a/b/c/d", "", "linux//v7", "linux/am d64"):
        with pytest.raises(InvalidParameter):
            platform.parse_platform(text)
    with pytest.raises(InvalidParameter):
        platform.from_document({"architecture": 5})
