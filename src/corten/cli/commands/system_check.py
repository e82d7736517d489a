"""``corten system check``."""

from __future__ import annotations

import json

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL
from corten.client.transfers import every_auth_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

    Document = dict[str, Any]


def _line(document: Document) -> str:
    images = ", ".join(document["Images"])
    text = f"{document['Kind']} {document['Id']}" + (f" ({images})" if images else "") + f": {document['Problem']}"
    if document["Repair"]:
        text += f"\n  {'repaired' if document['Repaired'] else 'not repaired'}: {document['Repair']}"
    return text


def _summary(document: Document) -> str:
    checked = ", ".join(f"{count} {what.lower()}" for what, count in document["Checked"].items())
    problems = document["Problems"]
    if not problems:
        return f"{checked}: nothing is wrong"
    found = "1 problem" if problems == 1 else f"{problems} problems"
    return f"{checked}: {found}" + (f", {document['Repaired']} repaired" if document["Repaired"] else "")


def _check(context: Context, options: flags.Options, _arguments: list[str]) -> int:
    as_json = options.text("format") == "json"
    query = {"quick": options.switch("quick"), "repair": options.switch("repair")}
    left = 0
    with context.api.stream("POST", "/system/check", query, headers=every_auth_header()) as response:
        for line in response.lines():
            document = json.loads(line)
            if "Checked" in document:
                left = document["Problems"] - document["Repaired"]
            if as_json:
                context.print(json.dumps(document))
            else:
                context.print(_summary(document) if "Checked" in document else _line(document))
            context.out.flush()
    return GENERAL if left else 0


CHECK = Command(
    _check,
    "[OPTIONS]",
    (
        flags.text("format", "", "Print in this form: 'json' for one document a line"),
        flags.switch("quick", "", "Do not read the layers' files: look only whether everything has its place"),
        flags.switch("repair", "", "Fetch again what is damaged or lost, and remove what nothing names"),
    ),
    description=(
        "Checks every digest, every layer's files, names, directories of containers and volumes while the daemon "
        "works. Exits with 1 when something is wrong and was not repaired. A repair never removes what a user made."
    ),
    examples=("system check", "system check --repair"),
)
