"""The history of builds as BuildKit's clients know it, and what they read beside a record: its provenance."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from corten.api.buildkit.filters import Filters
from corten.api.buildkit.progress import moment, replayed
from corten.build.history import CANCELED, RUNNING, Record
from corten.build.provenance import PREDICATE, provenance
from corten.buildkit.proto import control_pb2 as pb
from corten.dockerapi.codec import encode
from corten.dockerapi.timestamps import format_ns
from corten.errors import InvalidParameter, NotFound
from corten.grpc.status import Code
from corten.oci.digest import digest_of

if TYPE_CHECKING:
    from corten.build.history import History

IN_TOTO = "application/vnd.in-toto+json"
TIME_HEADER = "buildkit-current-timestamp"


class Records:
    """Read from the engine's history."""

    def __init__(self, history: History) -> None:
        self._history = history

    def events(self, request: pb.BuildHistoryRequest) -> list[pb.BuildHistoryEvent]:
        """What the history holds now, newest first; for worker threads.  Errors: InvalidParameter (filter)."""
        filters = Filters(request.filter)
        found = []
        parts: dict[str, list[Record]] = {}  # of builds for several platforms, by the build
        for record in self._history.all():
            if record.part_of:
                parts.setdefault(record.part_of, []).append(record)
                continue
            if request.ref and not record.id.startswith(request.ref):
                continue
            if request.active_only and record.status != RUNNING:
                continue
            if filters.match(partial(_field, record)):
                found.append(record)
        if request.limit:
            found = found[: request.limit]
        return [self._event(record, parts.get(record.id, ())) for record in found]

    def watched(self, changed: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """For the time of the block ``changed`` is called, from any thread, when there may be something new."""
        return self._history.watched(changed)

    def _event(self, record: Record, parts: Sequence[Record]) -> pb.BuildHistoryEvent:
        kind = pb.STARTED if record.status == RUNNING else pb.COMPLETE
        return pb.BuildHistoryEvent(type=kind, record=self._message(record, parts))

    def _message(self, record: Record, parts: Sequence[Record]) -> pb.BuildHistoryRecord:
        made = pb.BuildHistoryRecord(
            ref=record.id,
            frontend="dockerfile.v0",
            frontend_attrs=record.attributes or _attributes(record),
            exporters=[pb.Exporter(type=item["type"], attrs=item["attrs"]) for item in record.exporters],
            created_at=moment(record.started),
            exporter_response=record.response,
            generation=1,
            pinned=record.pinned,
            num_cached_steps=record.cached,
            num_total_steps=record.steps,
            num_completed_steps=record.steps if record.status != RUNNING else 0,
        )
        if record.completed:
            made.completed_at.CopyFrom(moment(record.completed))
        if record.error:
            code = Code.CANCELLED if record.status == CANCELED else Code.UNKNOWN
            made.error.CopyFrom(pb.ErrorStatus(code=code, message=record.error))
        elif record.completed:
            self._add_results(made, [record, *parts])
        return made

    def _add_results(self, made: pb.BuildHistoryRecord, parts: Sequence[Record]) -> None:
        for part in parts:
            info = pb.BuildResultInfo()
            content = self._provenance(part)
            info.attestations.add(
                media_type=IN_TOTO,
                digest=digest_of(content),
                size=len(content),
                annotations={"in-toto.io/predicate-type": PREDICATE},
            )
            if len(parts) > 1:
                made.results[part.platform].CopyFrom(info)
            else:
                made.result.CopyFrom(info)

    def _provenance(self, record: Record) -> bytes:
        return encode(provenance(record, "min", []))

    def content(self, digest: str) -> bytes:
        """What a record's descriptors name; for worker threads.  Errors: NotFound."""
        for record in self._history.all():
            if record.completed and not record.error and digest_of(content := self._provenance(record)) == digest:
                return content
        raise NotFound(f"content {digest}: not found")

    def update(self, request: pb.UpdateBuildHistoryRequest) -> None:
        """Pin or forget a record; for worker threads.  Errors: NotFound, InvalidParameter."""
        _check(request.ref)
        if request.delete:
            self._history.remove(request.ref)
        elif not request.finalize:
            record = self._history.get(request.ref)
            record.pinned = request.pinned
            self._history.put(record, self._history.log(request.ref))

    def log(self, ref: str) -> list[pb.StatusResponse]:
        """The progress of a build that has ended; for worker threads.  Errors: NotFound, InvalidParameter."""
        _check(ref)
        record = self._history.get(ref)
        return list(replayed(record.id, self._history.log(record.id)))


def changes(before: Mapping[str, bytes], now: Sequence[pb.BuildHistoryEvent]) -> tuple[dict[str, bytes], list[bytes]]:
    """(what a listener knows now: events by build, what it is to be told of), all serialized."""
    known = {event.record.ref: event.SerializeToString() for event in now}
    gone = [pb.BuildHistoryRecord(ref=ref) for ref in before if ref not in known]
    told = [event for ref, event in known.items() if before.get(ref) != event]
    told += [pb.BuildHistoryEvent(type=pb.DELETED, record=record).SerializeToString() for record in gone]
    return known, told


def _check(ref: str) -> None:
    """For the history, which people ask too, no ref is the newest build.  Errors: InvalidParameter."""
    if not ref:
        raise InvalidParameter("a record of a build needs a ref")


def now_header() -> dict[str, list[str]]:
    return {TIME_HEADER: [format_ns(time.time_ns())]}


def _field(record: Record, name: str) -> str | None:
    if name == "ref":
        return record.id
    if name == "status":
        return record.status
    if name == "repository":
        return record.attributes.get("vcs:source") or record.context
    if name == "duration":
        return str((record.completed or time.time_ns()) - record.started)
    if name in ("startedAt", "completedAt"):
        return str(record.started if name == "startedAt" else record.completed)
    return None


def _attributes(record: Record) -> dict[str, str]:
    """Of a build that came another way, as BuildKit's clients would have asked for it."""
    found = {f"build-arg:{name}": value or "" for name, value in record.arguments.items()}
    found.update({f"label:{name}": value for name, value in record.labels.items()})
    plain = (("filename", record.dockerfile), ("target", record.target), ("context", record.context))
    found.update({name: value for name, value in plain if value})
    if record.no_cache:
        found["no-cache"] = ""
    return found
