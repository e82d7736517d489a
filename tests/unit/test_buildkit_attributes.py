"""What clients ask of the frontend and of exporters, typed; what is refused, and why."""

from __future__ import annotations

from typing import Any

import pytest

from corten.api.buildkit.attributes import Attestations, Order, read_order
from corten.api.buildkit.exporters import check_outputs, read_outputs
from corten.api.buildkit.filters import Filters
from corten.dockerapi.container import Ulimit
from corten.errors import InvalidParameter


def order(**attributes: str) -> Order:
    return read_order("dockerfile.v0", {name.replace("_", "-"): value for name, value in attributes.items()})


def test_nothing_asked_is_a_build_of_the_local_dockerfile() -> None:
    found = order()
    assert found.query.dockerfile == "Dockerfile"
    assert (found.context, found.context_name, found.dockerfile_name) == ("", "context", "dockerfile")
    assert not found.platforms
    assert not found.is_index
    assert not found.query.no_cache


def test_arguments_labels_and_limits() -> None:
    found = read_order(
        "dockerfile.v0",
        {
            "build-arg:A": "1",
            "build-arg:HTTP_PROXY": "http://p",
            "label:x.y": "z",
            "target": "last",
            "filename": "sub/File",
            "add-hosts": "one=1.2.3.4,two=::1",
            "ulimit": "nofile=10:20,core=0",
            "shm-size": "1024",
            "cgroup-parent": "some",
            "memory": "1048576",
            "force-network-mode": "host",
            "image-resolve-mode": "pull",
            "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "inside",
            "build-arg:BUILDKIT_CACHE_MOUNT_NS": "apart",
            "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1",
            "vcs:source": "https://example/x.git",
        },
    )
    query = found.query
    assert query.arguments == {"A": "1", "HTTP_PROXY": "http://p"}
    assert query.labels == {"x.y": "z"}
    assert (query.target, query.dockerfile) == ("last", "sub/File")
    assert query.extra_hosts == ("one:1.2.3.4", "two:::1")
    assert query.ulimits == (Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=0, hard=0))
    assert (query.shm_size, query.memory, query.cgroup_parent) == (1024, 1 << 20, "some")
    assert (query.network, query.pull) == ("host", True)
    assert (found.hostname, found.cache_namespace, found.keep_git) == ("inside", "apart", True)


def test_no_cache_of_all_or_of_some_stages() -> None:
    assert order(no_cache="").query.no_cache
    some = order(no_cache="one,two")
    assert not some.query.no_cache
    assert some.fresh_stages == ("one", "two")


def test_platforms_make_an_index_when_there_are_several_or_one_is_wanted() -> None:
    assert not order(platform="linux/amd64").is_index
    two = order(platform="linux/amd64,linux/arm64/v8")
    assert [str(item) for item in two.platforms] == ["linux/amd64", "linux/arm64"]
    assert two.is_index
    assert order(multi_platform="true").is_index
    assert read_order("dockerfile.v0", {"build-arg:BUILDKIT_MULTI_PLATFORM": "1"}).is_index


def test_contexts_and_their_sessions() -> None:
    found = read_order(
        "dockerfile.v0",
        {
            "context": "https://example/a.git#main",
            "context:base": "docker-image://busybox",
            "context:src::linux/arm64": "local:src",
            "local-sessionid:src": "abc",
            "dockerfilekey": "df",
        },
    )
    assert found.context == found.query.remote == "https://example/a.git#main"
    assert found.named == {"base": "docker-image://busybox", "src::linux/arm64": "local:src"}
    assert found.sessions == {"src": "abc"}
    assert (found.dockerfile_name, found.has_dockerfile_name) == ("df", True)


def test_attestations() -> None:
    def read(**texts: str) -> Attestations:
        return read_order("dockerfile.v0", {f"attest:{name}": text for name, text in texts.items()}).attestations

    assert read() == Attestations()
    assert read(provenance="mode=min,inline-only=true") == Attestations("min", True, False)
    assert read(provenance="mode=max,version=v1", sbom="") == Attestations("max", False, True)
    assert read(provenance="disabled=true") == Attestations("", False, False)
    with pytest.raises(InvalidParameter, match=r"version v0\.2"):
        read(provenance="version=v0.2")
    with pytest.raises(InvalidParameter, match="unknown attestation type"):
        read(other="")


def test_caches_in_both_forms() -> None:
    text = '[{"Type":"registry","Attrs":{"ref":"a"}},{"Type":"local","Attrs":{"src":"b"}}]'
    found = read_order("dockerfile.v0", {"cache-imports": text, "cache-from": "c,d"}).caches
    assert [(entry.type, dict(entry.attributes)) for entry in found] == [
        ("registry", {"ref": "a"}), ("local", {"src": "b"}), ("registry", {"ref": "c"}), ("registry", {"ref": "d"}),
    ]  # fmt: skip


def test_the_standard_frontend_of_any_version_is_built_in() -> None:
    attributes = {"source": "registry.example/mirror/docker/dockerfile:1.9", "cmdline": "docker/dockerfile:1.9"}
    assert read_order("gateway.v0", attributes).query.dockerfile == "Dockerfile"
    for source in ("", "example/other", "docker/dockerfile-else"):
        with pytest.raises(InvalidParameter, match="frontend"):
            read_order("gateway.v0", {"source": source})
    with pytest.raises(InvalidParameter, match=r"other\.v1"):
        read_order("other.v1", {})


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"unheard-of": "x"}, "unheard-of"),
        ({"image-resolve-mode": "maybe"}, "image-resolve-mode"),
        ({"force-network-mode": "container:x"}, "netmode"),
        ({"add-hosts": "one"}, "key-value"),
        ({"add-hosts": "one=there"}, "IP"),
        ({"ulimit": "nofile"}, "ulimit"),
        ({"ulimit": "nofile=x"}, "nofile"),
        ({"shm-size": "large"}, "shm-size"),
        ({"platform": "li nux"}, "li nux"),
        ({"multi-platform": "perhaps"}, "multi-platform"),
        ({"platform": "linux/amd64,linux/arm64", "multi-platform": "false"}, "multiple"),
        ({"cache-imports": "{"}, "cache-imports"),
        ({"cache-imports": "[1]"}, "cache-imports"),
        ({"frontend.caps": "moby.buildkit.frontend.unheard"}, "capability"),
        ({"attest:provenance": "mode=some"}, "mode"),
        ({"attest:sbom": "unheard=1"}, "unheard"),
    ],
)
def test_what_is_not_understood_is_named(attributes: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        read_order("dockerfile.v0", attributes)


def test_capabilities_that_clients_only_forward() -> None:
    assert order(**{"frontend.caps": "moby.buildkit.frontend.subrequests+forward"}).request == ""


@pytest.mark.parametrize(
    "text", ["[", "[1]", "[" * 5000, '[{"Type": 5}]', '[{"Type": "registry", "Attrs": {"ref": 7}}]']
)
def test_caches_that_are_no_list_of_strings(text: str) -> None:
    with pytest.raises(InvalidParameter, match="failed to unmarshal cache-imports"):
        read_order("dockerfile.v0", {"cache-imports": text})


# -- exporters --------------------------------------------------------------------------------------------------------


def outputs(*entries: tuple[str, dict[str, str]]) -> Any:
    return read_outputs(entries)


def test_exporters_are_typed() -> None:
    one, two = outputs(
        ("moby", {"name": "a,b:2", "push": "true", "annotation-index[linux/arm64].x.y": "z", "annotation.k": "v"}),
        ("local", {"platform-split": "false"}),
    )
    assert (one.number, one.names, one.push, one.is_stored) == (0, ("a", "b:2"), True, True)
    assert one.annotations == ("index[linux/arm64]:x.y=z", "manifest:k=v")
    assert (two.number, two.split, two.is_stored) == (1, False, False)
    assert outputs(("docker", {"name": "a", "load": "true"}))[0].names == ("a",)  # Compose without bake says so
    assert outputs(("oci", {"force-compression": "true"}))[0].compression == "gzip"
    packed = outputs(("docker", {"compression": "zstd", "compression-level": "3", "oci-mediatypes": "false"}))[0]
    assert (packed.compression, packed.level, packed.oci_types) == ("zstd", 3, False)


@pytest.mark.parametrize(
    ("kind", "attributes", "why"),
    [
        ("unheard", {}, "unheard"),
        ("image", {"unheard": "x"}, "unheard"),
        ("local", {"name": "x"}, "name"),
        ("image", {"push": "true"}, "tag is needed"),
        ("image", {"push": "perhaps", "name": "x"}, "non-bool"),
        ("oci", {"compression": "estargz"}, "estargz"),
        ("oci", {"compression-level": "high"}, "compression-level"),
        ("oci", {"compression-level": "9" * 5000}, "compression-level"),
        ("local", {"mode": "move"}, "mode"),
    ],
)
def test_exporters_that_are_refused(kind: str, attributes: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        outputs((kind, attributes))


def test_what_the_image_store_cannot_keep_is_told_first() -> None:
    stored = outputs(("moby", {"name": "x"}))
    check_outputs(stored, 1, Attestations("min", inline_only=True))
    with pytest.raises(InvalidParameter, match="manifests"):
        check_outputs(stored, 1, Attestations("min"))
    with pytest.raises(InvalidParameter, match="one platform"):
        check_outputs(stored, 2, Attestations())
    check_outputs(outputs(("oci", {})), 2, Attestations("max"))
    with pytest.raises(InvalidParameter, match="manifest lists"):
        check_outputs(outputs(("docker", {})), 2, Attestations())
    with pytest.raises(InvalidParameter, match="tar=false"):
        check_outputs(outputs(("oci", {"tar": "false"})), 1, Attestations())


# -- filters ----------------------------------------------------------------------------------------------------------


def test_filters_of_containerd() -> None:
    values = {"type": "regular", "id": "abc", "shared": "false"}

    def matches(*texts: str) -> bool:
        return Filters(texts).match(values.get)

    assert matches()
    assert matches("type==regular")
    assert matches("type==regular,id~=^a")
    assert not matches("type==regular,id==x")
    assert matches("id==x", 'type=="regular"')
    assert matches("type!=source.local")
    assert not matches("shared")
    for text in ("type=", "==x", "id~=(", "a b"):
        with pytest.raises(InvalidParameter, match="invalid filter"):
            matches(text)
    with pytest.raises(InvalidParameter, match="unheard"):
        matches("unheard==1")
