"""Images from registry to registry, and lists that are made of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import described, sha
from registry_place import QUICK
from tar_builder import Tar
from test_cli_main import run

from corten.errors import DataLoss, Forbidden, NotFound, Unavailable
from corten.oci import descriptor as media
from corten.oci import reference
from corten.oci.platform import parse_platform
from corten.registry.auth import ANONYMOUS, Credentials
from corten.registry.copying import Copy
from corten.registry.registry import Registry, Settings

BASE = Tar().dir("bin").file("bin/sh", b"#!" * 3000, mode=0o755).bytes()
BIG = Tar().file("noise", bytes((i * i * 31) % 251 for i in range(500_000)) * 4).bytes()


def pack(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


@pytest.fixture
def source():
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def target():
    made = FakeRegistry("127.0.0.2")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def multi(registry: FakeRegistry) -> str:
    entries = []
    for machine in ("amd64", "arm64"):
        digest = registry.put_image("app", [BASE, Tar().file("which", machine.encode()).bytes()], machine, pack=pack,
                                    architecture=machine)  # fmt: skip
        content = registry.manifests[("app", digest)][0]
        entries.append(described(content, media.OCI_MANIFEST, platform={"os": "linux", "architecture": machine}))
    index = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    return registry.put_manifest("app", index, "1")


def copied(one: str, other: str, *, platform: str = "", keys=(ANONYMOUS, ANONYMOUS)) -> str:
    registry = Registry(Settings(**QUICK))
    transport = registry.transport()
    try:
        copy = Copy(registry, transport, reference.parse(one), reference.parse(other), keys, lambda _: None)
        return copy.run(parse_platform(platform) if platform else None).digest
    finally:
        transport.close()


def test_an_index_with_everything_below_it(source, target):
    digest = multi(source)
    assert copied(f"{source.netloc}/app:1", f"{target.netloc}/mirror/app:2") == digest
    assert target.manifests[("mirror/app", "2")] == source.manifests[("app", "1")]
    assert target.blobs["mirror/app"] == source.blobs["app"]
    target.requests.clear()
    copied(f"{source.netloc}/app:1", f"{target.netloc}/mirror/app:2")
    assert not target.asked("PATCH|POST")


def test_one_platform_alone(source, target):
    multi(source)
    digest = copied(f"{source.netloc}/app:1", f"{target.netloc}/app:2", platform="linux/arm64")
    assert digest == sha(source.manifests[("app", "arm64")][0])
    with pytest.raises(NotFound, match="no matching manifest"):
        copied(f"{source.netloc}/app:1", f"{target.netloc}/app:2", platform="linux/s390x")


def test_within_a_registry_blobs_are_mounted(source):
    digest = source.put_image("app", [BASE], "1", pack=pack)
    assert copied(f"{source.netloc}/app@{digest}", f"{source.netloc}/other:1") == digest
    assert not source.asked("PATCH")
    assert source.blobs["other"] == source.blobs["app"]


def test_artifacts_are_copied_like_images(source, target):
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": described(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [described(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }
    for content in (b"{}", b"chart"):
        source.put_blob("chart", content)
    digest = source.put_manifest("chart", json.dumps(document).encode(), "1")
    assert copied(f"{source.netloc}/chart:1", f"{target.netloc}/chart:1") == digest
    assert target.blobs["chart"][sha(b"chart")] == b"chart"


def test_wrong_bytes_do_not_arrive(source, target):
    source.put_image("app", [BIG], "1", pack=pack)
    wrong = bytearray(pack(BIG))
    wrong[5000] ^= 1
    source.blobs["app"][sha(pack(BIG))] = bytes(wrong)
    with pytest.raises(DataLoss, match="expected digest"):
        copied(f"{source.netloc}/app:1", f"{target.netloc}/app:1")
    assert not target.manifests
    assert sha(pack(BIG)) not in target.blobs.get("app", {})


def test_cuts_on_both_sides(source, target):
    source.put_image("app", [BIG], "1", pack=pack)
    packed = pack(BIG)
    source.on(f"GET .*/blobs/{sha(packed)}", lambda exchange: exchange.cut(200, len(packed), packed[:7000]), times=1)

    def half(exchange):
        upload = target.uploads[exchange.seen.path.rpartition("/")[2]]
        for piece in exchange.pieces():
            upload.data += piece
            if len(upload.data) > len(packed) // 3:
                break
        exchange.reset()

    target.on("PATCH", half, times=1)
    copied(f"{source.netloc}/app:1", f"{target.netloc}/app:1")
    assert target.blobs["app"][sha(packed)] == packed


def test_each_side_gets_its_own_secret(source, target):
    source.put_image("app", [BASE], "1", pack=pack)
    source.basic, source.passwords = True, {"me": "one"}
    target.basic, target.passwords = True, {"me": "two"}
    keys = (Credentials("me", "one"), Credentials("me", "two"))
    copied(f"{source.netloc}/app:1", f"{target.netloc}/app:1", keys=keys)
    assert source.secrets == {keys[0].basic}
    assert target.secrets == {keys[1].basic}
    with pytest.raises(NotFound, match="pull access denied"):
        copied(f"{source.netloc}/app:1", f"{target.netloc}/app:1", keys=keys[::-1])
    target.basic = False
    target.on("PUT .*/manifests", lambda exchange: exchange.error(403, "DENIED", "read only"))
    with pytest.raises(Forbidden, match="read only"):
        copied(f"{source.netloc}/app:1", f"{target.netloc}/app:9", keys=keys)
    with pytest.raises(Unavailable, match="connection refused"):
        copied(f"{source.netloc}/app:1", "127.0.0.1:1/app:1", keys=keys)


# -- the commands -----------------------------------------------------------------------------------------------------


def good(*words: str) -> str:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_copy_command(source, target):
    digest = multi(source)
    out = good("copy", "-q", f"{source.netloc}/app:1", f"{target.netloc}/app:2")
    assert out == f"{target.netloc}/app:2@{digest}\n"
    assert run("copy", f"{source.netloc}/app:1", f"{target.netloc}/app@{digest}").returncode == 1
    assert "manifest unknown" in run("copy", f"{source.netloc}/none:1", f"{target.netloc}/app:2").stderr


def test_inspecting(source):
    multi(source)
    assert json.loads(good("manifest", "inspect", f"{source.netloc}/app:1"))["mediaType"] == media.OCI_INDEX
    single = json.loads(good("manifest", "inspect", "-v", f"{source.netloc}/app:arm64"))
    assert single["Descriptor"]["platform"] == {"architecture": "arm64", "os": "linux"}
    assert single["OCIManifest"]["layers"]
    listed = json.loads(good("manifest", "inspect", "--verbose", f"{source.netloc}/app:1"))
    assert [item["Descriptor"]["platform"]["architecture"] for item in listed] == ["amd64", "arm64"]
    done = run("manifest", "inspect", f"{source.netloc}/app:9")
    assert (done.returncode, "manifest unknown" in done.stderr) == (1, True)


def test_a_list_is_made_annotated_and_pushed(source, config):
    multi(source)
    one, other, name = (f"{source.netloc}/{rest}" for rest in ("app:amd64", "app:arm64", "all/app:1"))
    assert good("manifest", "create", name, one) == f"Created manifest list {name}\n"
    assert "no --amend flag" in run("manifest", "create", name, other).stderr
    good("manifest", "create", "--amend", name, other)
    good("manifest", "annotate", "--arch", "arm", "--variant", "v6", name, f"{source.netloc}/app@{_digest(source)}")
    shown = json.loads(good("manifest", "inspect", name))
    assert [item["platform"]["architecture"] for item in shown["manifests"]] == ["amd64", "arm"]
    assert json.loads(good("manifest", "inspect", name, one))["digest"] == shown["manifests"][0]["digest"]
    digest = good("manifest", "push", "--purge", name).strip()
    body, kind = source.manifests[("all/app", "1")]
    assert (sha(body), kind) == (digest, media.OCI_INDEX)
    assert {("all/app", item["digest"]) for item in json.loads(body)["manifests"]} <= set(source.manifests)
    assert not source.asked("PATCH")  # mounted
    for words in (("push", name), ("rm", name), ("annotate", name, one), ("inspect", name, one)):
        assert f"No such manifest: {name}" in run("manifest", *words).stderr
    assert list((config / "manifest-lists").iterdir()) == []


def _digest(registry: FakeRegistry) -> str:
    return sha(registry.manifests[("app", "arm64")][0])


def test_a_list_takes_no_list_and_no_name_leads_out(source, config):
    multi(source)
    name = f"{source.netloc}/all:1"
    assert "is a manifest list" in run("manifest", "create", name, f"{source.netloc}/app:1").stderr
    assert "invalid reference format" in run("manifest", "rm", "../../x").stderr
    assert not (config / "manifest-lists").exists()
