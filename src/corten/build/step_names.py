"""What BuildKit's clients call a step: ``[build 2/5] RUN make``.

Source: moby/buildkit, frontend/dockerfile: only what brings files is counted, within its stage; a stage without a name
is stage-N when there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

from corten.dockerfile import instructions as ins
from corten.oci import reference

_COUNTED = (ins.Run, ins.Transfer, ins.Workdir)


class StepNames:
    """Of one stage.  Used by its thread, instruction after instruction.

    base: the name of the image below it, "" for a stage or nothing
    """

    def __init__(self, stage: ins.Stage, instructions: Sequence[ins.Instruction], base: str, *, is_alone: bool) -> None:
        self._stage = stage.start.alias or ("" if is_alone else f"stage-{stage.number}")
        self._base = base
        self._total = bool(base) + sum(isinstance(item, _COUNTED) for item in instructions)
        self._count = 0

    def next(self, instruction: ins.Instruction) -> str:
        """ "" for an instruction that is not shown."""
        if isinstance(instruction, ins.From):
            return self._numbered(f"FROM {_canonical(self._base)}") if self._base else ""
        return self._numbered(_text(instruction)) if isinstance(instruction, _COUNTED) else ""

    def _numbered(self, text: str) -> str:
        self._count += 1
        width = len(str(self._total))
        stage = f"{self._stage} " if self._stage else ""
        return f"[{stage}{self._count:{width}}/{self._total}] {text}"


def _canonical(image: str) -> str:
    parsed = reference.try_parse(image)
    return image if parsed is None else parsed.with_default_tag().canonical


def _text(instruction: ins.Instruction) -> str:
    """The first line of a here-document stands for the rest of it."""
    text = " ".join(instruction.original.splitlines()[:1])
    heredocs = instruction.heredocs if isinstance(instruction, (ins.Run, ins.Transfer)) else ()
    if not heredocs:
        return text
    first, _, rest = heredocs[0].text.strip().partition("\n")
    return f"{text} ({first}{'...' if rest else ''})"
