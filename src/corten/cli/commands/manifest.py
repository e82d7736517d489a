"""``corten manifest`` and ``corten copy``: what lies in registries, without a daemon.

A list that is being made lies in ``manifest-lists`` beside ``config.json`` until it is pushed or removed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.progress import Display
from corten.cli.registries import connected, credentials_for
from corten.client.credentials import config_directory
from corten.client.references import complete, domain_of
from corten.errors import Conflict, InvalidParameter, NotFound
from corten.oci import reference
from corten.oci.platform import parse_platform
from corten.registry.copying import Copy
from corten.registry.manifests import Entry, Lookup, made_list, push_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context


class Lists:
    """Lists that are being made: a directory for each, a file for each image in it."""

    def __init__(self) -> None:
        self._top = config_directory() / "manifest-lists"

    @staticmethod
    def _escaped(name: str) -> str:
        return complete(name).replace("_", "__").replace("/", "_").replace(":", "-")

    def _directory(self, name: str) -> Path:
        reference.parse(name)  # what is no reference is no part of a path
        return self._top / self._escaped(name)

    def exists(self, name: str) -> bool:
        return self._directory(name).is_dir()

    def entries(self, name: str) -> list[Entry]:
        """In the order in which they were put in.  Errors: NotFound, InvalidParameter (damaged)."""
        directory = self._directory(name)
        try:
            files = sorted(directory.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
            return [Entry(**json.loads(path.read_text())) for path in files]
        except (ValueError, TypeError) as error:
            raise InvalidParameter(f"invalid {directory}: {error}") from None

    def put(self, name: str, entry: Entry, *, again: bool = False) -> None:
        directory = self._directory(name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{entry.digest.partition(':')[2]}.json"
        before = path.stat() if again else None
        path.write_text(json.dumps(asdict(entry)))
        if before is not None:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # its place in the list stays

    def remove(self, name: str) -> None:
        """Errors: NotFound."""
        if not self.exists(name):
            raise NotFound(f"No such manifest: {name}")
        shutil.rmtree(self._directory(name))


def _insecure(options: flags.Options, *names: str) -> tuple[str, ...]:
    return tuple(domain_of(name) for name in names) if options.switch("insecure") else ()


def _inspect(context: Context, options: flags.Options, arguments: list[str]) -> None:
    name = arguments[-1]
    lists = Lists()
    if len(arguments) == 2:
        context.print(_json(_entry(lists, arguments[0], name).descriptor()))
        return
    if lists.exists(name):
        entries = lists.entries(name)
        context.print(_json(json.loads(made_list(entries)[0])))
        return
    with connected(*_insecure(options, name)) as (registry, transport):
        lookup = Lookup(registry, transport, name, credentials_for(name))
        context.print(_json(lookup.verbose() if options.switch("verbose") else lookup.document()))


def _json(document: Any) -> str:
    return json.dumps(document, indent="\t", ensure_ascii=False)


def _entry(lists: Lists, name: str, image: str) -> Entry:
    """Errors: NotFound."""
    if not lists.exists(name):
        raise NotFound(f"No such manifest: {name}")
    wanted = reference.parse(image).with_default_tag()
    for entry in lists.entries(name):
        known = reference.parse(entry.name)
        if known.repository == wanted.repository and wanted.digest in ("", known.digest):
            return entry
    raise NotFound(f"manifest for image {image} does not exist in {name}")


def _create(context: Context, options: flags.Options, arguments: list[str]) -> None:
    name, images = arguments[0], arguments[1:]
    lists = Lists()
    if lists.exists(name) and not options.switch("amend"):
        raise Conflict("refusing to amend an existing manifest list with no --amend flag")
    with connected(*_insecure(options, name, *images)) as (registry, transport):
        found = [Lookup(registry, transport, image, credentials_for(image)).entry() for image in images]
    for entry in found:
        lists.put(name, entry)
    context.print(f"Created manifest list {complete(name)}")


def _annotate(context: Context, options: flags.Options, arguments: list[str]) -> None:
    lists = Lists()
    entry = _entry(lists, *arguments)
    changed = replace(
        entry,
        os=options.text("os") or entry.os,
        architecture=options.text("arch") or entry.architecture,
        variant=options.text("variant") or entry.variant,
    )
    parse_platform("/".join(part for part in (changed.os, changed.architecture, changed.variant) if part))
    lists.put(arguments[0], changed, again=True)


def _push(context: Context, options: flags.Options, arguments: list[str]) -> None:
    name = arguments[0]
    lists = Lists()
    if not lists.exists(name):
        raise NotFound(f"No such manifest: {name}")
    entries = lists.entries(name)
    names = [name, *(entry.name for entry in entries)]
    keys = {domain_of(each): credentials_for(each) for each in names}
    with connected(*_insecure(options, *names)) as (registry, transport):
        digest = push_list(registry, transport, name, entries, keys, Display(context.err).show)
    context.print(digest)
    if options.switch("purge"):
        lists.remove(name)


def _remove(context: Context, _options: flags.Options, names: list[str]) -> None:
    lists = Lists()
    for name in names:
        lists.remove(name)


def _copy(context: Context, options: flags.Options, arguments: list[str]) -> None:
    source, target = (reference.parse(name).with_default_tag() for name in arguments)
    if target.digest:
        raise InvalidParameter("cannot copy to a digest: name the target by a tag")
    platform = parse_platform(options.text("platform")) if options.text("platform") else None
    keys = (credentials_for(arguments[0]), credentials_for(arguments[1]))
    report = None if options.switch("quiet") else Display(context.err)
    with connected(*_insecure(options, *arguments)) as (registry, transport):
        copy = Copy(registry, transport, source, target, keys, report.show if report else lambda _: None)
        copied = copy.run(platform)
    context.print(f"{target.canonical}@{copied.digest}")


_INSECURE = flags.switch("insecure", "", "The registries need no TLS, and their certificates are not checked")

INSPECT = Command(
    _inspect,
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    (_INSECURE, flags.switch("verbose", "v", "Show each image with its descriptor and manifest")),
    least=1,
    most=2,
    examples=("manifest inspect debian:12",),
)
CREATE = Command(
    _create,
    "[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
    (flags.switch("amend", "a", "Put more images into a list that exists"), _INSECURE),
    least=2,
    most=None,
    examples=("manifest create r.example/app:1 r.example/app:1-amd64 r.example/app:1-arm64",),
)
ANNOTATE = Command(
    _annotate,
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    (
        flags.text("arch", "", "Processor architecture of the image"),
        flags.text("os", "", "Operating system of the image"),
        flags.text("variant", "", "Variant of the architecture"),
    ),
    least=2,
    most=2,
    examples=("manifest annotate --arch arm64 r.example/app:1 r.example/app:1-arm64",),
)
PUSH = Command(
    _push,
    "[OPTIONS] MANIFEST_LIST",
    (_INSECURE, flags.switch("purge", "p", "Remove the list here when it has been pushed")),
    least=1,
    most=1,
    examples=("manifest push --purge r.example/app:1",),
)
REMOVE = Command(
    _remove, "MANIFEST_LIST [MANIFEST_LIST...]", least=1, most=None, examples=("manifest rm r.example/app:1",)
)
COPY = Command(
    _copy,
    "[OPTIONS] SOURCE TARGET",
    (
        _INSECURE,
        flags.text("platform", "", "Only the image of this platform (os/architecture); else all of them"),
        flags.switch("quiet", "q", "Do not show the progress"),
    ),
    least=2,
    most=2,
    description="From registry to registry: nothing is stored here, digests stay the same.",
    examples=("copy debian:12 registry.example:5000/mirror/debian:12",),
)
