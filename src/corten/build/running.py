"""RUN: a program in a container on top of the image so far; what it leaves is the step's layer."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from corten.build import config
from corten.build.cache import key_of
from corten.build.devices import chosen, read_grants
from corten.build.emulation import can_run
from corten.build.mounts import RunMounts
from corten.build.workshop import BuildFailed, Cancelled, Step
from corten.dockerfile import instructions as ins
from corten.dockerfile.source import heredoc_mark
from corten.errors import CortenError, Forbidden, Unavailable
from corten.oci.platform import from_document, this_machine

if TYPE_CHECKING:
    from corten.build.stage import Inputs, Made, StageRun
    from corten.image.intake import Intake
    from corten.image.layers import Staged
    from corten.image.metadata import Layer

_PIECE = 4096  # letters in one document: what waits for a slow client is bounded by their number


class RunStep:
    """One instruction of one stage."""

    def __init__(self, run: StageRun, instruction: ins.Run) -> None:
        self._run = run
        self._build = run.build
        self._instruction = instruction
        self._check_rights()
        self._devices = self._chosen_devices()
        self._script = b""
        self._script_name = ""
        self._command = self._words()

    def _check_rights(self) -> None:
        """What goes beyond an ordinary container needs the client's word (T36)."""
        instruction, options = self._instruction, self._build.options
        if instruction.security == "insecure" and "security.insecure" not in options.allow:
            raise Forbidden("security.insecure is not allowed: build with --allow security.insecure to grant it")
        if instruction.network == "host" and options.network != "host" and "network.host" not in options.allow:
            raise Forbidden(
                "network.host is not allowed: build with --network=host or --allow network.host to grant it"
            )

    def _chosen_devices(self) -> tuple[str, ...]:
        wanted, build = self._instruction.devices, self._build
        if not wanted:
            return ()

        def missing(name: str) -> None:
            self._run.output(f"device {name} is not there: the step goes without it\n", is_error=True)

        return tuple(chosen(build.workshop.devices(), wanted, read_grants(build.options.allow), missing))

    def _words(self) -> tuple[str, ...]:
        instruction = self._instruction
        if not instruction.command.in_shell:
            return instruction.command.words
        text = instruction.command.words[0]
        if instruction.heredocs:
            text = self._with_heredocs(text)
            if self._script:
                return (f"/dev/pipes/{self._script_name}",)
        return (*self._run.state.shell, text)

    def _with_heredocs(self, text: str) -> str:
        """A lone here-document is the script, with ``#!`` a program of its own; others are the shell's to read."""
        heredocs = self._instruction.heredocs
        if heredoc_mark(text, self._build.file.escape) is not None:
            first = heredocs[0]
            if first.content.startswith("#!"):
                self._script = first.text.encode("utf-8", "surrogateescape")
                self._script_name = first.name
            return first.text
        return text + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in heredocs)

    def made(self) -> Made:
        """Errors: InvalidParameter (mounts), Forbidden."""
        from corten.build.stage import Made

        arguments = self._run.visible_arguments()
        line = config.run_line(self._command, arguments)
        mounts = RunMounts(self._run, self._instruction)
        key = key_of(
            self._run.state.image,
            "RUN",
            json.dumps(self._command),
            json.dumps(arguments),
            json.dumps(mounts.inputs),
            self._instruction.network or self._build.options.network,
            self._instruction.security if self._instruction.security == "insecure" else "",
            self._script.decode("utf-8", "surrogateescape"),
            *filter(None, (self._build.options.limits.hostname,)),
            *(f"device {name}" for name in self._devices),
            *(["volumes kept"] if self._run.state.run.get("Volumes") and not self._build.options.classic else ()),
        )

        def layer(intake: Intake, parent: Layer | None) -> Staged | None:
            return self._execute(intake, parent, arguments, mounts)

        def inputs() -> Inputs:
            return {
                "instruction": self._instruction.original,
                **{f"argument {item.partition('=')[0]}": key_of(item) for item in arguments},
                **mounts.inputs,
                **({"devices": ", ".join(self._devices)} if self._devices else {}),
            }

        return Made(line, key, layer, inputs, self._witness(mounts))

    def _witness(self, mounts: RunMounts) -> str:
        """Files behind mounts and a script of its own are no part of the history line, and decide all the same."""
        if not (self._script or mounts.has_files):
            return ""
        script = self._script.decode("utf-8", "surrogateescape")
        return f"inputs sha256:{key_of(script, json.dumps(mounts.inputs))}"

    # -- execution ----------------------------------------------------------------------------------------------------

    def _execute(self, intake: Intake, parent: Layer | None, arguments: list[str], mounts: RunMounts) -> Staged | None:
        run, build = self._run, self._build
        build.cancellation.check()
        platform = from_document(run.state.document)
        if not can_run(platform):
            raise Unavailable(
                f"programs of {platform} do not run on this machine ({this_machine()}): "
                "QEMU's user emulation is not registered (binfmt_misc, package qemu-user-static)"
            )
        proxies = {name: value for name, value in build.arguments.proxies().items() if name not in run.state.variables}
        declared = {item.partition("=")[0] for item in arguments}
        environment = [*arguments, *(f"{name}={value}" for name, value in proxies.items() if name not in declared)]
        with contextlib.ExitStack() as stack:
            if self._script:
                mounts.add_script(self._script_name, self._script)
            attached = mounts.prepare(stack)
            environment += mounts.environment
            step = Step(
                image=run.ensure_image(),
                command=self._command,
                environment=tuple(environment),
                network=self._instruction.network if self._instruction.network != "default" else "",
                limits=build.options.limits,
                mounts=attached,
                is_privileged=self._instruction.security == "insecure",
                devices=self._devices,
                has_volumes=build.options.classic,
            )
            stack.enter_context(build.running_slot())
            return self._in_container(step, intake, parent, mounts)

    def _in_container(self, step: Step, intake: Intake, parent: Layer | None, mounts: RunMounts) -> Staged | None:
        build = self._build
        printer = _Printer(self._run.output)
        started: list[str] = []

        def begun(container_id: str) -> None:
            started.append(container_id)
            build.cache.container_began(container_id)
            self._run.say(f" ---> Running in {container_id[:12]}\n")

        keep = False
        try:
            container_id, code = build.workshop.run(step, begun, printer.put, build.cancellation)
            printer.close()
            if code:
                keep = not build.options.force_remove
                command = " ".join(self._command)
                raise BuildFailed(f"The command '{command}' returned a non-zero code: {code}", code, command)
            mounts.clean(container_id)
            staged = intake.changes(container_id, parent) if intake.has_changes(container_id) else None
            keep = not build.options.remove
            return staged
        except Cancelled:
            keep = False
            raise
        except CortenError:
            printer.close()
            raise
        finally:
            for container_id in started:
                if keep:
                    build.cache.container_ended(container_id)
                else:
                    build.removals.remove(container_id)
            if started and not keep and not build.cancellation.is_cancelled:
                self._run.say(f"Removing intermediate container {started[0][:12]}\n")


class _Printer:
    """A program's output as documents; letters that two pieces share are not cut."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._decoders = {
            is_error: codecs.getincrementaldecoder("utf-8")(errors="replace") for is_error in (False, True)
        }

    def put(self, is_error: bool, data: bytes) -> None:
        self._say(is_error, self._decoders[is_error].decode(data))

    def close(self) -> None:
        for is_error, decoder in self._decoders.items():
            self._say(is_error, decoder.decode(b"", final=True))

    def _say(self, is_error: bool, text: str) -> None:
        for start in range(0, len(text), _PIECE):
            self._tell(text[start : start + _PIECE], is_error=is_error)
