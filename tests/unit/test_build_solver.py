"""Builds without an engine: the cache, stages side by side, cancelling, what clients are told."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_place import Workplace, archive

from corten.build.cache import StepCache
from corten.build.workshop import BuildFailed, Cancelled
from corten.dockerfile.errors import DockerfileError
from corten.errors import CortenError, Forbidden, InvalidParameter, NotFound, SystemFailure
from corten.oci import config as image_config


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path)
    yield made
    assert not made.workshop.containers, "containers stay"
    assert not list(made.scratch.iterdir()), "scratch files stay"
    made.close()


STEPS = """FROM base
ENV A=1
COPY src /src
RUN write made one
CMD ["x"]
"""
SOURCES = {"src": None, "src/a": "first", "src/b": "second", "other": "unused"}


def test_a_build_makes_an_image_step_by_step(place: Workplace) -> None:
    run = place.build(STEPS, SOURCES)
    tree = place.tree(run.image)
    assert (tree["src/a"], tree["src/b"], tree["made"]) == ("first", "second", "one")
    image = place.store.get(run.image)
    lines = [row["created_by"] for row in image_config.history(image.config)[1:]]
    assert [line.split("src")[0] for line in lines] == [
        "/bin/sh -c #(nop)  ENV A=1",
        lines[1].split("src")[0],
        "/bin/sh -c write made one",
        '/bin/sh -c #(nop)  CMD ["x"]',
    ]
    assert lines[1].startswith("/bin/sh -c #(nop) COPY dir:")
    assert lines[1].endswith(" in /src ")
    assert image.config["config"]["Env"] == ["PATH=/bin", "A=1"]
    assert run.text.startswith("Step 1/5 : FROM base\n ---> ")
    assert run.text.endswith(f"Successfully built {run.image[7:19]}\n")
    assert {"aux": {"ID": run.image}} in run.documents


def test_the_second_build_is_taken_from_the_cache_also_by_a_new_daemon(place: Workplace) -> None:
    first = place.build(STEPS, SOURCES)
    place.again()
    second = place.build(STEPS, SOURCES)
    assert (second.image, second.cached, place.workshop.ran) == (first.image, 4, [])


@pytest.mark.parametrize(
    ("change", "cached"),
    [
        ({"src/a": "changed"}, 1),
        ({"src/a": ("first", 0o755)}, 1),
        ({"src/c": "new"}, 1),
        ({"other": "changed"}, 4),
        ({"src/a": "-> b"}, 1),
    ],
    ids=["content", "mode", "new file", "a file that is not used", "kind"],
)
def test_what_is_used_decides(place: Workplace, change: dict[str, object], cached: int) -> None:
    place.build(STEPS, SOURCES)
    assert place.build(STEPS, {**SOURCES, **change}).cached == cached


def test_a_touched_file_is_no_change(place: Workplace) -> None:
    place.build(STEPS, SOURCES)
    assert place.build(STEPS, SOURCES, mtime=5).cached == 4


def test_an_image_that_only_claims_to_be_the_step_is_no_hit(place: Workplace) -> None:
    """CVE-2024-24557: history and parent come with an image and prove nothing."""
    honest = place.build("FROM base\nRUN write f honest\n")
    place.cache.remove([entry.key for entry in place.cache.entries()])
    again = place.build("FROM base\nRUN write f honest\n")
    assert (again.cached, len(place.workshop.ran)) == (0, 2)
    assert honest.image != again.image


def test_no_cache_builds_all_and_is_remembered(place: Workplace) -> None:
    place.build(STEPS, SOURCES)
    fresh = place.build(STEPS, SOURCES, no_cache=True)
    assert (fresh.cached, place.workshop.ran) == (0, ["write made one"] * 2)
    assert place.build(STEPS, SOURCES).image == fresh.image


def test_cache_from_uses_the_history_of_a_named_image(place: Workplace) -> None:
    first = place.build(STEPS, SOURCES)
    place.store.tag(first.image, "trusted")
    place.cache.remove([entry.key for entry in place.cache.entries()])
    second = place.build(STEPS, SOURCES, cache_from=("absent", "trusted"))
    assert (second.cached, place.workshop.ran) == (4, ["write made one"])
    assert place.tree(second.image) == place.tree(first.image)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("RUN --mount=target=/c,source=src write a b", "RUN --mount=target=/c,source=src write a b"),
        ("RUN <<P\n#!/bin/sh\none\nP", "RUN <<P\n#!/bin/sh\ntwo\nP"),
    ],
)
def test_cache_from_tells_apart_what_the_history_line_does_not_show(place: Workplace, first: str, second: str) -> None:
    built = place.build(f"FROM base\n{first}\n", {"src": None, "src/a": "1"})
    place.store.tag(built.image, "trusted")
    place.cache.remove([entry.key for entry in place.cache.entries()])
    assert place.build(f"FROM base\n{first}\n", {"src": None, "src/a": "1"}, cache_from=("trusted",)).cached == 1
    place.cache.remove([entry.key for entry in place.cache.entries()])
    assert place.build(f"FROM base\n{second}\n", {"src": None, "src/a": "2"}, cache_from=("trusted",)).cached == 0


def test_a_removed_image_is_built_again(place: Workplace) -> None:
    first = place.build(STEPS, SOURCES)
    place.store.remove(first.image, force=True, prune=True, in_use=lambda image: [])
    assert place.build(STEPS, SOURCES).cached == 0


def test_two_identical_builds_at_once_do_the_work_once(place: Workplace) -> None:
    text = "FROM base\nRUN meet; write f x\nRUN write g y\n"
    runs = [place.start(text) for _ in range(2)]
    threads = [threading.Thread(target=run.finish) for run in runs]
    threads[0].start()
    assert place.workshop.started.wait(10)
    threads[1].start()
    place.workshop.meet.wait(10)
    for thread in threads:
        thread.join()
    assert runs[0].image == runs[1].image
    assert sorted(place.workshop.ran) == ["meet; write f x", "write g y"]


# -- stages -----------------------------------------------------------------------------------------------------------


def test_independent_stages_run_side_by_side_and_tell_in_order(place: Workplace) -> None:
    text = """FROM base AS one
RUN say from one; meet; write a 1
FROM base AS two
RUN say from two; meet; write b 2
FROM scratch
COPY --from=one /a /
COPY --from=two /b /
"""
    run = place.build(text)  # each of both programs waits for the other
    assert place.tree(run.image) == {"a": "1", "b": "2"}
    told = [line for line in run.text.splitlines() if line.startswith(("Step", "from"))]
    assert told == [
        "Step 1/7 : FROM base AS one", "Step 2/7 : RUN say from one; meet; write a 1", "from one",
        "Step 3/7 : FROM base AS two", "Step 4/7 : RUN say from two; meet; write b 2", "from two",
        "Step 5/7 : FROM scratch", "Step 6/7 : COPY --from=one /a /", "Step 7/7 : COPY --from=two /b /",
    ]  # fmt: skip


def test_stages_that_nothing_needs_are_left_out(place: Workplace) -> None:
    text = "FROM base AS a\nRUN write a a\nFROM base AS b\nRUN write b b\nFROM a AS c\nRUN write c c\nFROM base\n"
    run = place.build(text, target="c")
    assert place.workshop.ran == ["write a a", "write c c"]
    assert "Step 4/4 : RUN write c c" in run.text
    assert place.build(text, target="1").image
    for target in ("absent", "9"):
        with pytest.raises(InvalidParameter, match=f"failed to reach build target {target} in Dockerfile"):
            place.build(text, target=target)


def test_a_failing_stage_ends_the_others_and_is_told(place: Workplace) -> None:
    text = """FROM base AS slow
RUN say slow begins; hang
FROM base AS bad
RUN say last words; complain oh no; fail 3
FROM scratch
COPY --from=slow /x /
COPY --from=bad /x /
"""
    run = place.start(text)
    with pytest.raises(BuildFailed) as failed:
        run.finish()
    assert failed.value.code == 3
    assert str(failed.value).endswith("returned a non-zero code: 3")
    assert "last words\n\x1b[91moh no\n\x1b[0m" in run.text
    for name in place.workshop.containers.copy():  # of the failed step, kept for those who want to look
        place.workshop.remove(name)


@pytest.mark.parametrize(
    ("origin", "message"),
    [("9", "index out of bounds"), ("1", "refers to current build block"), ("me", "refers to current build block")],
)
def test_bad_references_to_stages(place: Workplace, origin: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=f"invalid from flag value {origin}: {message}"):
        place.build(f"FROM base\nFROM base AS me\nCOPY --from={origin} /x /\n")


def test_a_failed_step_keeps_its_container_unless_told_otherwise(place: Workplace) -> None:
    for options, kept in (({}, 1), ({"force_remove": True}, 0)):
        with pytest.raises(BuildFailed):
            place.build("FROM base\nRUN fail 1\n", **options)
        assert len(place.workshop.containers) == kept
        for name in place.workshop.containers.copy():
            place.workshop.remove(name)


def test_a_full_disk_does_not_hide_why_a_step_failed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.cache._run

    def full(statement: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        if statement.startswith("DELETE FROM containers"):
            raise SystemFailure("build.db: database or disk is full", step="build.db")
        return run(statement, values)

    monkeypatch.setattr(place.cache, "_run", full)
    with pytest.raises(BuildFailed, match="returned a non-zero code: 3"):
        place.build("FROM base\nRUN fail 3\n", force_remove=True)


def test_containers_stay_when_the_client_wants_them(place: Workplace) -> None:
    run = place.build("FROM base\nRUN write a b\n", remove=False)
    assert len(place.workshop.containers) == 1
    assert "Removing intermediate" not in run.text
    place.workshop.remove(place.workshop.containers.copy().pop())


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelled_in_the_midst_nothing_is_left(place: Workplace) -> None:
    run = place.start("FROM base\nRUN hang\nRUN write after x\n")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run.finish()
        except CortenError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert place.workshop.started.wait(10)
    run.cancellation.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(failures[0], Cancelled)
    assert place.workshop.ran == ["hang"]


def test_a_client_that_leaves_cancels(place: Workplace) -> None:
    run = place.start("FROM base\nRUN hang\n")
    documents = run.build.documents()
    while "Running in" not in next(documents).get("stream", ""):
        pass
    documents.close()
    run.context.close()
    assert run.cancellation.is_cancelled


def test_a_client_that_does_not_read_holds_the_program_up_and_no_memory(place: Workplace) -> None:
    words = "; ".join(["say " + "x" * 100] * 3000)
    run = place.start(f"FROM base\nRUN {words}\n")
    documents = run.build.documents()
    next(documents)
    deadline = time.monotonic() + 10
    while run.build._queue.qsize() < 512 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert run.build._queue.qsize() == 512
    assert sum(document.get("stream", "") == "x" * 100 + "\n" for document in documents) == 3000
    run.context.close()


# -- arguments --------------------------------------------------------------------------------------------------------


def test_scopes_of_arguments(place: Workplace) -> None:
    text = """ARG BASE=base
ARG V=global
FROM $BASE AS a
ARG V
ARG W=own
ENV E=${V}-${W}-${UNSEEN}
RUN write e $E
FROM ${BASE}
ARG W
ENV F=[${V}${W}]
"""
    run = place.build(text, arguments={"W": "given"})
    assert place.store.get(run.image).config["config"]["Env"] == ["PATH=/bin", "F=[given]"]
    first = place.build(text, arguments={"W": "given"}, target="a")
    image = place.store.get(first.image)
    assert "E=global-given-" in image.config["config"]["Env"]
    assert image_config.history(image.config)[-1]["created_by"] == "|2 V=global W=given /bin/sh -c write e $E"
    assert place.workshop.steps[-1].environment == ("V=global", "W=given")


def test_a_changed_argument_is_a_miss_and_an_unused_one_is_told(place: Workplace) -> None:
    text = "FROM base\nARG A=1\nRUN write a x\n"
    place.build(text)
    assert place.build(text, arguments={"A": "2"}).cached == 1
    run = place.build(text, arguments={"TYPO": "2", "HTTP_PROXY": "p"})
    assert run.cached == 2
    assert "[Warning] One or more build-args [TYPO] were not consumed\n" in run.text


def test_proxies_reach_the_program_and_not_the_history(place: Workplace) -> None:
    run = place.build("FROM base\nRUN write a b\n", arguments={"HTTP_PROXY": "http://p"})
    assert place.workshop.steps[0].environment == ("HTTP_PROXY=http://p",)
    assert "http://p" not in str(place.store.get(run.image).config)


def test_platform_arguments(place: Workplace) -> None:
    run = place.build("FROM base\nARG TARGETARCH\nARG TARGETOS\nENV X=$TARGETOS/$TARGETARCH\n")
    found = place.store.get(run.image).config
    assert f"X={found['os']}/{found['architecture']}" in found["config"]["Env"]


def test_source_date_epoch_fixes_times(place: Workplace) -> None:
    run = place.build("FROM scratch\nCOPY a /d/\n", {"a": "x"}, arguments={"SOURCE_DATE_EPOCH": "1000000"})
    again = place.build(
        "FROM scratch\nCOPY a /d/\n", {"a": "x"}, arguments={"SOURCE_DATE_EPOCH": "1000000"}, no_cache=True
    )
    assert run.image == again.image
    assert place.store.get(run.image).config["created"] == "1970-01-12T13:46:40Z"


# -- images -----------------------------------------------------------------------------------------------------------


def test_an_absent_base_is_pulled_once(place: Workplace) -> None:
    place.workshop.registry["far:1"] = archive({"f": "x"})
    run = place.build("FROM far:1 AS a\nFROM far:1\nCOPY --from=a /f /g\nCOPY --from=far:1 /f /h\n")
    assert place.workshop.pulled == [("far:1", "")]
    assert {"status": "Pulling from far:1"} in run.documents
    assert place.tree(run.image)["h"] == "x"
    with pytest.raises(NotFound, match="pull access denied"):
        place.build("FROM nowhere\n")


def test_pull_asks_the_registry_also_for_what_is_here(place: Workplace) -> None:
    place.workshop.registry["base"] = archive({"new": "x"})
    run = place.build("FROM base\n", pull=True)
    assert place.tree(run.image) == {"new": "x"}


def test_triggers_of_the_base_are_executed_and_gone(place: Workplace) -> None:
    base = place.build("FROM base\nONBUILD COPY f /\nONBUILD RUN write t x\nRUN write b y\n")
    place.store.tag(base.image, "trigger")
    run = place.build("FROM trigger\nCMD z\n", {"f": "file"})
    assert "# Executing 2 build triggers\n" in run.text
    assert place.tree(run.image)["f"] == "file"
    assert place.workshop.ran == ["write b y", "write t x"]
    assert "OnBuild" not in place.store.get(run.image).config["config"]


def test_scratch_alone_is_no_image_and_with_something_it_is(place: Workplace) -> None:
    with pytest.raises(InvalidParameter, match="No image was generated"):
        place.build("FROM scratch\n")
    run = place.build("FROM scratch\nENV a=b\n")
    image = place.store.get(run.image)
    assert image.layers == ()
    assert image.config["config"]["Env"][1] == "a=b"
    made = place.build("FROM scratch\nRUN write x y\n")
    assert place.tree(made.image)["x"] == "y"


def test_labels_of_the_client_are_the_last_step(place: Workplace) -> None:
    run = place.build("FROM base AS x\nFROM base\nENV a=b\n", labels={"k": 'it\'s $a "v"'})
    assert place.store.get(run.image).config["config"]["Labels"] == {"k": 'it\'s $a "v"'}
    assert "Step 3/3 : LABEL k=" in run.text


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("FROM base\nRUN --security=insecure write a b\n", Forbidden, "security.insecure"),
        ("FROM base\nRUN --network=host write a b\n", Forbidden, "network.host"),
        ("FROM base\nRUN --device=x,required write a b\n", NotFound, '"x" is not registered'),
        ("FROM base\nCOPY ${A:?needed} /\n", DockerfileError, "A: needed"),
        ("FROM ${NONE}\n", DockerfileError, "should not be blank"),
        ("FROM base\nENV ${X}=1\n", DockerfileError, "can not be blank"),
        ("FROM base\nWORKDIR $NOTHING\n", InvalidParameter, "cannot normalize nothing"),
        ("FROM base\nSTOPSIGNAL nope\n", InvalidParameter, "Invalid signal: nope"),
        ("FROM base\nEXPOSE 99999\n", InvalidParameter, "Invalid containerPort: 99999"),
        ("FROM base\nRUN --mount=type=secret,id=s,required x\n", NotFound, "secret s: not found"),
        ("FROM base\nRUN --mount=type=ssh,required x\n", NotFound, "forwards no agent"),
        ("FROM base\nRUN --mount=type=bind,target=/ x\n", DockerfileError, "invalid mount target"),
        ("FROM base\nRUN --mount=type=bind,source=nowhere,target=/m x\n", NotFound, "not in the build context"),
        ("FROM base\nRUN --mount=type=cache,target=/m,sharing=odd x\n", InvalidParameter, "sharing mode"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/m,colour=red x\n", DockerfileError, "unexpected key 'colour'"),
    ],
)
def test_refused(place: Workplace, text: str, kind: type[CortenError], message: str) -> None:
    with pytest.raises(kind, match=message):
        place.build(text)


def test_the_host_s_network_can_be_granted(place: Workplace) -> None:
    place.build("FROM base\nRUN --network=host write a b\nRUN --network=none write c d\n", network="host")
    assert [step.network for step in place.workshop.steps] == ["host", "none"]


# -- mounts of RUN ----------------------------------------------------------------------------------------------------


def test_mounts_of_a_step(place: Workplace) -> None:
    text = """FROM base AS other
RUN write o x
FROM base
RUN --mount=target=/ctx,source=d --mount=type=bind,from=other,source=/o,target=/o --mount=type=tmpfs,target=t,size=1m \\
    --mount=type=cache,target=/cache,mode=0700 --mount=type=secret,id=key write done yes
"""
    place.build(text, {"d": None, "d/f": "inside"}, secrets={"key": b"hush"})
    context, other, scratch, cache, secret = place.workshop.steps[-1].mounts
    assert (context.type, context.target, context.read_only) == ("bind", "/ctx", True)
    assert (other.type, other.subpath, other.target) == ("image", "o", "/o")
    assert (scratch.type, scratch.target, scratch.size) == ("tmpfs", "/t", 1 << 20)
    assert (cache.target, cache.read_only, Path(cache.source).stat().st_mode & 0o777) == ("/cache", False, 0o700)
    assert secret.target == "/run/secrets/key"
    assert not Path(secret.source).exists(), "a secret is gone with its step"
    assert "hush" not in str([place.cache.entries(), place.cache.mounts()])


def test_a_changed_file_behind_a_mount_is_a_miss(place: Workplace) -> None:
    text = "FROM base\nRUN --mount=target=/c,source=d write a b\n"
    place.build(text, {"d": None, "d/f": "1", "e": "1"})
    assert place.build(text, {"d": None, "d/f": "1", "e": "2"}).cached == 1
    assert place.build(text, {"d": None, "d/f": "2", "e": "1"}).cached == 0


@pytest.mark.timeout(60)
def test_locked_caches_cannot_wait_for_each_other(place: Workplace) -> None:
    lock = "--mount=type=cache,sharing=locked,"
    place.build(f"FROM base\nRUN {lock}id=x,target=/a {lock}id=x,target=/b write f x\n")
    first, second = f"{lock}id=p,target=/a", f"{lock}id=q,target=/b"
    text = "".join(
        f"FROM base AS s{number}\nRUN {first if number % 2 else second} {second if number % 2 else first} write f x\n"
        for number in range(16)
    )
    copies = "".join(f"COPY --from=s{number} /f /f{number}\n" for number in range(16))
    place.build(f"{text}FROM base\n{copies}", no_cache=True)


def test_a_cache_that_a_step_uses_is_not_pruned(place: Workplace) -> None:
    from corten.build.pruning import Space, Usage

    place.build("FROM base\nRUN --mount=type=cache,id=x,target=/a write f x\n")
    locks = place.place.locks
    usage = Usage(place.store, place.cache, place.place.cache_directory, locks)
    mount = next(row["ID"] for row in usage.rows() if row["Type"] == "exec.cachemount")
    taken = contextlib.ExitStack()

    def matches(_: object) -> bool:  # between the list and the removal somebody begins to use it
        taken.enter_context(locks.shared(mount))
        return True

    wanted = {"everything": False, "space": Space(), "remove": lambda _: False}
    with taken:
        assert mount not in usage.prune(lambda row: row.id == mount and matches(row), **wanted)[0]
        assert (place.place.cache_directory / mount).is_dir()
    assert usage.prune(lambda row: row.id == mount, **wanted)[0] == [mount]
    assert not (place.place.cache_directory / mount).exists()


def test_sources_of_mounts_cannot_leave_what_they_come_from(place: Workplace) -> None:
    place.build("FROM base AS o\nRUN write x y\nFROM base\nRUN --mount=from=o,source=../../etc,target=/n write a b\n")
    assert place.workshop.steps[-1].mounts[0].subpath == "etc"


def test_what_a_step_writes_into_a_volume(place: Workplace) -> None:
    """Kept, says the reference, but for the classic builder."""
    text = "FROM base\nVOLUME /v\nRUN write v/f x\n"
    kept = place.build(text)
    lost = place.build(text, classic=True)
    assert [step.has_volumes for step in place.workshop.steps] == [False, True]
    assert lost.cached == 1, "the steps before it are the same"
    assert kept.image != lost.image


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_whose_the_directories_of_workdir_are(place: Workplace) -> None:
    text = "FROM base\nUSER bob\nWORKDIR /w/x\n"
    image = place.build(text).image
    assert [place.stat(image, name)[1:3] for name in ("w", "w/x")] == [(1000, 1001)] * 2
    assert place.stat(place.build(text, classic=True).image, "w/x")[1:3] == (0, 0)
    assert place.stat(place.build("FROM base\nUSER nobody\nWORKDIR /w/x\n").image, "w/x")[1:3] == (0, 0)


def test_scripts_in_here_documents(place: Workplace) -> None:
    place.build("FROM base\nRUN <<EOF\nwrite a b\nEOF\nRUN cat <<A x\ntext\nA\nRUN <<P\n#!/bin/sh\nexit\nP\n")
    commands = [step.command for step in place.workshop.steps]
    assert commands[0] == ("/bin/sh", "-c", "write a b\n")
    assert commands[1] == ("/bin/sh", "-c", "cat <<A x\ntext\nA")
    assert commands[2] == ("/dev/pipes/P",)
    assert place.workshop.steps[2].mounts[0].target == "/dev/pipes"


def test_why_a_step_is_not_cached(place: Workplace) -> None:
    place.build(STEPS, SOURCES, explain=True)
    run = place.build(STEPS, {**SOURCES, "src/a": "changed", "src/new": "x"}, explain=True)
    assert "Not cached: src/a changed, src/new is new\n" in run.text
    assert "Not cached: the step above it was built anew\n" in run.text
    text = "FROM base\nARG A\nRUN write a b\n"
    place.build(text, arguments={"A": "1"})
    assert "Not cached: argument A changed\n" in place.build(text, arguments={"A": "2"}, explain=True).text
    place.build(STEPS, {**SOURCES, "src/a": "changed"}, no_cache=True)
    run = place.build(STEPS, {**SOURCES, "src/a": "again"}, explain=True)
    assert "Not cached: src/a changed\n" in run.text, "what was built without the cache is what it is compared with"
    text = "FROM base\nARG V\nRUN write n 1\nCOPY src /src\n"
    place.build(text, SOURCES, arguments={"V": "1"})
    run = place.build(text, {**SOURCES, "src/b": "new"}, explain=True, arguments={"V": "2"})
    assert "Not cached: src/b changed; the step above it was built anew\n" in run.text


def test_quiet_tells_the_id_alone_and_everything_when_it_fails(place: Workplace) -> None:
    run = place.build("FROM base\nENV a=b\n", quiet=True)
    assert run.documents == [{"stream": f"{run.image}\n"}]
    failing = place.start("FROM base\nRUN say why; fail 1\n", quiet=True, force_remove=True)
    with pytest.raises(BuildFailed):
        failing.finish()
    assert "why\n" in failing.text


def test_uses_are_written_down_after_each_build(place: Workplace) -> None:
    """A daemon that is killed later loses none of them."""
    for _ in range(3):
        place.build("FROM base\nENV A=1\n")
    again = StepCache(place.data_root / "build.db", lambda image: True)
    try:
        assert [entry.uses for entry in again.entries()] == [2]
    finally:
        again.close()
