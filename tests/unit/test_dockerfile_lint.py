"""Checks of Dockerfiles: each rule finds its mistake, on its line, and nothing else."""

from __future__ import annotations

import pytest

from corten.dockerfile.ignore import Ignore
from corten.dockerfile.lint import RULES, Base, Surroundings, check
from corten.dockerfile.parser import parse
from corten.errors import InvalidParameter

FOUND = [
    ("FROM a\nrun x\nCOPY a b\n", "ConsistentInstructionCasing", 2),
    ("from a\nRUN x\ncopy a b\n", "ConsistentInstructionCasing", 2),
    ("FROM a AS x\nFROM a AS x\n", "DuplicateStageName", 2),
    ("FROM a\nEXPOSE 80:80\n", "ExposeInvalidFormat", 2),
    ("FROM a\nEXPOSE 80 127.0.0.1:80:80\n", "ExposeInvalidFormat", 2),
    ("FROM a\nEXPOSE 80/TCP\n", "ExposeProtoCasing", 2),
    ("FROM a as x\n", "FromAsCasing", 1),
    ("FROM --platform=linux/amd64 a AS x\n", "FromPlatformFlagConstDisallowed", 1),
    ("ARG V\nFROM a:$V\n", "InvalidDefaultArgInFrom", 2),
    ("ARG V\nFROM $V\n", "InvalidDefaultArgInFrom", 2),
    ("FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform", 1),
    ("FROM a\nCMD run me\n", "JSONArgsRecommended", 2),
    ("FROM a\nENTRYPOINT run me\n", "JSONArgsRecommended", 2),
    ("FROM a\nENV b c\n", "LegacyKeyValueFormat", 2),
    ("FROM a\nLABEL b c=d\n", "LegacyKeyValueFormat", 2),
    ("FROM a\nMAINTAINER me\n", "MaintainerDeprecated", 2),
    ('FROM a\nCMD ["a"]\nCMD ["b"]\n', "MultipleInstructionsDisallowed", 2),
    ("FROM a\nRUN a \\\n\n b\n", "NoEmptyContinuation", 3),
    ("FROM a AS scratch\n", "ReservedStageName", 1),
    ("FROM a\nARG DB_PASSWORD\n", "SecretsUsedInArgOrEnv", 2),
    ("FROM a\nENV api_token=x\n", "SecretsUsedInArgOrEnv", 2),
    ("FROM a AS Build\n", "StageNameCasing", 1),
    ("FROM a:${V}\n", "UndefinedArgInFrom", 1),
    ("FROM scratch\nCOPY a /$where\n", "UndefinedVar", 2),
    ("FROM a\nWORKDIR app\n", "WorkdirRelativePath", 2),
]


@pytest.mark.parametrize(("text", "rule", "line"), FOUND)
def test_found(text: str, rule: str, line: int) -> None:
    findings, is_error = check(parse(text.encode()))
    assert [(item.rule, item.line) for item in findings] == [(rule, line)]
    assert not is_error


def test_every_rule_has_a_case() -> None:
    assert {rule for _, rule, _ in FOUND} == set(RULES)


@pytest.mark.parametrize(
    "text",
    [
        'ARG V=1\nFROM a:$V AS build\nARG X\nENV y=$X\nWORKDIR /app\nWORKDIR sub\nCMD ["x"]\n',
        "FROM scratch\nARG w=/x\nCOPY a $w\n",
        'FROM a\nSHELL ["bash", "-c"]\nCMD run me\n',
        "from a as b\nrun x\n",
        "FROM a\nENV KEYBOARD=x MONKEY=y\n",
        "FROM --platform=$BUILDPLATFORM a\n",
        "FROM --platform=linux/amd64 a AS tools-amd64\n",
        "ARG R=host:5000/x/y V=1.2\nFROM $R:$V\nEXPOSE 80/udp $P:1\n",
        "ARG V=a@sha256:0123456789abcdef\nFROM ${V}\n",
        "FROM a\nARG PUBLIC_KEY\n",
        "# some words\nARG v=1\n# others\nFROM a AS x\n",
    ],
)
def test_fine(text: str) -> None:
    assert check(parse(text.encode()))[0] == []


def test_what_the_context_leaves_out_cannot_be_copied() -> None:
    text = b"FROM a\nCOPY ./gone here /\nADD https://x/gone /\nCOPY --from=b gone /\nADD /gone/x . /\n"
    found = check(parse(text), Surroundings(Ignore(["gone"])))[0]
    assert [(item.rule, item.line) for item in found] == [("CopyIgnoredFile", 2), ("CopyIgnoredFile", 5)]
    assert found[0].message == 'Attempting to Copy file "./gone" that is excluded by .dockerignore'


def test_experimental_rules_are_asked_for() -> None:
    text = "# foo is a version\n# bar the other\nARG foo=1\n# x makes it\nFROM a AS x\n# y\nRUN z\n"
    assert check(parse(text.encode()))[0] == []
    for name in ("all", "InvalidDefinitionDescription"):
        found = check(parse(f"# check=experimental={name}\n{text}".encode()))[0]
        assert [(item.rule, item.line) for item in found] == [("InvalidDefinitionDescription", 4)]


def test_directives_skip_rules_and_make_errors() -> None:
    text = "FROM a\nMAINTAINER me\nENV b c\n"
    assert len(check(parse(f"# check=skip=MaintainerDeprecated\n{text}".encode()))[0]) == 1
    assert check(parse(f"# check=skip=all;error=true\n{text}".encode())) == ([], True)
    with pytest.raises(InvalidParameter, match="invalid check directive"):
        check(parse(f"# check=nonsense\n{text}".encode()))


def test_images_that_are_known() -> None:
    images = {"a": Base(frozenset({"PATH", "VERSION"}), "linux/arm64/v8"), "b": Base(frozenset(), "linux/amd64")}
    text = """FROM a AS first
COPY x /$VERSION/$MISSING
ENV LATER=1
FROM first
ARG MINE
COPY x /$LATER/$MINE/$VERSION/$ABSENT
FROM --platform=$BUILDPLATFORM a
FROM other
COPY x /$ANYTHING
"""
    found = check(parse(text.encode()), Surroundings(None, images.get, "linux/amd64"))[0]
    assert [(item.rule, item.line, item.message) for item in found] == [
        (
            "InvalidBaseImagePlatform",
            1,
            'Base image a was pulled with platform "linux/arm64/v8", expected "linux/amd64" for current build',
        ),
        ("UndefinedVar", 2, "Usage of undefined variable '$MISSING'"),
        ("UndefinedVar", 6, "Usage of undefined variable '$ABSENT'"),
    ]
    assert check(parse(b"FROM b\n"), Surroundings(None, images.get, "linux/amd64"))[0] == []
