"""The configuration of an image on its way through a build, and the history lines of its steps.

The lines are those of dockerd's builder, since tools read them.  Sources: Dockerfile reference; image-spec config.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corten.image.run_config import Run, environment, shell_of
from corten.oci import config as image_config
from corten.oci.platform import Platform

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class State:
    """An image on its way: what the next instruction starts from.

    image: its id, "" for scratch; document: its config; run: ``config`` of the document, with what is not committed yet
    """

    image: str
    document: dict[str, Any]
    run: Run
    author: str = ""

    @property
    def shell(self) -> tuple[str, ...]:
        return shell_of(self.run)

    @property
    def variables(self) -> dict[str, str]:
        return environment(self.run)


def scratch(platform: Platform) -> State:
    """An image without anything."""
    document = image_config.new_config(platform=platform, created=image_config.EPOCH_ZERO, run={})
    return State("", document, with_path({}))


def begun(image_id: str, document: dict[str, Any]) -> State:
    """The state after FROM: triggers are taken out by the caller."""
    return State(
        image_id, document, with_path(copy.deepcopy(document.get("config") or {})), document.get("author") or ""
    )


def with_path(run: Run) -> Run:
    """As dockerd: whatever is run in a step finds its programs."""
    if not any(item.startswith("PATH=") for item in run.get("Env") or ()):
        run["Env"] = [*(run.get("Env") or ()), DEFAULT_PATH]
    return run


def child_document(
    state: State, run: Run, *, created: str, created_by: str, diff_id: str, comment: str = "", author: str = ""
) -> dict[str, Any]:
    """The config of the image that a step makes.  diff_id: of its layer, "" for none."""
    document = copy.copy(state.document)
    document["created"] = created
    if author:
        document["author"] = author
    else:
        document.pop("author", None)
    document["config"] = {key: value for key, value in run.items() if value not in (None, "", [], {}, False)}
    if run.get("Cmd") == [] or run.get("Entrypoint") == []:
        # an empty list says that there is none, as the instruction did
        for key in ("Cmd", "Entrypoint"):
            if run.get(key) == []:
                document["config"][key] = []
    rootfs = dict(document["rootfs"])
    if diff_id:
        rootfs["diff_ids"] = [*rootfs.get("diff_ids", ()), diff_id]
    document["rootfs"] = rootfs
    step: dict[str, Any] = {"created": created}
    for key, value in (("author", author), ("created_by", created_by), ("comment", comment)):
        if value:
            step[key] = value
    if not diff_id:
        step["empty_layer"] = True
    document["history"] = [*(document.get("history") or ()), step]
    return document


def no_operation(shell: Sequence[str], text: str, *, gap: str = "  ") -> str:
    """The history line of what runs nothing."""
    return f"{' '.join(shell)} #(nop){gap}{text}"


def run_line(command: Sequence[str], arguments: Sequence[str]) -> str:
    """The history line of RUN: build arguments that it sees stand in front."""
    line = " ".join(command)
    return f"|{len(arguments)} {' '.join(arguments)} {line}" if arguments else line


def visible_arguments(arguments: Mapping[str, str | None], run: Run, declared_only: frozenset[str]) -> list[str]:
    """Build arguments as RUN sees them ("NAME=value", sorted): ENV of the same name hides them.

    declared_only: predefined names that stay out of the history
    """
    known = environment(run)
    return [
        f"{name}={value}"
        for name, value in sorted(arguments.items())
        if value is not None and name not in known and name not in declared_only
    ]
