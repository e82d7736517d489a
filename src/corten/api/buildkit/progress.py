"""What happens in a build, as BuildKit's clients are told it: vertexes, their progress, logs and warnings.

``corten.build.steps`` gives documents; those that this room makes itself (contexts, outputs) have the same form.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from corten.buildkit.proto import control_pb2 as pb

Document = dict[str, Any]
_LOG_BYTES = 2 << 20  # of one vertex, what BuildKit keeps by default
_ALL_LOG_BYTES = 64 << 20  # of a build: a client that does not read must not fill the daemon's memory
_PART_STEPS = 10_000
_MOVING = {"Downloading": "", "Extracting": "extracting ", "Pushing": "pushing "}
_AT_REST = frozenset(
    {"Download complete", "Pull complete", "Already exists", "Pushed", "Layer already exists", "Verifying Checksum"}
)
URL = "https://docs.docker.com/go/dockerfile/rule/"


@dataclass(slots=True)
class _Vertex:
    """A step that the client sees.  lines: of it in the Dockerfile"""

    message: pb.Vertex
    lines: tuple[int, int] = (0, 0)
    log_bytes: int = 0
    layers: dict[str, pb.VertexStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a build has failed.  vertex: its digest; lines: first and last of the instruction, 0 for none"""

    vertex: str
    lines: tuple[int, int]


class Translator:
    """Documents of one build become messages.

    failure: where it has failed, once it has
    """

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._vertexes: dict[int, _Vertex] = {}
        self._last: dict[str, str] = {}  # stage -> the digest of its newest vertex
        self._log_bytes = 0
        self.failure: Failure | None = None

    def translate(self, document: Document) -> pb.StatusResponse | None:
        """None for what these clients do not show."""
        if "warning" in document:
            return self._warning(document)
        number = document.get("step")
        if not isinstance(number, int):
            return None
        if "name" in document:
            return self._begun(number, document)
        vertex = self._vertexes.get(number)
        if vertex is None:
            return None
        if "completed" in document:
            return self._ended(vertex, document)
        if "output" in document:
            return self._output(vertex, document)
        if "task" in document:
            return self._task(vertex, document)
        return self._layer(vertex, document) if document.get("id") else None

    def _begun(self, number: int, document: Document) -> pb.StatusResponse | None:
        name = document.get("shown", document["name"])
        if not name:
            return None
        stage = document.get("stage", "")
        message = pb.Vertex(digest=vertex_digest(self._ref, number), name=name, started=moment(document["started"]))
        if stage in self._last:
            message.inputs.append(self._last[stage])
        self._last[stage] = message.digest
        first, last = document.get("lines") or (0, 0)
        self._vertexes[number] = _Vertex(message, (first, last))
        return pb.StatusResponse(vertexes=[message])

    def _ended(self, vertex: _Vertex, document: Document) -> pb.StatusResponse:
        ended = moment(document["completed"])
        message = vertex.message
        message.completed.CopyFrom(ended)
        message.cached = bool(document.get("cached"))
        if document.get("error"):
            message.error = document["error"]
            if document.get("command"):
                message.error = program_failed(document["command"], document["code"])
            self.failure = self.failure or Failure(message.digest, vertex.lines)
        answer = pb.StatusResponse(vertexes=[message])
        for status in vertex.layers.values():
            if not status.HasField("completed"):
                status.completed.CopyFrom(ended)
                answer.statuses.append(status)
        return answer

    def _output(self, vertex: _Vertex, document: Document) -> pb.StatusResponse | None:
        data = document["output"].encode("utf-8", "surrogateescape")
        if vertex.log_bytes >= _LOG_BYTES:
            return None
        if self._log_bytes >= _ALL_LOG_BYTES:
            vertex.log_bytes, data = _LOG_BYTES, b""
        vertex.log_bytes += len(data)
        self._log_bytes += len(data)
        if vertex.log_bytes >= _LOG_BYTES:
            data += b"\n[the rest of the output is left out: a step has 2 MiB, a build 64]\n"
        log = pb.VertexLog(
            vertex=vertex.message.digest, timestamp=moment(document["time"]), stream=document["stream"], msg=data
        )
        return pb.StatusResponse(logs=[log])

    @staticmethod
    def _task(vertex: _Vertex, document: Document) -> pb.StatusResponse:
        """Part of a vertex, with a beginning and an end of its own."""
        status = pb.VertexStatus(
            id=document["task"],
            vertex=vertex.message.digest,
            current=document.get("current", 0),
            total=document.get("total", 0),
            timestamp=moment(document["time"]),
            started=moment(document["began"]),
        )
        if document.get("done"):
            status.completed.CopyFrom(moment(document["time"]))
        return pb.StatusResponse(statuses=[status])

    @staticmethod
    def _layer(vertex: _Vertex, document: Document) -> pb.StatusResponse | None:
        """A layer that is pulled or pushed."""
        text = document.get("status", "")
        now = moment(document["time"])
        key = str(document["id"])
        if text in _MOVING:
            name = f"{_MOVING[text]}{key}"
            status = vertex.layers.get(name)
            if status is None:
                status = vertex.layers[name] = pb.VertexStatus(id=name, vertex=vertex.message.digest, started=now)
            detail = document.get("progressDetail") or {}
            status.current = int(detail.get("current") or 0)
            status.total = int(detail.get("total") or 0)
            status.timestamp.CopyFrom(now)
            return pb.StatusResponse(statuses=[status])
        if text not in _AT_REST:
            return None
        ended = [
            status for name, status in vertex.layers.items() if name.endswith(key) and not status.HasField("completed")
        ]
        for status in ended:
            status.current = status.total or status.current
            status.timestamp.CopyFrom(now)
            status.completed.CopyFrom(now)
        return pb.StatusResponse(statuses=ended) if ended else None

    def _warning(self, document: Document) -> pb.StatusResponse | None:
        """Of the linter, or about a build as a whole; what the parser warns of the linter says too."""
        rule = document.get("rule", "")
        if not rule and document.get("line"):
            return None
        vertex = next(iter(self._vertexes.values()), None)
        short = f"{rule}: {document['warning']}" if rule else document["warning"]
        if document.get("line"):
            short += f" (line {document['line']})"
        message = pb.VertexWarning(
            vertex=document.get("vertex") or (vertex.message.digest if vertex is not None else ""),
            level=1,
            short=short.encode("utf-8", "surrogateescape"),
        )
        if document.get("detail"):
            message.detail.append(document["detail"].encode())
        if rule:
            message.url = rule_url(rule)
            message.info.CopyFrom(source_info(document["file"], document["source"]))
            message.ranges.append(line_range((document["line"], document["line"])))
        return pb.StatusResponse(warnings=[message])


class Steps:
    """Vertexes that are no instruction: contexts, outputs."""

    def __init__(self, first: int) -> None:
        self._next = first

    def begin(self, name: str) -> Task:
        self._next += 1
        return Task(self._next, name)


class Task:
    """One vertex, as documents."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self._began: dict[str, int] = {}
        self.opening: Document = {"step": number, "name": name, "shown": name, "stage": "", "started": time.time_ns()}

    def part(self, name: str, *, current: int = 0, total: int = 0, done: bool = False) -> Document:
        now = time.time_ns()
        began = self._began.setdefault(name, now)
        return {
            "step": self.number,
            "task": name,
            "began": began,
            "time": now,
            "current": current,
            "total": total,
            "done": done,
        }

    def status(self, document: Mapping[str, Any]) -> Document:
        """Progress of a pull or a push."""
        return {"step": self.number, **document, "time": time.time_ns()}

    def end(self, error: str = "") -> Document:
        document: Document = {"step": self.number, "completed": time.time_ns()}
        if error:
            document["error"] = error
        return document


def of_part(document: Document, number: int, platform: str) -> Document:
    """A document of one of several builds that make one result: its steps are not those of the others.

    number: of the build, from 0; platform: that it is for, "" when it is alone
    """
    if not isinstance(document.get("step"), int):
        return document
    moved = {**document, "step": document["step"] + number * _PART_STEPS}
    if platform and "stage" in moved:
        moved["stage"] = f"{platform} {moved['stage']}"
    if platform and str(moved.get("shown", "")).startswith("["):
        moved["shown"] = f"[{platform} {moved['shown'][1:]}"
    return moved


def program_failed(command: str, code: int) -> str:
    """As BuildKit's executor tells it; some clients look for the words."""
    return f'process "{command}" did not complete successfully: exit code: {code}'


def vertex_digest(ref: str, number: int) -> str:
    return "sha256:" + hashlib.sha256(f"{ref}\0{number}".encode()).hexdigest()


def moment(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def line_range(lines: tuple[int, int]) -> pb.Range:
    first, last = lines
    return pb.Range(start=pb.Position(line=first), end=pb.Position(line=last))


def source_info(name: str, content: str) -> pb.SourceInfo:
    return pb.SourceInfo(filename=name, data=content.encode("utf-8", "surrogateescape"), language="Dockerfile")


def rule_url(rule: str) -> str:
    """``StageNameCasing`` -> …/stage-name-casing/"""
    words = "".join(f"-{letter.lower()}" if letter.isupper() and number else letter.lower()
                    for number, letter in enumerate(rule.replace("JSON", "Json")))  # fmt: skip
    return f"{URL}{words}/"


def replayed(ref: str, log: Sequence[Document]) -> Iterator[pb.StatusResponse]:
    """The messages of a build that has ended."""
    translator = Translator(ref)
    for document in log:
        message = translator.translate(document)
        if message is not None:
            yield message
