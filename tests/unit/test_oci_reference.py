"""Image references: the grammar, familiar and canonical names, Docker's wording of errors."""

from __future__ import annotations

import pytest

from corten.errors import InvalidParameter
from corten.oci import reference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
        ("user/repo", "docker.io/user/repo", "user/repo"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/repo", "localhost/repo", "localhost/repo"),
        ("localhost:5000/repo:tag", "localhost:5000/repo:tag", "localhost:5000/repo:tag"),
        ("registry.example.com/a/b/c", "registry.example.com/a/b/c", "registry.example.com/a/b/c"),
        ("[::1]:5000/repo", "[::1]:5000/repo", "[::1]:5000/repo"),
        ("UPPER.example/repo", "UPPER.example/repo", "UPPER.example/repo"),
        ("MyHost/repo", "MyHost/repo", "MyHost/repo"),
        ("a__b/c--d/e.f", "docker.io/a__b/c--d/e.f", "a__b/c--d/e.f"),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}", f"busybox@sha256:{HEX}"),
        (f"busybox:1@sha256:{HEX}", f"docker.io/library/busybox:1@sha256:{HEX}", f"busybox:1@sha256:{HEX}"),
        ("busybox:" + "t" * 128, "docker.io/library/busybox:" + "t" * 128, "busybox:" + "t" * 128),
    ],
)
def test_names(text, canonical, familiar):
    parsed = reference.parse(text)
    assert parsed.canonical == canonical
    assert parsed.familiar == familiar
    assert reference.parse(parsed.canonical) == parsed
    assert reference.parse(parsed.familiar) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "/", "a/", "/a", "a//b", "-a", "a-", "a..b", "a___b", "_a", "a:", "a:-tag", "a:t ag",
        "a:" + "t" * 129, "a@", "a@sha256:short",
        f"a@sha256:{'A' * 64}", f"a@md5:{'a' * 32}", "a b", "a\n", "a\0", "../a", "a/../b", "a/./b", "http://a/b",
        "a:b:c", "é",
        f"sha256:{HEX}/x:", "[::1/repo", "host:port/repo", "repo:tag/more",
    ],
)  # fmt: skip
def test_malformed_names_are_refused(text):
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        reference.parse(text)


@pytest.mark.parametrize("text", ["Busybox", "user/Repo", "docker.io/Repo:tag", "busyBox:latest"])
def test_upper_case_has_an_error_of_its_own(text):
    with pytest.raises(InvalidParameter, match=r"^invalid reference format: repository name must be lowercase$"):
        reference.parse(text)


def test_hexadecimal_names_and_long_names_are_refused():
    with pytest.raises(InvalidParameter, match="cannot specify 64-byte hexadecimal strings"):
        reference.parse(HEX)
    assert reference.parse("a" * 63).path == "library/" + "a" * 63
    with pytest.raises(InvalidParameter, match="must not be more than 255 characters"):
        reference.parse("example.com/" + "a" * 256)


def test_tags():
    name = reference.parse("busybox")
    assert name.with_default_tag().familiar == "busybox:latest"
    assert name.with_tag("x").familiar == "busybox:x"
    assert reference.parse("busybox:1").with_default_tag().tag == "1"
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        name.with_tag("a/b")
    assert reference.try_parse("Not Valid") is None
    assert reference.is_tag("v1.0_x-y")
    assert not reference.is_tag(".x")
