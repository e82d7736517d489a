"""A Dockerfile's text becomes stages of typed instructions."""

from __future__ import annotations

from corten.dockerfile import instructions as ins
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.instruction_parser import InstructionParser, check_trigger
from corten.dockerfile.source import read_source

_MAX_INSTRUCTIONS = 20_000


def parse(content: bytes) -> ins.Dockerfile:
    """Errors: DockerfileError with line and column."""
    source = read_source(content)
    if not source.logical:
        raise DockerfileError("file with no instructions")
    if len(source.logical) > _MAX_INSTRUCTIONS:
        raise DockerfileError(f"more than {_MAX_INSTRUCTIONS} instructions")
    parser = InstructionParser(source.escape)
    arguments: list[ins.Arg] = []
    stages: list[tuple[ins.From, list[ins.Instruction]]] = []
    for line in source.logical:
        instruction = parser.parse(line)
        if isinstance(instruction, ins.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            arguments.append(instruction)
        else:
            raise line.error("no build stage in current context: the first instruction must be FROM or ARG")
    if not stages:
        raise source.logical[-1].error("dockerfile contains no stages to build")
    warnings = [
        (number, "Empty continuation line: it will become an error in a future release")
        for number in source.empty_continuations
    ]
    return ins.Dockerfile(
        stages=tuple(
            ins.Stage(number, start.alias or str(number), start, tuple(listed))
            for number, (start, listed) in enumerate(stages)
        ),
        arguments=tuple(arguments),
        escape=source.escape,
        directives=source.directives,
        lines=source.lines,
        warnings=tuple(warnings),
    )


def parse_trigger(text: str, escape: str = "\\") -> ins.Instruction:
    """An ONBUILD trigger of a base image.  Errors: DockerfileError."""
    source = read_source(text.encode("utf-8", "surrogateescape"))
    if len(source.logical) != 1:
        raise DockerfileError(f"invalid ONBUILD trigger: {text[:200]}")
    line = source.logical[0]
    instruction = InstructionParser(escape).parse(line)
    check_trigger(instruction.keyword, line)
    return instruction
