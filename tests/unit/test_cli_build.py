"""The options of ``corten build``, what is sent, and how a build is shown; no daemon takes part."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from pathlib import Path

import pytest

from corten.cli import build_cache, build_contexts, flags
from corten.cli.build_outputs import check_outputs, read_attestations, read_outputs
from corten.cli.build_progress import Live, Plain
from corten.cli.build_query import build_arguments
from corten.cli.commands.build import BUILD
from corten.errors import InvalidParameter, NotFound

SECOND = 10**9


def options(*words: str) -> flags.Options:
    return flags.parse(BUILD.flags, list(words))[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [("image", "", False)]),
        (["-o", "out"], [("local", "out", False)]),
        (["-o", "-"], [("tar", "-", False)]),
        (["-o", "type=oci,dest=x.tar"], [("oci", "x.tar", False)]),
        (["-o", "type=oci"], [("oci", "-", False)]),
        (["-o", "type=image,push=true"], [("image", "", True)]),
        (["--push"], [("image", "", True)]),
        (["-o", "type=registry"], [("registry", "", True)]),
        (["-o", "out", "--load"], [("local", "out", False), ("docker", "", False)]),
        (["-o", "type=local,dest=a", "-o", "type=tar,dest=b"], [("local", "a", False), ("tar", "b", False)]),
    ],
)
def test_outputs(words: list[str], expected: list[tuple[str, str, bool]]) -> None:
    assert [(item.kind, item.dest, item.push) for item in read_outputs(options(*words))] == expected


def test_options_of_outputs() -> None:
    text = (
        'type=image,"name=a:1,b:2",push-by-digest=true,compression=zstd,compression-level=7,rewrite-timestamp=true,'
        "annotation.k=v,annotation-index.i=w,annotation[linux/arm64].p=q,oci-mediatypes=false"
    )
    (made,) = read_outputs(options("-o", text))
    assert made.names == ["a:1", "b:2"]
    assert (made.push, made.by_digest, made.compression, made.level) == (True, True, "zstd", 7)
    assert (made.rewrite, made.oci_types) == (True, False)
    assert made.annotations == ["manifest:k=v", "index:i=w", "manifest[linux/arm64]:p=q"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "type=floppy"], "invalid output type 'floppy'"),
        (["-o", "type=local"], "dest is required"),
        (["-o", "type=local,dest=x,compression=gzip"], "no option 'compression'"),
        (["-o", "type=oci,compression-level=much"], "a number is needed"),
        (["-o", "type=image,push=perhaps"], "non-bool value"),
        (["-o", "out", "--push"], "can't be used together"),
    ],
)
def test_bad_outputs(words: list[str], message: str) -> None:
    with pytest.raises(flags.UsageError, match=message):
        read_outputs(options(*words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("", False)),
        (["--attest", "type=provenance"], ("min", False)),
        (["--attest", "type=provenance,mode=max", "--attest", "type=sbom"], ("max", True)),
        (["--provenance", "true"], ("min", False)),
        (["--provenance", "max"], ("max", False)),
        (["--provenance", "mode=max"], ("max", False)),
        (["--provenance", "false", "--sbom=true"], ("", True)),
        (["--attest", "type=sbom", "--sbom", "false"], ("", False)),
    ],
)
def test_attestations(words: list[str], expected: tuple[str, bool]) -> None:
    assert read_attestations(options(*words)) == expected


@pytest.mark.parametrize("text", ["type=oath", "type=provenance,mode=loud", "type=sbom,generator=x"])
def test_bad_attestations(text: str) -> None:
    with pytest.raises(flags.UsageError, match="invalid attestation"):
        read_attestations(options("--attest", text))


def test_what_cannot_be_delivered_is_told_at_once() -> None:
    for words in (["--annotation", "a=b"], ["--sbom", "true"]):
        given = options(*words)
        with pytest.raises(InvalidParameter, match="image store does not keep"):
            check_outputs(read_outputs(given), given)
    given = options("--push")
    with pytest.raises(InvalidParameter, match="tag is needed"):
        check_outputs(read_outputs(given), given)


def test_arguments_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    monkeypatch.setenv("A", "from here")
    assert build_arguments(["A", "B=", "NONE"]) == {"SOURCE_DATE_EPOCH": "5", "A": "from here", "B": "", "NONE": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name:tag", ("registry", "name:tag", "min")),
        ("type=registry,ref=name", ("registry", "name", "min")),
        ("type=local,dest=x,mode=max", ("local", "x", "max")),
        ("type=inline", ("inline", "", "min")),
    ],
)
def test_caches(text: str, expected: tuple[str, str, str]) -> None:
    (made,) = build_cache.read_options([text], is_target=True)
    assert (made.kind, made.place, made.mode) == expected
    assert build_cache.read_options(["name:tag"], is_target=False)[0].kind == "image"


@pytest.mark.parametrize("text", ["type=s3,bucket=x", "type=local", "type=registry", "type=local,dest=x,mode=mid"])
def test_bad_caches(text: str) -> None:
    with pytest.raises(flags.UsageError):
        build_cache.read_options([text], is_target=True)


# -- contexts ---------------------------------------------------------------------------------------------------------


def frames(body: bytes) -> list[bytes]:
    found = []
    while body:
        size = int.from_bytes(body[:8], "big")
        found.append(body[8 : 8 + size])
        body = body[8 + size :]
    return found


def test_a_directory_is_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "named").mkdir()
    (tmp_path / "file").write_text("x" * 10_000)
    found = build_contexts.gather(str(tmp_path), "")
    build_contexts.add_named(found, [f"n={tmp_path}/named", "i=docker-image://x", "u=https://x/y.git"], lambda text: "")
    (document,) = frames(b"".join(found.body({}, send=False)))
    contexts = json.loads(document)["contexts"]
    assert contexts[""]["directory"]["path"] == str(tmp_path)
    assert contexts[""]["directory"]["inode"] == tmp_path.stat().st_ino
    assert contexts["i"] == {"image": "x"}
    assert contexts["u"] == {"url": "https://x/y.git"}
    document, *rest = frames(b"".join(found.body({}, send=True)))
    assert json.loads(document)["contexts"][""] == {"sent": True}
    assert rest.count(b"") == 2, "each tar has an end"
    assert sum(map(len, rest)) > 10_000


def test_a_dockerfile_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "Other").write_text("FROM other\n")
    (tmp_path / "Other.dockerignore").write_text("x\n")
    found = build_contexts.gather(str(tmp_path / "c"), str(tmp_path / "Other"))
    document = json.loads(frames(b"".join(found.body({}, send=False)))[0])
    assert document["dockerfile"] == "FROM other\n"
    assert document["contexts"][""]["ignore"] == "x\n"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("name", InvalidParameter, "expected key=value"),
        ("=x", InvalidParameter, "expected key=value"),
        ("a=/nowhere", NotFound, "a is no directory"),
        ("a=target:b", InvalidParameter, "bake files"),
    ],
)
def test_bad_named_contexts(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build_contexts.add_named(build_contexts.Contexts(), [text], lambda text: "")


def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind("agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        assert build_contexts.agents(["default", "x=agent"], stack) == {
            "default": str(tmp_path / "agent"),
            "x": str(tmp_path / "agent"),
        }
        monkeypatch.delenv("SSH_AUTH_SOCK")
        with pytest.raises(InvalidParameter, match="SSH_AUTH_SOCK"):
            build_contexts.agents(["default"], stack)


# -- progress ---------------------------------------------------------------------------------------------------------

STORY = [
    {"step": 1, "name": "1/3 FROM x", "stage": "build", "started": 10 * SECOND},
    {"step": 1, "status": "Pulling fs layer", "id": "abc", "time": 10 * SECOND},
    {
        "step": 1,
        "status": "Downloading",
        "id": "abc",
        "progressDetail": {"current": 1, "total": 2},
        "time": 10 * SECOND,
    },
    {"step": 1, "completed": 11 * SECOND},
    {"step": 2, "name": "2/3 COPY a b", "stage": "0", "started": 11 * SECOND},
    {"step": 2, "completed": 11 * SECOND, "cached": True},
    {"step": 3, "name": "3/3 RUN make", "stage": "0", "started": 11 * SECOND},
    {"step": 3, "miss": "a changed"},
    {"step": 3, "output": "one\ntw", "stream": 1, "time": 12 * SECOND},
    {"step": 3, "output": "\x1b[31mbad\x1b[0m\n", "stream": 2, "time": 12 * SECOND},
    {"step": 3, "output": "o\n", "stream": 1, "time": 12 * SECOND + SECOND // 2},
    {"step": 3, "completed": 13 * SECOND, "error": "returned a non-zero code: 2"},
    {"warning": "odd", "line": 4},
    {"tagged": "app:latest"},
]


def test_plain_progress() -> None:
    out = io.StringIO()
    plain = Plain(out)
    for document in STORY:
        plain.show(document)
    plain.close()
    assert out.getvalue().splitlines() == [
        "#1 [build 1/3] FROM x", "#1 abc Pulling fs layer", "#1 DONE 1.0s", "",
        "#2 [2/3] COPY a b", "#2 CACHED", "",
        "#3 [3/3] RUN make", "#3 not cached: a changed", "#3 1.000 one", "#3 1.000 \x1b[31mbad\x1b[0m", "#3 1.500 two",
        "#3 ERROR: returned a non-zero code: 2", "WARNING: line 4: odd", "", "naming to app:latest",
    ]  # fmt: skip


def test_progress_on_a_terminal() -> None:
    out = io.StringIO()
    live = Live(out)
    for document in STORY:
        live.show(document)
    live.close()
    text = out.getvalue()
    assert " => CACHED [2/3] COPY a b\n" in text
    assert " => ERROR [3/3] RUN make\n" in text
    assert " => => # bad" in text, "a program's colours do not reach the terminal"
    assert "\x1b[31m" not in text.partition(" => ERROR")[0]
    assert " => [build 1/3] FROM x" in text
