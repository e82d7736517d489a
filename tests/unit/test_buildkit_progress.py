"""Documents of a build as BuildKit's clients are told them, and answers that are no builds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from corten.api.buildkit.attributes import read_order
from corten.api.buildkit.failures import Located, grpc_error, located
from corten.api.buildkit.jobs import Jobs
from corten.api.buildkit.progress import Failure, Translator, of_part, rule_url
from corten.api.buildkit.subrequests import answer
from corten.api.buildkit.wishes import Wishes
from corten.build.step_names import StepNames
from corten.build.workshop import BuildFailed, Cancelled
from corten.buildkit.proto import control_pb2 as pb
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.lint import Surroundings
from corten.dockerfile.parser import parse
from corten.errors import Conflict, InvalidParameter, NotFound, Unavailable
from corten.grpc.status import Code


def translated(translator: Translator, *documents: dict[str, Any]) -> list[pb.StatusResponse]:
    return [message for document in documents if (message := translator.translate(document)) is not None]


BEGUN = {
    "step": 2,
    "name": "2/3 RUN x",
    "stage": "0",
    "started": 5 * 10**9 + 7,
    "shown": "[2/2] RUN x",
    "lines": [2, 3],
}


def test_a_step_begins_writes_and_ends() -> None:
    translator = Translator("ref")
    begun, wrote, ended = translated(
        translator,
        BEGUN,
        {"step": 2, "output": "héllo\n", "stream": 2, "time": 6 * 10**9},
        {"step": 2, "completed": 7 * 10**9, "cached": True},
    )
    vertex = begun.vertexes[0]
    assert vertex.name == "[2/2] RUN x"
    assert (vertex.started.seconds, vertex.started.nanos) == (5, 7)
    assert vertex.digest.startswith("sha256:")
    assert len(vertex.digest) == 71
    assert (wrote.logs[0].vertex, wrote.logs[0].stream, wrote.logs[0].msg) == (vertex.digest, 2, "héllo\n".encode())
    assert ended.vertexes[0].digest == vertex.digest
    assert ended.vertexes[0].cached
    assert ended.vertexes[0].completed.seconds == 7
    assert translator.failure is None


def test_steps_that_only_change_the_configuration_are_not_shown() -> None:
    translator = Translator("ref")
    hidden = {**BEGUN, "shown": ""}
    assert not translated(translator, hidden, {"step": 2, "completed": 1, "error": "no"})


def test_the_next_step_of_a_stage_has_the_one_before_as_its_input() -> None:
    first, second, other = translated(
        Translator("ref"), BEGUN, {**BEGUN, "step": 3}, {**BEGUN, "step": 4, "stage": "1"}
    )
    assert list(second.vertexes[0].inputs) == [first.vertexes[0].digest]
    assert not other.vertexes[0].inputs


def test_a_failure_has_its_place() -> None:
    translator = Translator("ref")
    begun, ended = translated(translator, BEGUN, {"step": 2, "completed": 1, "error": "went wrong"})
    assert ended.vertexes[0].error == "went wrong"
    assert translator.failure == Failure(begun.vertexes[0].digest, (2, 3))


def test_layers_that_are_pulled() -> None:
    def layer(text: str, current: int = 0) -> dict[str, Any]:
        return {"step": 2, "status": text, "id": "abc", "progressDetail": {"current": current, "total": 9}, "time": 1}

    found = translated(
        Translator("ref"),
        BEGUN,
        layer("Pulling fs layer"),
        layer("Downloading", 4),
        layer("Download complete"),
        layer("Extracting", 9),
        layer("Pull complete"),
    )
    told = [
        (status.id, status.current, status.HasField("completed")) for message in found for status in message.statuses
    ]
    assert told == [("abc", 4, False), ("abc", 9, True), ("extracting abc", 9, False), ("extracting abc", 9, True)]


def test_output_is_cut_at_two_mebibytes_of_a_step() -> None:
    translator = Translator("ref")
    piece = {"step": 2, "output": "x" * (1 << 20), "stream": 1, "time": 1}
    found = translated(translator, BEGUN, *[piece] * 5)
    assert len(found) == 3
    assert b"left out" in found[-1].logs[0].msg


def test_output_is_cut_at_sixty_four_mebibytes_of_a_build() -> None:
    translator = Translator("ref")
    told = 0
    for step in range(40):
        piece = {"step": step, "output": "x" * (1 << 20), "stream": 1, "time": 1}
        for message in translated(translator, {**BEGUN, "step": step}, *[piece] * 3):
            told += sum(len(log.msg) for log in message.logs)
    assert 64 << 20 <= told < 66 << 20


def test_parts_of_several_platforms_do_not_meet() -> None:
    one, two = (of_part(BEGUN, number, platform) for number, platform in enumerate(("linux/amd64", "linux/arm64")))
    first, second = translated(Translator("ref"), one, two)
    assert first.vertexes[0].digest != second.vertexes[0].digest
    assert second.vertexes[0].name == "[linux/arm64 2/2] RUN x"
    assert not second.vertexes[0].inputs


def test_warnings_of_the_linter() -> None:
    warning = {"warning": "why", "rule": "StageNameCasing", "line": 3, "file": "F", "source": "FROM x"}
    begun, told = translated(Translator("ref"), BEGUN, warning)
    message = told.warnings[0]
    assert message.vertex == begun.vertexes[0].digest
    assert message.short == b"StageNameCasing: why (line 3)"
    assert message.url.endswith("/stage-name-casing/")
    assert (message.info.filename, message.ranges[0].start.line) == ("F", 3)
    assert rule_url("JSONArgsRecommended").endswith("/json-args-recommended/")


def test_names_of_steps() -> None:
    file = parse(
        b"FROM busybox AS one\nRUN a\nENV x=y\nFROM one\nWORKDIR /w\nCOPY --from=one <<EOF /f\nline\nmore\nEOF\nRUN b\n"
    )
    first = StepNames(file.stages[0], file.stages[0].instructions, "busybox", is_alone=False)
    listed = [first.next(item) for item in (file.stages[0].start, *file.stages[0].instructions)]
    assert listed == ["[one 1/2] FROM docker.io/library/busybox:latest", "[one 2/2] RUN a", ""]
    second = StepNames(file.stages[1], file.stages[1].instructions, "", is_alone=False)
    listed = [second.next(item) for item in (file.stages[1].start, *file.stages[1].instructions)]
    assert listed[0] == ""
    assert listed[1] == "[stage-1 1/3] WORKDIR /w"
    assert listed[2].startswith("[stage-1 2/3] COPY --from=one <<EOF /f")
    assert listed[2].endswith("(line...)")
    alone = StepNames(file.stages[1], [], "x", is_alone=True)
    assert alone.next(file.stages[1].start) == "[1/1] FROM docker.io/library/x:latest"


# -- failures ---------------------------------------------------------------------------------------------------------


def details(error: Any) -> dict[str, Any]:
    status = pb.ErrorStatus.FromString(error.details)
    return {item.type_url.rpartition(".")[2]: json.loads(item.value) for item in status.details}


def test_a_program_that_fails_is_told_as_buildkit_tells_it() -> None:
    failed = BuildFailed("The command '/bin/sh -c x' returned a non-zero code: 3", 3, "/bin/sh -c x")
    error = grpc_error(located(failed, "Dockerfile", b"FROM a\nRUN x\n", Failure("sha256:ab", (2, 2))))
    assert error.code == Code.UNKNOWN
    assert error.message == 'process "/bin/sh -c x" did not complete successfully: exit code: 3'
    found = details(error)
    assert found["Vertex+json"] == {"digest": "sha256:ab"}
    assert found["Source+json"]["ranges"] == [{"start": {"line": 2}, "end": {"line": 2}}]
    assert found["Source+json"]["info"]["filename"] == "Dockerfile"


def test_a_dockerfile_that_cannot_be_read_shows_its_line() -> None:
    wrong = DockerfileError("unknown instruction: FOO", line=2, column=1, text="FOO")
    error = grpc_error(located(wrong, "Dockerfile", b"FROM a\nFOO\n", None))
    assert error.message == "dockerfile parse error on line 2: unknown instruction: FOO"
    assert details(error)["Source+json"]["ranges"][0]["start"]["line"] == 2


def test_other_errors_keep_their_kind() -> None:
    assert grpc_error(Unavailable("no registry")).code == Code.UNAVAILABLE
    assert grpc_error(Cancelled("gone")).code == Code.CANCELLED
    assert not isinstance(located(Cancelled("gone"), "", b"", Failure("x", (1, 1))), Located)


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_followers_hear_everything_whenever_they_come() -> None:
    async def play() -> None:
        jobs = Jobs()
        with pytest.raises(NotFound):
            await jobs.wait("r", patience_s=0.01)
        early = asyncio.ensure_future(jobs.wait("r"))
        await asyncio.sleep(0)
        job = jobs.begin(Wishes(ref="r"), None, {})
        assert await early is job
        with pytest.raises(Conflict):
            jobs.begin(Wishes(ref="r"), None, {})
        listening = asyncio.ensure_future(collect(job))
        with job.vertex("[internal] load x"):
            await asyncio.sleep(0)
        with pytest.raises(InvalidParameter), job.vertex("exporting"):
            raise InvalidParameter("no")
        jobs.end(job)
        names = [message.vertexes[0].name for message in await listening]
        assert names == ["[internal] load x"] * 2 + ["exporting"] * 2
        late = await collect(await jobs.wait("r"))
        assert late[-1].vertexes[0].error == "no"

    async def collect(job: Any) -> list[pb.StatusResponse]:
        return [pb.StatusResponse.FromString(data) async for data in job.follow()]

    asyncio.run(play())


# -- answers that are no builds ---------------------------------------------------------------------------------------

FILE = b"""# syntax=docker/dockerfile:1
# VERSION of the thing
ARG VERSION=2
# base is where it begins
FROM busybox:$VERSION AS base
ARG INNER
RUN --mount=type=secret,id=s,required --mount=type=cache,target=/c --mount=type=ssh true
FROM base as Last
MAINTAINER me
"""


def asked(request: str, **attributes: str) -> dict[str, Any]:
    order = read_order("dockerfile.v0", {"requestid": f"frontend.{request}", **attributes})
    found = answer(order, FILE, Surroundings())
    assert found["result.txt"]
    return {"json": json.loads(found["result.json"]), "status": found.get("result.statuscode")}


def test_lint() -> None:
    found = asked("lint")
    rules = {item["ruleName"] for item in found["json"]["warnings"]}
    assert {"StageNameCasing", "FromAsCasing", "MaintainerDeprecated"} <= rules
    assert found["status"] == b"1"
    assert all(item["location"]["ranges"][0]["start"]["line"] >= 1 for item in found["json"]["warnings"])
    skipped = asked("lint", **{"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip=StageNameCasing"})
    assert "StageNameCasing" not in {item["ruleName"] for item in skipped["json"]["warnings"]}


def test_lint_of_a_dockerfile_that_cannot_be_read() -> None:
    found = answer(read_order("dockerfile.v0", {"requestid": "frontend.lint"}), b"FROM x\nFOO\n", Surroundings())
    document = json.loads(found["result.json"])
    assert document["buildError"]["location"]["ranges"][0]["start"]["line"] == 2
    assert found["result.statuscode"] == b"1"


def test_outline() -> None:
    document = asked("outline", target="base", **{"build-arg:VERSION": "3"})["json"]
    assert (document["name"], document["description"]) == ("base", "is where it begins")
    by_name = {item["name"]: item for item in document["args"]}
    assert by_name["VERSION"]["value"] == "3"
    assert by_name["VERSION"]["description"] == "of the thing"
    assert "INNER" in by_name
    assert document["secrets"][0]["name"] == "s"
    assert document["secrets"][0]["required"]
    assert [item["ID"] for item in document["cache"]] == ["/c"]
    assert [item["name"] for item in document["ssh"]] == ["default"]


def test_targets_and_what_can_be_asked() -> None:
    listed = asked("targets")["json"]["targets"]
    assert [(item["name"], item.get("default", False)) for item in listed] == [("base", False), ("last", True)]
    names = {item["name"] for item in asked("subrequests.describe")["json"]}
    assert names == {"frontend.lint", "frontend.outline", "frontend.targets", "frontend.subrequests.describe"}
    with pytest.raises(InvalidParameter, match="unheard"):
        asked("unheard")
