"""list: all containers."""

from __future__ import annotations

import argparse
import contextlib
import json

from corten.errors import NotFound
from corten.runtime.oci import reports
from corten.runtime.oci.call import Call
from corten.runtime.state import document

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-q", "--quiet", action="store_true", help="ids only")
    command.add_argument("-f", "--format", default="table", choices=("table", "json"))


def run(call: Call) -> int:
    documents = []
    for container_id in call.states.ids():
        with contextlib.suppress(NotFound):
            state = call.states.load(container_id)
            documents.append(document(state, call.states.status(state)))
    if call.options.format == "json":
        call.print(json.dumps(documents))
    elif call.options.quiet:
        for item in documents:
            call.print(item["id"])
    else:
        rows = [tuple(str(item[name]) for name in _COLUMNS) for item in documents]
        call.print(reports.table([tuple(name.upper() for name in _COLUMNS), *rows]))
    return 0
