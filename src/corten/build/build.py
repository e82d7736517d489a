"""A build: its stages side by side where they can be, each step from the cache where it can be."""

from __future__ import annotations

import contextlib
import queue
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corten.build.arguments import GlobalArguments, platform_arguments
from corten.build.cache import StepCache
from corten.build.cache_locks import CacheLocks
from corten.build.config import State
from corten.build.context import Context
from corten.build.contexts import BuildContext, NamedContexts
from corten.build.finish import finished
from corten.build.graph import Graph
from corten.build.images import BuildImages
from corten.build.options import BuildOptions
from corten.build.removals import Removals
from corten.build.screen import Screen
from corten.build.steps import Steps
from corten.build.workshop import BuildFailed, Cancellation, Cancelled, Document, Workshop
from corten.dockerfile import instructions as ins
from corten.dockerfile.parser import parse
from corten.dockerfile.source import LogicalLine
from corten.dockerfile.words import WordError
from corten.errors import CortenError, InvalidParameter
from corten.image.store import ImageStore
from corten.oci import reference
from corten.oci.platform import parse_platform, this_machine

_QUEUED = 512  # documents between the build and a slow client
_QUIET_TAIL = 256
_FRONTENDS = ("/docker/dockerfile", "/docker/dockerfile-upstream")


@dataclass(frozen=True, slots=True)
class Place:
    """What builds of one daemon share.

    scratch: for contexts and files of mounts, emptied at start; secrets: the same in memory where there is such a place
    cache_directory: of cache mounts; running: programs at once
    """

    store: ImageStore
    cache: StepCache
    workshop: Workshop
    scratch: Path
    secrets: Path
    cache_directory: Path
    locks: CacheLocks
    running: threading.Semaphore


class Build:
    """One build; use once, through ``documents``.

    context, named: filled, owned by the caller; dockerfile: its content, when it is not the context's
    Errors: DockerfileError, InvalidParameter before anything is done.
    """

    def __init__(
        self,
        place: Place,
        options: BuildOptions,
        context: BuildContext,
        cancellation: Cancellation,
        *,
        named: NamedContexts | None = None,
        dockerfile: bytes | None = None,
    ) -> None:
        self.options = options
        self.context = context
        self.named = named or NamedContexts()
        self.cancellation = cancellation
        self.store = place.store
        self.cache = place.cache
        self.workshop = place.workshop
        self.locks = place.locks
        self.cache_directory = place.cache_directory
        self._place = place
        self.file = parse(find_dockerfile(context, options.dockerfile) if dockerfile is None else dockerfile)
        check_frontend(self.file)
        self.platform = parse_platform(options.platform) if options.platform else this_machine()
        self.arguments = self._read_arguments()
        self.graph = Graph(self.file, self.arguments.variables(), options.target, self.named)
        self._check_fresh_stages()
        self._epoch = self._read_epoch()
        if options.rewrite_times and self._epoch is None:
            raise InvalidParameter("rewrite-timestamp needs SOURCE_DATE_EPOCH (--build-arg SOURCE_DATE_EPOCH=…)")
        self.first_step: dict[int, int] = {}
        self.total_steps = self._count()
        self._results: dict[int, _Result] = {}
        self._lock = threading.Lock()
        self._scratches: list[Context] = []
        self._queue: queue.Queue[Document | None] = queue.Queue(_QUEUED)
        self._screen = Screen(self.graph.needed, self._classic, cancellation)
        self.steps = Steps(self._structured)
        self.removals = Removals(place.workshop, place.cache)
        self._tail: deque[Document] = deque(maxlen=_QUIET_TAIL)
        self.image = ""  # the result's id, once there is one
        self.base_layers: dict[int, int] = {}  # stage -> how many of its layers are the base image's
        self.images = BuildImages(self)

    def _read_arguments(self) -> GlobalArguments:
        file = self.file
        platforms = platform_arguments(this_machine(), self.platform)
        try:
            return GlobalArguments(file.arguments, self.options.arguments, platforms, file.escape)
        except WordError as error:
            raise file.arguments[0].line.error(str(error)) from None

    def _read_epoch(self) -> int | None:
        text = self.options.arguments.get("SOURCE_DATE_EPOCH")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {text}")
        self.arguments.used.add("SOURCE_DATE_EPOCH")
        return int(text) * 10**9

    def now_ns(self) -> int:
        """The time of what is made: SOURCE_DATE_EPOCH when given."""
        return time.time_ns() if self._epoch is None else self._epoch

    def instructions(self, stage: ins.Stage) -> tuple[ins.Instruction, ...]:
        """With the labels that the client wants on the result."""
        if stage.number != self.graph.target or not self.options.labels:
            return stage.instructions
        pairs = tuple(
            ins.Pair(name=_literal(name), value=_literal(value)) for name, value in sorted(self.options.labels.items())
        )
        original = "LABEL " + " ".join(f"{name}={value}" for name, value in sorted(self.options.labels.items()))
        line = LogicalLine(0, 0, original, original)
        return (*stage.instructions, ins.Label(line=line, keyword="LABEL", original=original, pairs=pairs))

    def is_fresh(self, stage: ins.Stage) -> bool:
        """Whether the client wants nothing of a stage from the cache."""
        options = self.options
        return options.no_cache or not options.fresh_stages.isdisjoint({stage.name, str(stage.number)})

    def _check_fresh_stages(self) -> None:
        known = {name for stage in self.file.stages for name in (stage.name, str(stage.number))}
        for name in sorted(self.options.fresh_stages - known):
            raise InvalidParameter(f"no-cache-filter: the Dockerfile has no stage {name}")

    def _count(self) -> int:
        step = len(self.file.arguments) + 1
        for number in self.graph.needed:
            self.first_step[number] = step
            step += 1 + len(self.instructions(self.file.stages[number]))
        return step - 1

    # -- output -------------------------------------------------------------------------------------------------------

    def _classic(self, document: Document) -> None:
        if not self.options.structured:
            self._sink(document)

    def _structured(self, document: Document) -> None:
        if self.options.structured:
            self._sink(document)

    def _sink(self, document: Document) -> None:
        if self.options.quiet:
            self._tail.append(document)
            return
        while True:
            try:
                self._queue.put(document, timeout=0.2)
                return
            except queue.Full:
                self.cancellation.check()

    def tell(self, stage: int, document: Document) -> None:
        """Errors: Cancelled."""
        self.cancellation.check()
        self._screen.tell(stage, document)

    def documents(self) -> Iterator[Document]:
        """Everything that clients are told, to the end.  Closing it cancels the build; nothing runs when it returns.

        Errors: what the build fails with, after all that it said.
        """
        outcome: list[BaseException | str] = []

        def work() -> None:
            try:
                try:
                    image = self._work()
                finally:
                    self.removals.finish()
                outcome.append(image)
            except BaseException as error:
                outcome.append(error)
            self._put_end()

        thread = threading.Thread(target=work, name="build", daemon=True)
        thread.start()
        try:
            while (document := self._queue.get()) is not None:
                yield document
            thread.join()
            result = outcome[0]
            if isinstance(result, BaseException):
                if self.options.quiet:
                    yield from self._tail
                raise result
            self.image = result
            yield from self._end(result)
        finally:
            if thread.is_alive():
                self.cancellation.cancel()
                thread.join()
            self._release()

    def _put_end(self) -> None:
        while True:
            try:
                self._queue.put(None, timeout=0.2)
                return
            except queue.Full:
                if self.cancellation.is_cancelled:  # nobody may be reading any more
                    with contextlib.suppress(queue.Empty):
                        self._queue.get_nowait()

    def _end(self, image: str) -> Iterator[Document]:
        unused = self.arguments.unused()
        if self.options.structured:
            if unused:
                yield {"warning": f"One or more build-args [{' '.join(unused)}] were not consumed", "line": 0}
            yield {"aux": {"ID": image}, "stages": self.stage_images()}
            return
        if self.options.quiet:
            yield {"stream": f"{image}\n"}
            return
        if unused:
            yield {"stream": f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n"}
        yield {"stream": f"Successfully built {image.removeprefix('sha256:')[:12]}\n"}

    def stage_images(self) -> list[str]:
        """What the stages before the target's came to."""
        results = [self._results[number] for number in self.graph.needed if number != self.graph.target]
        return [result.state.image for result in results if result.state is not None and result.state.image]

    def _release(self) -> None:
        for scratch in self._scratches:
            scratch.close()
        self.images.close()
        self.cache.note_uses()

    # -- stages -------------------------------------------------------------------------------------------------------

    def _work(self) -> str:
        """The image's id."""
        for line, text in self.file.warnings:
            self._classic({"stream": f"[Warning] line {line}: {text}\n"})
            self.steps.warn(line, text)
        for position, argument in enumerate(self.file.arguments):
            self._classic({"stream": f"Step {position + 1}/{self.total_steps} : {argument.original}"})
            self._classic({"stream": "\n"})
        for number in self.graph.needed:
            self._start(number)
        failed: CortenError | BaseException | None = None
        state: State | None = None
        try:
            state = self.result_of(self.graph.target)
        except BaseException as error:
            failed = error
        # the others end too: because the target is there, or because they have been told to
        for result in list(self._results.values()):
            result.thread.join()
        if failed is not None:
            # a stage that was only told to stop is not the reason
            raise next((item for item in self._failures() if not isinstance(item, Cancelled)), failed)
        assert state is not None
        if not state.image:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        image = finished(self, state.image, self.base_layers.get(self.graph.target, 0))
        self.store.make_durable(image)
        return image

    def _failures(self) -> list[BaseException]:
        return [result.error for result in self._results.values() if result.error is not None]

    def _start(self, number: int) -> _Result:
        from corten.build.stage import StageRun

        with self._lock:
            known = self._results.get(number)
            if known is not None:
                return known

            def work() -> None:
                try:
                    result.state = StageRun(self, self.file.stages[number]).run()
                    self._screen.finish(number)
                except BaseException as error:
                    self._failed(number, error)
                    result.error = error
                finally:
                    result.done.set()

            result = _Result(threading.Thread(target=work, name=f"stage-{number}", daemon=True))
            self._results[number] = result
            result.thread.start()
            return result

    def _failed(self, number: int, error: BaseException) -> None:
        """The first stage that fails ends the others."""
        if self.cancellation.is_cancelled:
            return
        with self._lock:
            if any(result.error is not None for result in self._results.values()):
                return
        with contextlib.suppress(Cancelled):
            self._screen.fail(number)
        self.cancellation.cancel()

    def result_of(self, number: int) -> State:
        """The end of another stage; waits for it.  Errors: Cancelled when it fails."""
        result = self._start(number)
        result.done.wait()
        if result.error is not None:
            raise Cancelled("the build was cancelled") if isinstance(result.error, Cancelled) else result.error
        assert result.state is not None
        return result.state

    @contextlib.contextmanager
    def running_slot(self) -> Iterator[None]:
        """Not more programs at once than the machine can use."""
        while not self._place.running.acquire(timeout=0.2):
            self.cancellation.check()
        try:
            yield
        finally:
            self._place.running.release()

    # -- scratch ------------------------------------------------------------------------------------------------------

    @property
    def scratch(self) -> Path:
        return self._place.scratch

    def scratch_context(self) -> Context:
        """For files that are no part of the context; closed with the build."""
        scratch = Context(self._place.scratch)
        with self._lock:
            self._scratches.append(scratch)
        return scratch

    @contextlib.contextmanager
    def scratch_directory(self) -> Iterator[str]:
        """An empty directory that goes with the block."""
        with _directory(self._place.scratch) as place:
            yield place

    @contextlib.contextmanager
    def secret_directory(self) -> Iterator[str]:
        try:
            with _directory(self._place.secrets) as place:
                yield place
        finally:
            with contextlib.suppress(OSError):  # others have theirs in it
                self._place.secrets.rmdir()


class _Result:
    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.done = threading.Event()
        self.state: State | None = None
        self.error: BaseException | None = None


@contextlib.contextmanager
def _directory(above: Path) -> Iterator[str]:
    place = above / secrets.token_hex(8)
    while True:
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another build has just removed it as empty
            place.mkdir(mode=0o755)
            break
    try:
        yield str(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _literal(text: str) -> str:
    """A text as a word that means just it."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def check_frontend(file: ins.Dockerfile) -> None:
    """``# syntax=``: the standard frontend, of whatever version and mirror, is built in; others are other languages.

    Errors: InvalidParameter.
    """
    wanted = file.directives.get("syntax", "").split(" ")[0]
    parsed = reference.try_parse(wanted) if wanted else None
    if wanted and (parsed is None or not f"/{parsed.path}".endswith(_FRONTENDS)):
        raise InvalidParameter(
            f"the frontend {wanted} (# syntax=) is not supported: the built-in one reads what docker/dockerfile does"
        )


def find_dockerfile(context: BuildContext, name: str) -> bytes:
    """The Dockerfile's content.  Errors: InvalidParameter, Docker's wording."""
    content = context.find_dockerfile(name)
    if content is None:
        raise InvalidParameter(f"Cannot locate specified Dockerfile: {name or 'Dockerfile'}")
    if not content.strip():
        raise InvalidParameter(f"the Dockerfile ({name or 'Dockerfile'}) cannot be empty")
    return content


__all__ = ["Build", "BuildFailed", "Place", "find_dockerfile"]
