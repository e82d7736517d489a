"""``--output`` and what belongs to it: where the result of a build goes.

Source: docs.docker.com, "docker buildx build", ``--output``, ``--annotation``, ``--attest``, ``--metadata-file``.
"""

from __future__ import annotations

import json
import os
import sys

from corten.cli.flags import UsageError
from corten.cli.progress import show_progress
from corten.client.references import complete
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context
    from corten.cli.flags import Options

KINDS = ("local", "tar", "oci", "docker", "image", "registry")
_TRUTH = {"true": True, "1": True, "": True, "false": False, "0": False}
_FILES = frozenset({"dest"})
_PACKED = frozenset({"name", "compression", "compression-level", "force-compression", "oci-mediatypes"})
_KNOWN = {
    "local": _FILES,
    "tar": _FILES,
    "oci": _FILES | _PACKED | {"rewrite-timestamp"},
    "docker": _FILES | _PACKED | {"rewrite-timestamp"},
    "image": _PACKED | {"push", "push-by-digest", "rewrite-timestamp"},
    "registry": _PACKED | {"push-by-digest", "rewrite-timestamp"},
}


class Output:
    """kind: one of ``KINDS``; dest: a path, "-" for standard output, "" for the image store or a registry"""

    __slots__ = (
        *("annotations", "by_digest", "compression", "dest", "kind", "level", "names"),
        *("oci_types", "push", "rewrite"),
    )

    def __init__(self, kind: str, dest: str = "") -> None:
        self.kind = kind
        self.dest = dest
        self.names: list[str] = []
        self.push = kind == "registry"
        self.by_digest = False
        self.compression = ""
        self.level: int | None = None
        self.oci_types = True
        self.rewrite = False
        self.annotations: list[str] = []

    @property
    def is_stored(self) -> bool:
        """The image store has it under its names."""
        return self.kind == "image" or (self.kind == "docker" and not self.dest)

    def put(self, name: str, value: str) -> None:
        """One option.  Errors: UsageError."""
        if name == "dest":
            self.dest = value
        elif name == "name":
            self.names = [item for item in value.split(",") if item]
        elif name == "compression":
            self.compression = value
        elif name == "compression-level":
            if not (value.isascii() and value.isdigit()):
                raise UsageError(f"invalid compression-level {value!r}: a number is needed")
            self.level = int(value)
        elif name.startswith("annotation"):
            self.annotations.append(_annotation(name, value))
        else:
            self._switch(name, value)

    def _switch(self, name: str, value: str) -> None:
        if value.lower() not in _TRUTH:
            raise UsageError(f"non-bool value {value!r} for {name}")
        answer = _TRUTH[value.lower()]
        if name == "push":
            self.push = answer
        elif name == "push-by-digest":
            self.push, self.by_digest = self.push or answer, answer
        elif name == "oci-mediatypes":
            self.oci_types = answer
        elif name == "rewrite-timestamp":
            self.rewrite = answer
        elif name == "force-compression" and answer and not self.compression:
            self.compression = "gzip"


def _annotation(name: str, value: str) -> str:
    """``annotation-index[PLATFORM].KEY=value`` -> ``index[PLATFORM]:KEY=value``."""
    kind, _, key = name.partition(".")
    if not key:
        raise UsageError(f"invalid output option {name!r}: annotation[-TYPE].NAME is needed")
    kind = kind.removeprefix("annotation").removeprefix("-")
    return f"{kind if kind and not kind.startswith('[') else 'manifest' + kind}:{key}={value}"


def read_outputs(options: Options) -> list[Output]:
    """All outputs; none given means the image store.  Errors: UsageError."""
    found = [_read(text) for text in options.many("output")]
    if options.switch("push"):
        if not found:
            found.append(Output("image"))
        for output in found:
            if output.kind not in ("image", "registry"):
                raise UsageError(f"push and {output.kind!r} output can't be used together")
            output.push = True
    if options.switch("load") and not any(output.is_stored for output in found):
        found.append(Output("docker"))
    return found or [Output("image")]


def _read(text: str) -> Output:
    if "=" not in text:
        return Output("tar", "-") if text == "-" else Output("local", text)
    import csv

    pairs = [item.partition("=")[::2] for item in next(csv.reader([text]))]
    options = {name.strip().lower(): value for name, value in pairs}
    kind = options.pop("type", "")
    if kind not in KINDS:
        raise UsageError(f"invalid output type {kind!r}: one of {', '.join(KINDS)}")
    made = Output(kind)
    for name, value in options.items():
        if name not in _KNOWN[kind] and not (name.startswith("annotation") and kind not in ("local", "tar")):
            raise UsageError(f"output type {kind} has no option {name!r}")
        made.put(name, value)
    if kind == "local" and not made.dest:
        raise UsageError("dest is required for local exporter")
    if kind in ("tar", "oci"):
        made.dest = made.dest or "-"
    return made


def read_attestations(options: Options) -> tuple[str, bool]:
    """(mode of the provenance or nothing, whether there is an SBOM).  Errors: UsageError."""
    mode, has_sbom = "", False
    texts = [*options.many("attest")]
    texts += [f"type=provenance,{text}" for text in options.many("provenance")]
    texts += [f"type=sbom,{text}" for text in options.many("sbom")]
    for text in texts:
        pairs = [item.partition("=") for item in text.split(",") if item]
        given = {name if equals else "enabled": value if equals else name for name, equals, value in pairs}
        kind = given.pop("type", given.pop("enabled", "") if "type" not in given else "")
        enabled = given.pop("enabled", "true").lower()
        if enabled in ("min", "max"):
            given["mode"], enabled = enabled, "true"
        disabled = given.pop("disabled", "false").lower() == "true" or enabled == "false"
        if kind == "provenance":
            mode = "" if disabled else given.pop("mode", "min")
            if mode not in ("", "min", "max") or given.pop("version", "v1") != "v1":
                raise UsageError(f"invalid attestation {text!r}: mode=min or max, version=v1")
        elif kind == "sbom":
            has_sbom = not disabled
        else:
            raise UsageError(f"invalid attestation type {kind!r}: provenance or sbom")
        if given:
            raise UsageError(f"invalid attestation {text!r}: unknown option {next(iter(given))!r}")
    return mode, has_sbom


def check_outputs(outputs: list[Output], options: Options) -> None:
    """What cannot be delivered in the end.  Errors: InvalidParameter."""
    mode, has_sbom = read_attestations(options)
    noted = bool(mode or has_sbom or options.many("annotation") or any(output.annotations for output in outputs))
    if noted and all(output.is_stored and not output.push for output in outputs):
        raise InvalidParameter(
            "annotations and attestations stand in manifests, which the image store does not keep: "
            "use --push or --output type=oci"
        )
    if any(output.push and not (output.names or options.many("tag")) for output in outputs):
        raise InvalidParameter("tag is needed when pushing to registry")


class Built:
    """One image that was built.  platform: as it was asked for, "" for this machine's"""

    __slots__ = ("build", "image", "platform")

    def __init__(self, image: str, build: str, platform: str) -> None:
        self.image = image
        self.build = build
        self.platform = platform


class Delivery:
    """Brings a result to its outputs, and notes what metadata files say of it."""

    def __init__(self, context: Context, built: list[Built], options: Options) -> None:
        self._context = context
        self._built = built
        self._tags: list[str] = options.many("tag")
        self._annotations: list[str] = options.many("annotation")
        self._provenance, self._sbom = read_attestations(options)
        self._quiet = options.switch("quiet") or options.text("progress") in ("quiet", "rawjson")
        self.metadata: dict[str, Any] = {}

    def deliver(self, outputs: list[Output]) -> None:
        """Errors: InvalidParameter, OSError, those of the daemon."""
        for output in outputs:
            if output.push:
                self._push(output)
            elif output.dest:
                self._export(output)

    def _request(self, output: Output, kind: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "images": [{"image": item.image, "build": item.build} for item in self._built],
            "format": kind,
            "names": output.names or self._tags,
            "compression": output.compression,
            "level": output.level,
            "oci_types": output.oci_types,
            "provenance": self._provenance,
            "sbom": self._sbom,
            "by_digest": output.by_digest,
        }
        if kind != "tar":
            request["annotations"] = self._annotations + output.annotations
        return {name: value for name, value in request.items() if value is not None}

    def _push(self, output: Output) -> None:
        from corten.client.credentials import CredentialFile
        from corten.client.transfers import auth_headers

        names = output.names or self._tags
        for name in names:
            request = {**self._request(output, "registry"), "names": [name]}
            headers = [*auth_headers(CredentialFile().for_image(name)), ("Content-Type", "application/json")]
            body = json.dumps(request).encode()
            with self._context.api.stream("POST", "/corten/builds/push", body=body, headers=headers) as response:
                self._note(show_progress(response, None if self._quiet else self._context.err))
        self.metadata["image.name"] = ",".join(complete(name) for name in names)

    def _note(self, descriptor: dict[str, Any]) -> None:
        self.metadata["containerimage.descriptor"] = descriptor
        self.metadata["containerimage.digest"] = descriptor["digest"]

    def _export(self, output: Output) -> None:
        from corten.cli import archive

        kind = "tar" if output.kind == "local" else output.kind
        with self._context.api.stream(
            "POST", "/corten/builds/export", document=self._request(output, kind)
        ) as response:
            descriptor = response.headers.get("x-corten-descriptor")
            if descriptor:
                self._note(json.loads(descriptor))
            if output.kind == "local":
                os.makedirs(output.dest, exist_ok=True)
                archive.unpack(response, output.dest, keep_owner=os.geteuid() == 0)
            elif output.dest == "-":
                if sys.stdout.isatty():
                    raise InvalidParameter("dest is needed: the result is no text for a terminal")
                for piece in response:
                    self._context.raw_out.write(piece)
                self._context.raw_out.flush()
            else:
                _write(output.dest, response)


def _write(path: str, pieces: Any) -> None:
    """A file that is there completely or not at all."""
    if os.path.isdir(path):
        raise InvalidParameter(f"destination is a directory: {path}")
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(part, "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
