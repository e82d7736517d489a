"""How an image came to be, as an in-toto statement with a SLSA provenance.

Sources: in-toto attestation framework, "Statement" v1; SLSA v1.0, "Provenance"; BuildKit's documents of both name the
frontend's arguments as they do here.
"""

from __future__ import annotations

from typing import Any

from corten.build.history import Record
from corten.oci.config import format_time

Document = dict[str, Any]
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:corten:build:dockerfile:v1"
BUILDER = "urn:corten"
MODES = ("min", "max")


def provenance(record: Record, mode: str, log: list[Document]) -> Document:
    """The predicate.  mode: "max" tells of arguments, the Dockerfile and every step too, which may be private."""
    request: Document = {"frontend": "dockerfile.v0", "target": record.target, "platform": record.platform}
    definition: Document = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "configSource": {"uri": record.context, "path": record.dockerfile},
            "request": request,
        },
        "internalParameters": {"builderPlatform": record.platform},
        "resolvedDependencies": [
            {"uri": address, "digest": dict([digest.split(":", 1)])}
            for address, digest in sorted(record.materials.items())
        ],
    }
    metadata: Document = {
        "invocationId": record.id,
        "startedOn": format_time(record.started),
        "finishedOn": format_time(record.completed),
    }
    if mode == "max":
        request["args"] = {f"build-arg:{name}": value or "" for name, value in sorted(record.arguments.items())}
        request["args"].update({f"label:{name}": value for name, value in sorted(record.labels.items())})
        request["secrets"] = [{"id": name, "optional": True} for name in record.secrets]
        definition["internalParameters"]["definition"] = record.definition
        definition["internalParameters"]["steps"] = _steps(log)
        definition["internalParameters"]["network"] = record.network or "default"
        definition["internalParameters"]["entitlements"] = record.allow
    return {"buildDefinition": definition, "runDetails": {"builder": {"id": BUILDER}, "metadata": metadata}}


def _steps(log: list[Document]) -> list[Document]:
    found: dict[int, Document] = {}
    for document in log:
        number = document.get("step")
        if number is None:
            continue
        if "started" in document:
            found[number] = {
                "stage": document["stage"],
                "name": document["name"],
                "startedOn": format_time(document["started"]),
            }
        elif "completed" in document and number in found:
            found[number]["finishedOn"] = format_time(document["completed"])
            found[number]["cached"] = bool(document.get("cached"))
    return [found[number] for number in sorted(found)]


def statement(predicate_type: str, predicate: Document, subjects: list[Document]) -> Document:
    """subjects: ``{"name": …, "digest": {"sha256": …}}``"""
    return {"_type": STATEMENT, "subject": subjects, "predicateType": predicate_type, "predicate": predicate}
