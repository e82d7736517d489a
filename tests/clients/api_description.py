"""An OpenAPI 3 description of the Engine API for programs that make requests of one.

Operations and parameters are the rows of engine_api.txt; the documents that clients send are Corten's own types, so
that every field that the daemon reads is in it.  What an operation may answer is said too: 2xx, 3xx, and 4xx with a
document of one message; 501 and 503 only where the documentation leaves something to others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from api_table import NEWEST, Operation, Parameter

from corten.dockerapi import container, network, volume

Document = dict[str, Any]

BODIES: dict[str, type[container.Document]] = {
    "POST /commit": container.ContainerConfig,
    "POST /containers/create": container.ContainerCreate,
    "POST /containers/{id}/exec": container.ExecCreate,
    "POST /containers/{id}/update": container.ContainerUpdate,
    "POST /exec/{id}/start": container.ExecStart,
    "POST /networks/create": network.NetworkCreate,
    "POST /networks/{id}/connect": network.NetworkConnect,
    "POST /networks/{id}/disconnect": network.NetworkDisconnect,
    "POST /volumes/create": volume.VolumeCreate,
}
ARCHIVES = frozenset(("inputStream", "inputImage", "imagesTarball", "tarContext"))
_MESSAGE: Document = {
    "type": "object",
    "properties": {"message": {"type": "string", "minLength": 1}},
    "required": ["message"],
    "additionalProperties": False,
}
_KINDS: dict[str, Document] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "string": {"type": "string"},
    "array": {"type": "array", "items": {"type": "string"}},
}
_FILTERS: Document = {"type": "object", "additionalProperties": _KINDS["array"]}


def describe(rows: Iterable[Operation], wishes: dict[str, dict[str, Document]], left: dict[str, list[int]]) -> Document:
    """The description of some rows.

    wishes: of an operation, schemas to use for parameters by their name in place of what their type says
    left:   of an operation, the 5xx that it may answer
    """
    _, schemas = msgspec.json.schema_components(BODIES.values(), ref_template="#/components/schemas/{name}")
    paths: dict[str, Document] = {}
    for row in rows:
        item = paths.setdefault(row.path, {})
        item[row.method.lower()] = _operation(row, wishes.get(row.key, {}), left.get(row.key, []))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Engine API", "version": ".".join(map(str, NEWEST))},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(row: Operation, wishes: dict[str, Document], left: list[int]) -> Document:
    told: Document = {"content": {"application/json": {"schema": _MESSAGE}}}
    if row.method == "HEAD":
        told = {}
    answers = {"2XX": {"description": "done"}, "3XX": {"description": "as it was"}}
    answers |= {str(status): {"description": "refused", **told} for status in ("4XX", *left)}
    operation: Document = {
        "operationId": re.sub(r"\W+", "_", row.key),
        "parameters": [_parameter(item, wishes) for item in row.parameters if item.place in ("path", "query")],
        "responses": answers,
    }
    for item in row.parameters:
        if item.place == "body":
            operation["requestBody"] = {"required": item.name not in ARCHIVES, "content": _content(row, item)}
    return operation


def _parameter(item: Parameter, wishes: dict[str, Document]) -> Document:
    found: Document = {"name": item.name, "in": item.place, "required": item.place == "path"}
    if item.name == "filters":
        return {**found, "content": {"application/json": {"schema": _FILTERS}}}
    return {**found, "schema": wishes.get(item.name, _KINDS[item.kind])}


def _content(row: Operation, item: Parameter) -> Document:
    if item.name in ARCHIVES:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    known = BODIES.get(row.key)
    schema = {"$ref": f"#/components/schemas/{known.__name__}"} if known else {"type": "object"}
    return {"application/json": {"schema": schema}}
