"""What the history of builds keeps of one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from corten.build.build import Build
from corten.build.history import CANCELED, COMPLETED, ERROR, Record
from corten.build.options import BuildOptions
from corten.dockerapi.build import BuildQuery
from corten.engine.build_contexts import Gathered


def new_record(
    query: BuildQuery, options: BuildOptions, gathered: Gathered, lines: Sequence[str], note: Mapping[str, Any]
) -> Record:
    """Of a build that begins now.  note: further fields"""
    context, name = _context(query, gathered)
    record = Record(
        name=query.tags[0] if query.tags else name,
        started=time.time_ns(),
        context=context,
        dockerfile=options.dockerfile,
        definition="\n".join(lines),
        arguments=dict(options.arguments),
        labels=dict(options.labels),
        secrets=sorted(options.secrets),
        target=options.target,
        network=options.network,
        no_cache=options.no_cache,
        allow=sorted(options.allow),
        tags=list(query.tags),
    )
    for field, value in note.items():
        setattr(record, field, value)
    return record


def _context(query: BuildQuery, gathered: Gathered) -> tuple[str, str]:
    """(where the files came from, a short name for it)"""
    source = gathered.request.contexts.get("")
    if query.remote or (source is not None and source.url):
        address = query.remote or (source.url if source is not None else "")
        return address, os.path.basename(address.partition("#")[0].rstrip("/"))
    if source is not None and source.directory is not None:
        path = source.directory.path
        return f"file://{path}", os.path.basename(path)
    return "", ""


def finish_record(record: Record, build: Build, failure: str, *, cancelled: bool) -> None:
    """With what the build came to.  failure: "" for one that went well"""
    record.completed = time.time_ns()
    record.platform = str(build.platform)
    record.materials = dict(build.images.materials)
    record.secrets = sorted(build.options.secrets)
    record.steps = build.steps.total
    record.cached = build.steps.cached
    record.image = build.image
    record.error = failure
    record.status = CANCELED if cancelled else ERROR if failure else COMPLETED
