"""What stands beside an image: annotations, provenance, the packages it holds; and the history that they come from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corten.build.assembly import Part, assemble, read_annotations
from corten.build.history import CANCELED, COMPLETED, RUNNING, History, Record
from corten.build.packing import packer
from corten.build.provenance import PREDICATE, provenance
from corten.build.sbom import document, packages
from corten.build.tree import RootTree
from corten.errors import InvalidParameter, NotFound
from corten.image.compression import decompressed
from corten.image.pipes import iterated
from corten.oci import descriptor as media
from corten.oci.descriptor import Descriptor
from corten.oci.digest import digest_of
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.platform import parse_platform

AMD, ARM = parse_platform("linux/amd64"), parse_platform("linux/arm64")
LAYER = Descriptor(media.DOCKER_LAYER + ".gzip", digest_of(b"layer"), 5)


def part(platform=AMD, predicates=()):
    config = json.dumps({"os": "linux", "architecture": platform.architecture}).encode()
    return Part(config, [digest_of(b"tar")], [LAYER], platform, list(predicates))


def test_a_single_image_is_a_manifest():
    made = assemble([part()], [], read_annotations(["a=b", "manifest-descriptor:c=d"]), oci=True)
    manifest = json.loads(made.manifests[-1][1])
    assert manifest["mediaType"] == media.OCI_MANIFEST
    assert manifest["layers"][0]["mediaType"] == media.OCI_LAYER + "+gzip"
    assert manifest["annotations"] == {"a": "b"}
    assert made.top.annotations == {"c": "d"}
    docker = assemble([part()], [], [], oci=False)
    assert json.loads(docker.manifests[-1][1])["layers"][0]["mediaType"] == media.DOCKER_LAYER + ".gzip"


def test_attestations_are_manifests_in_an_index():
    made = assemble(
        [part(AMD, [(PREDICATE, {"x": 1})]), part(ARM)], ["app:1"], read_annotations(["index:i=j"]), oci=True
    )
    index = parse_document(made.manifests[-1][1])
    assert isinstance(index, Index)
    assert [str(item.platform) for item in index.manifests] == ["linux/amd64", "linux/arm64", "unknown/unknown"]
    assert json.loads(made.manifests[-1][1])["annotations"] == {"i": "j"}
    attested = index.manifests[2]
    assert attested.annotations["vnd.docker.reference.type"] == "attestation-manifest"
    assert attested.annotations["vnd.docker.reference.digest"] == index.manifests[0].digest
    contents = {descriptor.digest: content for descriptor, content in made.manifests}
    manifest = parse_document(contents[attested.digest])
    assert isinstance(manifest, Manifest)
    statement = json.loads(made.documents[manifest.layers[0].digest][1])
    assert statement["predicate"] == {"x": 1}
    assert statement["subject"] == [
        {"name": "pkg:docker/app@1?platform=linux%2Famd64",
         "digest": {"sha256": index.manifests[0].digest.partition(":")[2]}}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [("manifest", None, "a", "b")]),
        ("a:b=c:d=e", [("manifest", None, "a:b", "c:d=e")]),
        ("index:a=b", [("index", None, "a", "b")]),
        ("manifest[linux/arm64]:a=b", [("manifest", ARM, "a", "b")]),
        ("index,manifest:a=b", [("index", None, "a", "b"), ("manifest", None, "a", "b")]),
    ],
)
def test_annotations_are_read(text, expected):
    found = [(item.kind, item.platform, item.name, item.value) for item in read_annotations([text])]
    assert found == expected


def test_annotations_that_have_no_place():
    with pytest.raises(InvalidParameter, match="NAME=VALUE"):
        read_annotations(["nothing"])
    with pytest.raises(InvalidParameter, match="single platform"):
        assemble([part()], [], read_annotations(["index:a=b"]), oci=True)
    with pytest.raises(InvalidParameter, match="OCI media types"):
        assemble([part()], [], read_annotations(["a=b"]), oci=False)
    made = assemble([part(AMD), part(ARM)], [], read_annotations(["manifest[linux/arm64]:a=b"]), oci=True)
    assert ["annotations" in json.loads(content) for _, content in made.manifests] == [False, True, False]


DPKG = """Package: base-files
Status: install ok installed
Maintainer: A B <a@b>
Architecture: amd64
Version: 12.4+deb12u1
Description: words
 Package: not-a-package
 more

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Source: glibc (2.36-9)
Architecture: amd64
Version: 2.36-9
"""
APK = "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:ld\n\nP:busybox\nV:1.36.1-r29\nA:x86_64\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    tree = RootTree(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
    yield tmp_path, tree
    tree.close()


def test_packages_of_debian(root):
    place, tree = root
    (place / "var/lib/dpkg/status").write_text(DPKG)
    (place / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    assert [(item.name, item.version) for item in packages(tree)[0]] == [
        ("base-files", "12.4+deb12u1"), ("libc6", "2.36-9"),
    ]  # fmt: skip
    made = document(tree, "app:1", 10**18)
    assert made["spdxVersion"] == "SPDX-2.3"
    assert made["creationInfo"]["created"] == "2001-09-09T01:46:40Z"
    found = {item["name"]: item for item in made["packages"]}
    assert found["libc6"]["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc"
    )
    assert len(made["relationships"]) == len(made["packages"]) == 3


def test_packages_of_alpine_and_none(root):
    place, tree = root
    assert packages(tree) == ([], "")
    (place / "lib/apk/db").mkdir(parents=True)
    (place / "lib/apk/db/installed").write_text(APK)
    assert [(item.kind, item.name, item.license) for item in packages(tree)[0]] == [
        ("apk", "busybox", ""), ("apk", "musl", "MIT"),
    ]  # fmt: skip
    assert document(None, "empty", 0)["packages"][0]["name"] == "empty"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_blobs_are_the_same_bytes_each_time(compression):
    pieces = [b"abc" * 1000, b"d" * 3_000_000]
    whole = b"".join(pieces)
    first = b"".join(packer(compression, None)(pieces))
    assert b"".join(packer(compression, None)([whole])) == first
    _, plain = decompressed(iterated([first]))
    assert b"".join(iter(plain, b"")) == whole
    for bad in ((compression, 99), ("lzma", None)):
        with pytest.raises(InvalidParameter):
            packer(*bad)


def test_the_history_of_builds(tmp_path: Path):
    history = History(tmp_path / "builds.db")
    record = Record(name="app", started=10, context="file:///x", arguments={"A": "secret"}, materials={"m": "sha256:1"})
    history.put(record)
    assert history.get("").status == RUNNING
    record.status, record.completed = COMPLETED, 20
    log = [{"step": 1, "name": "1/1 FROM x", "stage": "0", "started": 11}, {"step": 1, "completed": 12, "cached": True}]
    history.put(record, log)
    later = Record(started=30)
    history.put(later)
    assert [item.id for item in history.all()] == [later.id, record.id]
    assert history.log(record.id[:8]) == log
    history.close()
    history = History(tmp_path / "builds.db")
    assert history.get(later.id).status == CANCELED, "the daemon's end has interrupted it"
    found = history.get(record.id)
    assert found == record
    with pytest.raises(NotFound):
        history.get("no-such")
    with pytest.raises(NotFound):
        history.remove("' OR 1=1 --")
    history.remove(later.id)
    assert [item.id for item in history.all()] == [record.id]
    least, most = (json.dumps(provenance(found, mode, log)) for mode in ("min", "max"))
    assert "secret" not in least
    assert "secret" in most
    assert json.loads(most)["buildDefinition"]["internalParameters"]["steps"][0]["cached"] is True
    assert json.loads(least)["buildDefinition"]["resolvedDependencies"] == [{"uri": "m", "digest": {"sha256": "1"}}]
    history.close()
