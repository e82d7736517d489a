"""Which stages a build needs, in which order."""

from __future__ import annotations

from collections.abc import Mapping

from corten.build.contexts import NamedContexts
from corten.dockerfile import instructions as ins
from corten.dockerfile.words import WordError, expand
from corten.errors import InvalidParameter

MAX_STAGES = 256


class Graph:
    """The stages of a Dockerfile, their names, and what each stands on.

    target: name or number of the wanted stage, "" for the last one
    named: what stands for stages and images in front of those of the Dockerfile
    Errors: InvalidParameter (unknown target, bad reference), DockerfileError (bad FROM).
    """

    def __init__(self, file: ins.Dockerfile, variables: Mapping[str, str], target: str, named: NamedContexts) -> None:
        self.stages = file.stages
        self._named = named
        if len(file.stages) > MAX_STAGES:
            raise InvalidParameter(f"more than {MAX_STAGES} stages")
        self.images = [self._base(stage, variables, file.escape) for stage in file.stages]
        self.target = self._find_target(target)
        self.needed = self._needed()

    def _base(self, stage: ins.Stage, variables: Mapping[str, str], escape: str) -> str:
        try:
            name = expand(stage.start.image, variables, escape)
        except WordError as error:
            raise stage.start.line.error(f"failed to process arguments for {stage.start.image}: {error}") from None
        if not name:
            raise stage.start.line.error(f"base name ({stage.start.image}) should not be blank", stage.start.image)
        return name

    def _find_target(self, target: str) -> int:
        if not target:
            return len(self.stages) - 1
        lower = target.lower()
        for stage in reversed(self.stages):
            if stage.start.alias == lower:
                return stage.number
        if target.isascii() and target.isdigit() and int(target) < len(self.stages):
            return int(target)
        raise InvalidParameter(f"failed to reach build target {target} in Dockerfile")

    def stage_of(self, name: str, before: int) -> int | None:
        """The number of an earlier stage that a reference means; None for an image or a named context.

        Errors: InvalidParameter, Docker's wording.
        """
        if name in self._named:
            return None
        lower = name.lower()
        for stage in reversed(self.stages[:before]):
            if stage.start.alias == lower:
                return stage.number
        if before < len(self.stages) and self.stages[before].start.alias == lower:
            raise InvalidParameter(f"invalid from flag value {name}: refers to current build block")
        if name.isascii() and name.isdigit():
            number = int(name[:6])
            if number == before:
                raise InvalidParameter(f"invalid from flag value {name}: refers to current build block")
            if number > before:
                raise InvalidParameter(f"invalid from flag value {name}: index out of bounds")
            return number
        return None

    def base_stage(self, number: int) -> int | None:
        """The stage that FROM names."""
        lower = self.images[number].lower()
        if lower in self._named:
            return None
        for stage in reversed(self.stages[:number]):
            if stage.start.alias == lower:
                return stage.number
        return None

    def _needed(self) -> list[int]:
        found: set[int] = set()
        pending = [self.target]
        while pending:
            number = pending.pop()
            if number in found:
                continue
            found.add(number)
            base = self.base_stage(number)
            if base is not None:
                pending.append(base)
            for name in _origins(self.stages[number]):
                try:
                    other = self.stage_of(name, number)
                except InvalidParameter:
                    continue  # told when the instruction is reached
                if other is not None:
                    pending.append(other)
        return sorted(found)


def _origins(stage: ins.Stage) -> list[str]:
    names = []
    for instruction in stage.instructions:
        if isinstance(instruction, ins.Transfer) and instruction.origin:
            names.append(instruction.origin)
        if isinstance(instruction, ins.Run):
            names += [mount.options["from"] for mount in instruction.mounts if mount.options.get("from")]
    return names
