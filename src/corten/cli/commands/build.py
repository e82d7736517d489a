"""``build``."""

from __future__ import annotations

import contextlib
import json
import os

from corten.cli import build_contexts, build_query, flags
from corten.cli.build_outputs import Built, Delivery, check_outputs, read_outputs
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.options import devices, network
from corten.cli.units import read_size
from corten.errors import Conflict, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.build_progress import Progress
    from corten.cli.context import Context
    from corten.client.response import Response

    Document = dict[str, Any]

_PROGRESS = ("auto", "plain", "tty", "explain", "rawjson", "quiet")


# -- the answer -------------------------------------------------------------------------------------------------------


class _Raw:
    """Every document as it came."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def show(self, document: Document) -> None:
        self._context.print(json.dumps(document))
        self._context.out.flush()

    def close(self) -> None:
        pass


def _progress(context: Context, mode: str) -> Progress:
    from corten.cli.build_progress import Live, Nothing, Plain

    if mode == "quiet":
        return Nothing()
    if mode == "rawjson":
        return _Raw(context)
    return Live(context.err) if mode == "tty" else Plain(context.err)


class _Answer:
    """What a build came to.  image, build: ids; stages: images of the other stages"""

    def __init__(self) -> None:
        self.image = self.build = ""
        self.stages: list[str] = []

    def follow(self, response: Response, progress: Progress) -> None:
        """Errors: ExitStatus with the exit code of the step that failed."""
        try:
            for line in response.lines():
                if not line.strip():
                    continue
                document = json.loads(line)
                progress.show(document)
                if "error" in document and "step" not in document:
                    detail = document.get("errorDetail") or {}
                    code = int(detail.get("code") or GENERAL)
                    raise ExitStatus(code, detail.get("message") or document["error"])
                self.build = document.get("build") or self.build
                self.stages = document.get("stages") or self.stages
                self.image = (document.get("aux") or {}).get("ID") or self.image
        finally:
            progress.close()


def _check(context: Context, place: str, file: str) -> None:
    """Look for mistakes without building.  Errors: ExitStatus when there are some, DockerfileError."""
    from corten.cli.context_tar import find_ignore
    from corten.dockerfile.lint import Surroundings, check
    from corten.dockerfile.parser import parse

    ignore = None
    if file == "-" or place == "-":
        name, content = "Dockerfile", build_contexts.standard_input()
    else:
        name = file or os.path.join(place, "Dockerfile")
        try:
            with open(name, "rb") as source:
                content = source.read()
        except OSError as error:
            raise NotFound(f"cannot read {name}: {error.strerror}") from None
        if os.path.isdir(place):
            ignore = find_ignore(place, os.path.relpath(name, place))
    parsed = parse(content)
    findings, is_error = check(parsed, Surroundings(ignore))
    for finding in findings:
        context.print(f"{'ERROR' if is_error else 'WARNING'}: {finding.rule}\n{finding.message}")
        context.print(f"{name}:{finding.line}\n{finding.line:4} | {parsed.lines[finding.line - 1]}\n")
    if findings:
        count = f"{len(findings)} warning{'s' if len(findings) > 1 else ''}"
        raise ExitStatus(GENERAL, f"Check complete, {count} found")
    context.print("Check complete, no warnings found.")


# -- building ---------------------------------------------------------------------------------------------------------


class _Job:
    """One command: a build for each platform, then its outputs."""

    def __init__(
        self, context: Context, options: flags.Options, place: str, mode: str, stack: contextlib.ExitStack
    ) -> None:
        self._context = context
        self._options = options
        self._mode = mode
        self.outputs = read_outputs(options)
        check_outputs(self.outputs, options)
        self._platforms = [item.strip() for text in options.many("platform") for item in text.split(",")] or [""]
        self._check_platforms()
        self._document = build_query.document(options, stack, rewrite_times=any(item.rewrite for item in self.outputs))
        if self._document.get("agents") and not context.api.transport.path:
            raise InvalidParameter("--ssh needs a daemon on this machine: agents are reached through their sockets")
        self._contexts = build_contexts.gather(place, options.text("file"))
        if options.many("build-context"):
            build_contexts.add_named(self._contexts, options.many("build-context"), self._layout_image)
        if len(self._platforms) > 1 and not self._contexts.can_be_sent_again:
            raise InvalidParameter("a context from standard input is read once: build it for one platform")
        self._imports, self._exports = self._caches()

    def _layout_image(self, text: str) -> str:
        from corten.cli.build_cache import layout_image

        return layout_image(self._context, text)

    def _check_platforms(self) -> None:
        if len(self._platforms) > 1 and any(item.is_stored and not item.push for item in self.outputs):
            raise InvalidParameter(
                "the image store keeps one platform under a name: for several use --push or --output type=oci|tar|local"
            )

    def _caches(self) -> tuple[list[str], list[Any]]:
        sources, targets = self._options.many("cache-from"), self._options.many("cache-to")
        if not sources and not targets:
            return [], []
        from corten.cli import build_cache

        exports = build_cache.read_options(targets, is_target=True)
        return build_cache.references(self._context, build_cache.read_options(sources, is_target=False)), exports

    def _tags(self) -> list[str]:
        """Names in the image store: those of an output of its kind."""
        if len(self._platforms) > 1:
            return []
        found: list[str] = []
        for output in self.outputs:
            if output.is_stored:
                found += output.names or self._options.many("tag")
        return list(dict.fromkeys(found))

    def _build(self, platform: str) -> _Answer:
        query = build_query.query(
            self._options,
            self._contexts.dockerfile,
            platform=platform,
            tags=self._tags(),
            cache_from=self._imports,
            explain=self._mode == "explain",
        )
        is_near = bool(self._context.api.transport.path)
        try:
            return self._ask(query, send=not is_near)
        except Conflict:
            # the daemon may live in another mount namespace
            if not is_near or not self._contexts.can_be_sent_again:
                raise
            return self._ask(query, send=True)

    def _ask(self, query: Document, *, send: bool) -> _Answer:
        pieces = self._contexts.body(dict(self._document), send=send)
        body = pieces if send or not self._contexts.can_be_sent_again else b"".join(pieces)
        answer = _Answer()
        headers = build_query.headers()
        with self._context.api.stream("POST", "/build", query, body=body, headers=headers) as response:
            answer.follow(response, _progress(self._context, self._mode))
        return answer

    def run(self) -> None:
        built: list[Built] = []
        stages: list[str] = []
        for platform in self._platforms:
            answer = self._build(platform)
            built.append(Built(answer.image, answer.build, platform))
            stages += answer.stages
        delivery = Delivery(self._context, built, self._options)
        delivery.deliver(self.outputs)
        if self._exports:
            from corten.cli import build_cache

            images = [{"image": item.image} for item in built]
            images += [{"image": image} for image in dict.fromkeys(stages)]
            build_cache.export(self._context, self._exports, images)
        self._tell(built, delivery)

    def _tell(self, built: list[Built], delivery: Delivery) -> None:
        options = self._options
        digest = delivery.metadata.get("containerimage.digest") or built[0].image
        if self._mode == "quiet":
            self._context.print(built[0].image if len(built) == 1 else digest)
        if options.text("iidfile"):
            with open(options.text("iidfile"), "w") as file:
                file.write(built[0].image if len(built) == 1 else digest)
        if options.text("metadata-file"):
            document = self._metadata(built, delivery)
            with open(options.text("metadata-file"), "w") as file:
                file.write(json.dumps(document, indent=2) + "\n")

    def _metadata(self, built: list[Built], delivery: Delivery) -> Document:
        document: Document = {"buildx.build.ref": built[0].build}
        if len(built) == 1:
            document["containerimage.config.digest"] = document["containerimage.digest"] = built[0].image
        if self._options.many("tag"):
            document["image.name"] = ",".join(self._options.many("tag"))
        return dict(sorted({**document, **delivery.metadata}.items()))


def _build(context: Context, options: flags.Options, arguments: list[str]) -> None:
    mode = options.text("progress") or "auto"
    if mode not in _PROGRESS:
        raise InvalidParameter(f"invalid progress mode {mode!r}: one of {', '.join(_PROGRESS)}")
    if mode == "tty" and not context.err.isatty():
        raise InvalidParameter("failed to get console: provided file is not a console")
    if mode == "auto":
        mode = "tty" if context.err.isatty() else "plain"
    if options.switch("quiet"):
        mode = "quiet"
    if options.switch("check"):
        _check(context, arguments[0], options.text("file"))
        return
    with contextlib.ExitStack() as stack:
        _Job(context, options, arguments[0], mode, stack).run()


BUILD = Command(
    _build,
    "[OPTIONS] PATH | URL | -",
    (
        flags.many("add-host", "", "Line of /etc/hosts in steps: NAME:ADDRESS", network.read_extra_host),
        flags.many("allow", "", f"Grant steps more than usual: {', '.join(build_query.ENTITLEMENTS)}, device=NAME"),
        flags.many("annotation", "", "Annotation of the manifest: [TYPE[PLATFORM]:]NAME=VALUE"),
        flags.many("attest", "", "Attestation: type=provenance,mode=min|max or type=sbom"),
        flags.many("build-arg", "", "Value of an ARG: NAME=VALUE; NAME alone takes the environment's"),
        flags.many(
            "build-context", "", "Files or image under a name: NAME=PATH|URL|docker-image://REF|oci-layout://PATH"
        ),
        flags.many("cache-from", "", "Whose steps may be taken: REF, type=registry,ref=REF or type=local,src=PATH"),
        flags.many(
            "cache-to", "", "Keep the steps: type=inline, type=registry,ref=REF or type=local,dest=PATH[,mode=max]"
        ),
        flags.text("cgroup-parent", "", "Control group above those of steps"),
        flags.switch("check", "", "Look for mistakes in the Dockerfile without building"),
        flags.integer("cpu-period", "", "Period of the CPU limit in microseconds"),
        flags.integer("cpu-quota", "", "CPU time in each period in microseconds"),
        flags.integer("cpu-shares", "c", "Share of CPU time beside others (relative weight)"),
        flags.text("cpuset-cpus", "", "CPUs that steps may use (0-3, 0,1)"),
        flags.text("cpuset-mems", "", "Memory nodes that steps may use (0-3, 0,1)"),
        flags.text("file", "f", 'Dockerfile; "-" for standard input (default "PATH/Dockerfile")'),
        flags.switch("force-rm", "", "Remove containers of failed steps too"),
        flags.text("iidfile", "", "Write the image's id to a file"),
        flags.many("label", "", "Label of the image: NAME=VALUE"),
        flags.switch("load", "", "Put the result into the image store, beside other outputs"),
        flags.single("memory", "m", "Memory limit of steps", read_size, metavar="bytes", default=0),
        flags.single("memory-swap", "", "Limit of memory and swap together", read_size, metavar="bytes", default=0),
        flags.text("metadata-file", "", "Write what was built to a file as JSON"),
        flags.text("network", "", "Network of steps: default, none, host or container:NAME"),
        flags.switch("no-cache", "", "Build every step anew"),
        flags.many("no-cache-filter", "", "Build the steps of these stages anew"),
        flags.many(
            "output", "o", "Where the result goes: PATH, or type=local|tar|oci|docker|image|registry with options"
        ),
        flags.many("platform", "", "Platforms of the result (os/architecture), several with commas"),
        flags.text("progress", "", f"What is shown: {', '.join(_PROGRESS)}; explain tells why a step is not cached"),
        flags.many("provenance", "", "The same as --attest type=provenance: true, mode=max"),
        flags.switch("pull", "", "Ask the registry for newer base images"),
        flags.switch("push", "", "Send the result to its registry"),
        flags.switch("quiet", "q", "Show only the image's id"),
        flags.switch("rm", "", "Remove containers of steps that went well", default=True),
        flags.many("sbom", "", "The same as --attest type=sbom: true"),
        flags.many("secret", "", "File for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE"),
        flags.single("shm-size", "", "Size of /dev/shm in steps", read_size, metavar="bytes", default=0),
        flags.switch("squash", "", "Make one layer of all that the build adds to its base"),
        flags.many("ssh", "", "Agent for RUN --mount=type=ssh: default, NAME=SOCKET, or NAME=FILE[,FILE] of keys"),
        flags.many("tag", "t", "Name of the image: NAME[:TAG]"),
        flags.text("target", "", "Stage to build"),
        flags.many(
            "ulimit", "", "Resource limit of processes: NAME=SOFT[:HARD]", devices.read_ulimit, metavar="ulimit"
        ),
    ),
    least=1,
    most=1,
    description="PATH is a directory, URL an archive, a Dockerfile or a git repository, - an archive or a Dockerfile.",
    examples=(
        "build -t app .",
        "build --build-arg VERSION=2 --target test .",
        "build --progress=explain -t app .",
        "build -o type=local,dest=out .",
        "build --platform linux/amd64,linux/arm64 --provenance=mode=max --push -t registry.example/app .",
    ),
)
