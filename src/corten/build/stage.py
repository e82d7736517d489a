"""One stage: its instructions one after the other, each a step with its own image."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from corten.build import config
from corten.build.arguments import PROXIES
from corten.build.cache import key_of
from corten.build.config import State
from corten.build.contexts import revision
from corten.build.layer_tar import NOTHING, LayerTar, Wanted
from corten.build.selection import Source, digest_of
from corten.build.step_names import StepNames
from corten.build.tree import ROOT, RootTree, Tree
from corten.build.workshop import BuildFailed
from corten.dockerfile import instructions as ins
from corten.dockerfile.parser import parse_trigger
from corten.dockerfile.words import WordError, expand, expand_words
from corten.errors import Conflict
from corten.image import run_config
from corten.image.pipes import iterated
from corten.image.register import NewImage
from corten.oci import config as image_config
from corten.oci.config import encode_config

if TYPE_CHECKING:
    from corten.build.build import Build
    from corten.build.steps import Step
    from corten.image.intake import Intake
    from corten.image.layers import Staged
    from corten.image.metadata import Layer

Inputs = dict[str, str]
_ATTEMPTS = 3  # at a step whose context's files are not what it had remembered
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"  # as clients of the classic builder expect the error stream


@dataclass(frozen=True, slots=True)
class Made:
    """What a step wants committed.

    created_by: the history line; key: of the cache
    witness: a digest of what it was made of beside that line, "" for nothing: for who knows only the history
    stage_layer: makes its layer; None for a change of the configuration
    inputs: what the key was made of, to explain a miss
    """

    created_by: str
    key: str
    stage_layer: Callable[[Intake, Layer | None], Staged | None] | None = None
    inputs: Callable[[], Inputs] = field(default=dict)
    witness: str = ""


class _Outdated(Exception):
    """The step's key was made of digests that are not those of the contents."""


class StageRun:
    """Executes a stage; use once, in one thread."""

    def __init__(self, build: Build, stage: ins.Stage) -> None:
        self.build = build
        self.stage = stage
        self.state = config.scratch(build.platform)
        self.arguments: dict[str, str | None] = {}
        self._has_command = False
        self._place = ""
        self._revision = 0  # of the contexts when the step began
        self._step: Step | None = None
        self._names = StepNames(
            stage, build.instructions(stage), self._base_image(), is_alone=len(build.file.stages) == 1
        )

    def _base_image(self) -> str:
        """What FROM takes from outside, "" for an earlier stage or nothing."""
        graph, name = self.build.graph, self.build.graph.images[self.stage.number]
        is_outside = graph.base_stage(self.stage.number) is None and (name != "scratch" or name in self.build.named)
        return name if is_outside else ""

    def tell(self, document: dict[str, Any]) -> None:
        if "status" in document and self._step is not None:
            self._step.status(document)
        self.build.tell(self.stage.number, document)

    def output(self, text: str, *, is_error: bool) -> None:
        """What a program writes."""
        if self._step is not None:
            self._step.output(text, is_error=is_error)
        self.say(f"{_RED}{text}{_PLAIN}" if is_error else text)

    def say(self, text: str) -> None:
        self.tell({"stream": text})

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> State:
        """The state at the end.  Errors: everything that a build can fail with."""
        try:
            state = self._run_all()
        except BaseException as error:
            self._end_step(str(error) or type(error).__name__, error)
            raise
        self._end_step()
        return state

    def _end_step(self, text: str = "", error: BaseException | None = None) -> None:
        if self._step is not None:
            self._step.end(text, error if isinstance(error, BuildFailed) else None)

    def _run_all(self) -> State:
        build = self.build
        number = build.first_step[self.stage.number]
        base = build.graph.base_stage(self.stage.number)
        if base is not None:
            build.result_of(base)  # the time until it is there is no time of this stage
        self._announce(number, self.stage.start)
        triggers = self._from()
        self.say(f" ---> {short(self.state.image)}\n")
        if triggers:
            self.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}")
            self.say("\n")
        for text in triggers:
            self._execute(parse_trigger(text))
        for instruction in build.instructions(self.stage):
            number += 1
            self._announce(number, instruction)
            self._execute(instruction)
        if self.state.image:
            self.tell({"aux": {"ID": self.state.image}})
        return self.state

    def _announce(self, number: int, instruction: ins.Instruction) -> None:
        self.build.cancellation.check()
        self._end_step()
        name = f"{number}/{self.build.total_steps} {instruction.original}"
        lines = (instruction.line.number, instruction.line.end)
        self._step = self.build.steps.begin(name, self.stage.name, self._names.next(instruction), lines)
        self.say(f"Step {number}/{self.build.total_steps} : {instruction.original}")
        self.say("\n")

    def _from(self) -> list[str]:
        build = self.build
        number = self.stage.number
        base = build.graph.base_stage(number)
        name = build.graph.images[number]
        self._place = f"FROM {name}"
        if base is not None:
            state = build.result_of(base)
            build.base_layers[number] = build.base_layers.get(base, 0)
            if not state.image:
                self.state = replace(state, run=copy.deepcopy(state.run))
            else:
                self.state = config.begun(state.image, state.document)
        elif (tree := build.named.tree(name)) is not None:
            self._settle(lambda: self._begin_with(tree), self.stage.start)
        elif name == "scratch" and name not in build.named:
            return []
        else:
            image = build.images.base_image(name, self.stage.start, self.tell)
            build.base_layers[number] = len(image.layers)
            self.state = config.begun(image.id, image.config)
        run = self.state.run
        return list(run.pop("OnBuild", None) or ())

    def _begin_with(self, tree: Tree) -> Made:
        """FROM a named context: an image of one layer with all its files."""
        source = Source(tree, "", tree.node("") or ROOT, "context")
        digest = digest_of(source, NOTHING)

        def layer(intake: Intake, parent: Layer | None) -> Staged:
            wanted = Wanted([source], "/", to_directory=True, now_ns=self.build.now_ns())
            return intake.stage(iterated(LayerTar(wanted, None).chunks()), parent)

        line = config.no_operation(self.state.shell, f"COPY dir:{digest} in / ", gap=" ")
        key = key_of("context", digest, str(self.build.platform))
        return Made(line, key, layer)

    def _execute(self, instruction: ins.Instruction) -> None:
        self.build.cancellation.check()
        try:
            action = _ACTIONS[type(instruction)]
            self._settle(lambda: action(self, instruction), instruction)
        except WordError as error:
            raise instruction.line.error(f"failed to process {instruction.original!r}: {error}") from None

    def _settle(self, action: Callable[[], Made | None], instruction: ins.Instruction) -> None:
        """Commit what the action gives; anew when a context had remembered another content than it has.

        Errors: Conflict when that does not end.
        """
        place = self._place
        for _ in range(_ATTEMPTS):
            self._revision = self._seen_revision()
            made = action()
            if made is None:
                return
            self._place = place
            try:
                self._commit(made, instruction)
                return
            except _Outdated:
                self.build.cancellation.check()
        raise Conflict(f"files of the context change while {instruction.original!r} copies them")

    def _seen_revision(self) -> int:
        return revision((self.build.context, *self.build.named.trees.values()))

    # -- words --------------------------------------------------------------------------------------------------------

    def variables(self) -> dict[str, str]:
        """What is replaced: build arguments, and over them the environment."""
        known = {name: value for name, value in self.arguments.items() if value is not None}
        return {**known, **self.state.variables}

    def word(self, text: str) -> str:
        return expand(text, self.variables(), self.build.file.escape)

    def words(self, text: str) -> list[str]:
        return expand_words(text, self.variables(), self.build.file.escape)

    def visible_arguments(self) -> list[str]:
        undeclared = frozenset(name for name in PROXIES if name not in self.arguments)
        return config.visible_arguments(self.arguments, self.state.run, undeclared)

    # -- commit -------------------------------------------------------------------------------------------------------

    def _commit(self, made: Made, instruction: ins.Instruction) -> None:
        build = self.build
        parent = self.state.image
        self._place = key_of(self._place, instruction.original)
        if build.is_fresh(self.stage):
            image = self._make(made)
            self._remember(made, parent, image)
            build.cache.remember_inputs(self._place, {"": parent, **made.inputs()})
            self._moved_to(image)
            return
        with build.cache.claim(made.key, build.cancellation) as image:
            found = image or build.images.from_sources(self.state, made)
            if found:
                self.say(" ---> Using cache\n")
                if self._step is not None:
                    self._step.is_cached = True
                if not image:
                    self._remember(made, parent, found)
                    build.cache.remember_inputs(self._place, {"": parent, **made.inputs()})
                image = found
            else:
                self._explain(made)
                image = self._make(made)
                self._remember(made, parent, image)
                build.cache.remember_inputs(self._place, {"": parent, **made.inputs()})
            self._moved_to(image)

    def _remember(self, made: Made, parent: str, image: str) -> None:
        size = self.build.images.layer_size(image)
        self.build.cache.add(made.key, image, parent=parent, description=made.created_by, size=size)

    def _moved_to(self, image: str) -> None:
        found = self.build.images.hold(image)
        run = config.with_path(copy.deepcopy(found.config.get("config") or {}))
        self.state = State(image, found.config, run, found.config.get("author") or "")
        self.say(f" ---> {short(image)}\n")

    def _explain(self, made: Made) -> None:
        """Why a step is not taken from the cache, when the client wants to know."""
        if not self.build.options.explain:
            return
        known = self.build.cache.last_inputs(self._place)
        reason = difference(known, {"": self.state.image, **made.inputs()})
        if self._step is not None:
            self._step.not_cached(reason)
        self.say(f" ---> Not cached: {reason}\n")

    def _make(self, made: Made) -> str:
        build = self.build
        state = self.state
        with build.store.intake() as intake:
            below = intake.layers_of(state.image) if state.image else ()
            parent = below[-1] if below else None
            staged = made.stage_layer(intake, parent) if made.stage_layer is not None else None
            layer = None
            if staged is not None:
                if staged.stats.entries:
                    layer = intake.place(staged, parent, staged.diff_id)
                else:
                    intake.discard(staged)
            build.cancellation.check()
            if self._seen_revision() != self._revision:
                raise _Outdated
            document = config.child_document(
                state,
                state.run,
                created=image_config.format_time(build.now_ns()),
                created_by=made.created_by,
                diff_id=layer.diff_id if layer is not None else "",
                comment=made.witness,
                author=state.author,
            )
            layers = (*below, layer) if layer is not None else below
            return intake.add(NewImage(encode_config(document), layers, parent=state.image), durable=False)

    def ensure_image(self) -> str:
        """An image id to run something on: scratch gets one without layers."""
        if not self.state.image:
            document = config.child_document(
                self.state, self.state.run, created=image_config.EPOCH_ZERO, created_by="", diff_id=""
            )
            document["history"] = []
            with self.build.store.intake() as intake:
                image = intake.add(NewImage(encode_config(document), ()))
            self.build.images.hold(image)
            return image
        return self.state.image

    @contextlib.contextmanager
    def root(self) -> Iterator[RootTree | None]:
        """The files of the image so far; None when it has none.  On a detached mount that nobody else sees."""
        layers = self.build.store.get(self.state.image).layers if self.state.image else ()
        if not layers:
            yield None
            return
        with self.build.store.snapshotter.open_layer(layers[-1]) as descriptor:
            tree = RootTree(descriptor)
            try:
                yield tree
            finally:
                tree.close()

    # -- instructions that change the configuration -------------------------------------------------------------------

    def _changed(self, change: Callable[[dict[str, Any]], str], *, gap: str = "  ", author: str = "") -> Made:
        run = copy.deepcopy(self.state.run)
        shell = self.state.shell
        text = change(run)
        self.state = replace(self.state, run=run, author=author or self.state.author)
        shell = self.state.shell if text.startswith("SHELL ") else shell
        line = config.no_operation(shell, text, gap=gap)
        key = key_of(
            self.state.image,
            "config",
            line,
            json.dumps(run, sort_keys=True),
            self.state.author,
            str(self.build.platform),
        )
        return Made(line, key, inputs=lambda: {"instruction": line})

    def _env(self, instruction: ins.Env) -> Made:
        pairs = [(self.word(pair.name), self.word(pair.value)) for pair in instruction.pairs]
        for name, _ in pairs:
            if not name:
                raise instruction.line.error("ENV names can not be blank")
        return self._changed(lambda run: run_config.set_environment(run, pairs))

    def _label(self, instruction: ins.Label) -> Made:
        pairs = [(self.word(pair.name), self.word(pair.value)) for pair in instruction.pairs]
        for name, _ in pairs:
            if not name:
                raise instruction.line.error("LABEL names can not be blank")
        return self._changed(lambda run: run_config.set_labels(run, pairs))

    def _arg(self, instruction: ins.Arg) -> Made:
        shown = []
        for name, default in instruction.pairs:
            name = self.word(name)
            value = self.word(default) if default is not None else None
            self.arguments[name] = self.build.arguments.value_for_stage(name, value)
            shown.append(name if value is None else f"{name}={value}")
        return self._changed(lambda run: "ARG " + " ".join(shown))

    def _expose(self, instruction: ins.Expose) -> Made:
        ports = [port for text in instruction.ports for port in self.words(text)]
        return self._changed(lambda run: run_config.add_ports(run, ports))

    def _volume(self, instruction: ins.Volume) -> Made:
        paths = [self.word(text) for text in instruction.paths]
        if not all(paths):
            raise instruction.line.error("VOLUME specified can not be an empty string")
        return self._changed(lambda run: run_config.add_volumes(run, paths))

    def _user(self, instruction: ins.User) -> Made:
        user = self.word(instruction.user)
        return self._changed(lambda run: run_config.set_user(run, user))

    def _cmd(self, instruction: ins.Cmd) -> Made:
        self._has_command = True
        return self._changed(lambda run: run_config.set_command(run, instruction.command, self.state.shell))

    def _entrypoint(self, instruction: ins.Entrypoint) -> Made:
        return self._changed(
            lambda run: run_config.set_entrypoint(
                run, instruction.command, self.state.shell, keep_command=self._has_command
            )
        )

    def _shell(self, instruction: ins.Shell) -> Made:
        return self._changed(lambda run: run_config.set_shell(run, instruction.words))

    def _stop_signal(self, instruction: ins.StopSignal) -> Made:
        name = self.word(instruction.signal)
        return self._changed(lambda run: run_config.set_stop_signal(run, name))

    def _healthcheck(self, instruction: ins.Healthcheck) -> Made:
        return self._changed(lambda run: run_config.set_healthcheck(run, instruction))

    def _onbuild(self, instruction: ins.OnBuild) -> Made:
        return self._changed(lambda run: run_config.add_trigger(run, instruction.trigger))

    def _maintainer(self, instruction: ins.Maintainer) -> Made:
        return self._changed(lambda run: f"MAINTAINER {instruction.name}", author=instruction.name)

    def _workdir(self, instruction: ins.Workdir) -> Made:
        from corten.build.directory import stage_directory

        path = self.word(instruction.path)
        made = self._changed(lambda run: run_config.set_directory(run, path), gap=" ")
        directory = self.state.run["WorkingDir"]
        user = "" if self.build.options.classic else self.state.run.get("User") or ""

        def layer(intake: Intake, parent: Layer | None) -> Staged | None:
            with self.root() as root:
                return stage_directory(intake, parent, root, directory, self.build.now_ns(), user=user)

        return replace(made, key=key_of(made.key, "owner", user) if user else made.key, stage_layer=layer)

    # -- instructions that make layers --------------------------------------------------------------------------------

    def _transfer(self, instruction: ins.Transfer) -> Made:
        from corten.build.transfer import TransferStep

        return TransferStep(self, instruction).made()

    def _run(self, instruction: ins.Run) -> Made:
        from corten.build.running import RunStep

        return RunStep(self, instruction).made()


_ACTIONS: Mapping[type[ins.Instruction], Callable[[StageRun, Any], Made | None]] = {
    ins.Arg: StageRun._arg,
    ins.Cmd: StageRun._cmd,
    ins.Entrypoint: StageRun._entrypoint,
    ins.Env: StageRun._env,
    ins.Expose: StageRun._expose,
    ins.Healthcheck: StageRun._healthcheck,
    ins.Label: StageRun._label,
    ins.Maintainer: StageRun._maintainer,
    ins.OnBuild: StageRun._onbuild,
    ins.Run: StageRun._run,
    ins.Shell: StageRun._shell,
    ins.StopSignal: StageRun._stop_signal,
    ins.Transfer: StageRun._transfer,
    ins.User: StageRun._user,
    ins.Volume: StageRun._volume,
    ins.Workdir: StageRun._workdir,
}


def short(image: str) -> str:
    return image.removeprefix("sha256:")[:12]


def difference(known: Mapping[str, str] | None, current: Mapping[str, str]) -> str:
    """What of a step's inputs is not as it was the last time, in one line."""
    if known is None:
        return "this step was never built here"
    above = "the step above it was built anew" if known.get("") != current.get("") else ""
    changed = []
    for name in sorted((known.keys() | current.keys()) - {""}):
        if known.get(name) == current.get(name):
            continue
        what = "changed" if name in known and name in current else "is new" if name in current else "is gone"
        changed.append(f"{name} {what}")
    if not changed:
        return above or "its image was removed"
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return ", ".join(changed[:5]) + more + (f"; {above}" if above else "")
