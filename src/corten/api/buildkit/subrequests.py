"""What a client may ask of the frontend instead of a build: mistakes, parameters, targets, and what can be asked.

Source: moby/buildkit, frontend/subrequests: names, versions and the shape of the answers ("result.json").
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corten.api.buildkit.attributes import Order
from corten.api.buildkit.progress import rule_url
from corten.build.contexts import NamedContexts
from corten.build.graph import Graph
from corten.dockerfile import instructions as ins
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.lint import Finding, Surroundings, check
from corten.dockerfile.parser import parse
from corten.dockerfile.words import WordError, expand
from corten.errors import InvalidParameter

Document = dict[str, Any]
Answer = dict[str, bytes]
LINT, OUTLINE, TARGETS = "frontend.lint", "frontend.outline", "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"
_VERSION = "1.0.0"


def answer(order: Order, content: bytes, around: Surroundings) -> Answer:
    """The metadata of the answer to ``order.request``.

    content: of the Dockerfile; around: what the linter may know
    Errors: InvalidParameter for an unknown request, DockerfileError.
    """
    handler = _HANDLERS.get(order.request)
    if handler is None:
        raise InvalidParameter(f"unsupported request {order.request}")
    return handler(order, content, around)


def _made(document: Any, text: str, **more: str) -> Answer:
    values = {"result.json": json.dumps(document, indent=2), "result.txt": text, "version": _VERSION, **more}
    return {name: value.encode("utf-8", "surrogateescape") for name, value in values.items()}


def _location(lines: tuple[int, int]) -> Document:
    return {"ranges": [{"start": {"line": lines[0]}, "end": {"line": lines[1]}}]}


def _of(instruction: ins.Instruction) -> Document:
    return _location((instruction.line.number, instruction.line.end))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def findings(file: ins.Dockerfile, wishes: str, around: Surroundings) -> tuple[list[Finding], bool]:
    """(what the linter finds, whether that is an error).

    wishes: of the client, as ``# check=`` has them; they count before the Dockerfile's
    Errors: InvalidParameter.
    """
    if not wishes:
        return check(file, around)
    directives = {**file.directives, "check": wishes}
    changed = ins.Dockerfile(file.stages, file.arguments, file.escape, directives, file.lines, file.warnings)
    return check(changed, around)


def _lint(order: Order, content: bytes, around: Surroundings) -> Answer:
    source = {"filename": order.query.dockerfile, "language": "Dockerfile", "data": _encoded(content)}
    document: Document = {"warnings": [], "sources": [source]}
    text = ""
    try:
        found, _ = findings(parse(content), order.check, around)
    except DockerfileError as error:
        document["buildError"] = {"message": str(error), "location": _location((error.line, error.line))}
        found, text = [], f"{error}\n"
    for item in found:
        document["warnings"].append(
            {
                "ruleName": item.rule,
                "url": rule_url(item.rule),
                "detail": item.message,
                "location": _location((item.line, item.line)),
            }
        )
        text += (
            f"\nWARNING: {item.rule} - {rule_url(item.rule)}\n{item.message}\n{order.query.dockerfile}:{item.line}\n"
        )
    is_bad = bool(found) or "buildError" in document
    return _made(document, text, **{"result.statuscode": "1" if is_bad else "0"})


# -- parameters -------------------------------------------------------------------------------------------------------


def _outline(order: Order, content: bytes, _around: Surroundings) -> Answer:
    file = parse(content)
    variables = _global_values(file, order.query.arguments)
    graph = Graph(file, variables, order.query.target, _Anything(order.named))
    target = file.stages[graph.target]
    document: Document = {"sources": [_encoded(content)]}
    if target.start.alias:
        document["name"] = target.start.alias
    description = _description(target.start.line.comment, target.start.alias)
    if description:
        document["description"] = description
    stages = [file.stages[number] for number in graph.needed]
    arguments = _arguments(file, stages, order.query.arguments)
    document.update({name: value for name, value in (("args", arguments), *_mounts(stages)) if value})
    return _made(document, _outline_text(document))


def _global_values(file: ins.Dockerfile, given: Mapping[str, str | None]) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in file.arguments:
        for name, default in item.pairs:
            wanted = given.get(name)
            try:
                values[name] = wanted if wanted is not None else expand(default or "", values, file.escape)
            except WordError as error:
                raise item.line.error(str(error)) from None
    return values


class _Anything(NamedContexts):
    """Names alone: what is behind them does not matter here."""

    def __init__(self, named: Mapping[str, str]) -> None:
        super().__init__({}, {name.partition("::")[0]: name for name in named})


def _arguments(file: ins.Dockerfile, stages: list[ins.Stage], given: Mapping[str, str | None]) -> list[Document]:
    listed = [*file.arguments, *(item for stage in stages for item in stage.instructions if isinstance(item, ins.Arg))]
    found: dict[str, Document] = {}
    for item in listed:
        for name, default in item.pairs:
            known = found.get(name, {})
            value = given.get(name) or default or known.get("value", "")
            made = {"name": name, "location": known.get("location") or _of(item)}
            description = _description(item.line.comment, name) or known.get("description", "")
            made.update({key: text for key, text in (("description", description), ("value", value)) if text})
            found[name] = made
    return list(found.values())


def _mounts(stages: list[ins.Stage]) -> Iterator[tuple[str, list[Document]]]:
    listed = [
        (item, mount)
        for stage in stages
        for item in stage.instructions
        if isinstance(item, ins.Run)
        for mount in item.mounts
    ]
    for key, kind in (("secrets", "secret"), ("ssh", "ssh"), ("cache", "cache")):
        made: dict[str, Document] = {}
        for item, mount in listed:
            if mount.type != kind:
                continue
            target = mount.options.get("target") or mount.options.get("dst") or mount.options.get("destination", "")
            name = mount.options.get("id") or (target if kind == "cache" else target.rpartition("/")[2]) or "default"
            document: Document = {"ID" if kind == "cache" else "name": name, "location": _of(item)}
            if kind != "cache" and mount.options.get("required", "false") in ("", "true"):
                document["required"] = True
            made.setdefault(name, document)
        yield key, list(made.values())


def _description(comment: str, name: str) -> str:
    """``# NAME what it is`` above an instruction."""
    last = comment.strip().splitlines()[-1:] or [""]
    word, _, text = last[0].strip().partition(" ")
    return text.strip() if name and word.lower() == name.lower() else ""


def _outline_text(document: Document) -> str:
    text = ""
    if document.get("name") or document.get("description"):
        text += f"TARGET:      {document.get('name') or '(default)'}\n"
        text += f"DESCRIPTION: {document['description']}\n" if document.get("description") else ""
        text += "\n"
    rows = [(item["name"], item.get("value", ""), item.get("description", "")) for item in document.get("args", ())]
    text += _table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows)
    for key, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        mounts = [(item["name"], str(item.get("required", False)).lower()) for item in document.get(key, ())]
        text += _table((title, "REQUIRED"), mounts)
    return text + _table(("CACHE MOUNT",), [(item["ID"],) for item in document.get("cache", ())])


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "".join(f"{line.rstrip()}\n" for line in lines) + "\n"


# -- targets ----------------------------------------------------------------------------------------------------------


def _targets(order: Order, content: bytes, _around: Surroundings) -> Answer:
    file = parse(content)
    listed: list[Document] = []
    for stage in file.stages:
        document: Document = {"base": stage.start.image, "location": _of(stage.start)}
        description = _description(stage.start.line.comment, stage.start.alias)
        if stage.start.alias:
            document["name"] = stage.start.alias
        if description:
            document["description"] = description
        if stage.start.platform:
            document["platform"] = stage.start.platform
        if stage.number == len(file.stages) - 1:
            document["default"] = True
        listed.append(document)
    shown = [item for item in listed if item.get("name") or item.get("default")]
    rows = [(_target_name(item), item.get("description", "")) for item in shown]
    return _made({"targets": shown, "sources": [_encoded(content)]}, _table(("TARGET", "DESCRIPTION"), rows))


def _target_name(item: Document) -> str:
    name = item.get("name", "")
    return f"{name} (default)".strip() if item.get("default") else name


# -- what can be asked ------------------------------------------------------------------------------------------------

_DESCRIPTIONS = (
    (LINT, "Look for mistakes in a Dockerfile", ("result.json", "result.txt", "result.statuscode")),
    (OUTLINE, "The parameters of a target", ("result.json", "result.txt")),
    (TARGETS, "The targets of a Dockerfile", ("result.json", "result.txt")),
    (DESCRIBE, "What can be asked", ("result.json", "result.txt")),
)


def _describe(_order: Order, _content: bytes, _around: Surroundings) -> Answer:
    listed = [
        {
            "name": name,
            "version": _VERSION,
            "type": "rpc",
            "description": description,
            "opts": [{"name": "target", "description": "stage"}] if name == OUTLINE else [],
            "inputs": None,
            "metadata": [{"name": item, "description": ""} for item in metadata],
            "refs": None,
        }
        for name, description, metadata in _DESCRIPTIONS
    ]
    rows = [(name.removeprefix("frontend."), _VERSION, description) for name, description, _ in _DESCRIPTIONS]
    return _made(listed, _table(("NAME", "VERSION", "DESCRIPTION"), rows))


_HANDLERS: dict[str, Callable[[Order, bytes, Surroundings], Answer]] = {
    LINT: _lint,
    OUTLINE: _outline,
    TARGETS: _targets,
    DESCRIBE: _describe,
}
