"""What is allowed and most likely a mistake: rules as data, findings with line numbers.

The names are those of Docker's build checks (docs.docker.com/reference/build-checks), so that ``# check=skip=NAME`` and
``# check=error=true`` mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corten.dockerfile import instructions as ins
from corten.dockerfile.words import WordError, expand
from corten.errors import InvalidParameter

_SECRET = re.compile(r"(?i)(^|_)(apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(_|$)")
_VARIABLE = re.compile(r"(?<![\\$])\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_AUTOMATIC = re.compile(r"(BUILD|TARGET)(PLATFORM|OS|ARCH|VARIANT)\Z|(?i:(https?|ftp|no|all)_proxy)\Z|PATH\Z|HOME\Z")


@dataclass(frozen=True, slots=True)
class Finding:
    """line: counted from 1"""

    rule: str
    line: int
    message: str


Check = Callable[[ins.Dockerfile], Iterator[tuple[int, str]]]


def check(file: ins.Dockerfile) -> tuple[list[Finding], bool]:
    """(findings by line, whether the file wants them to be errors).  Errors: InvalidParameter (check directive)."""
    skipped, is_error = _wishes(file.directives.get("check", ""))
    found = [
        Finding(name, line, message)
        for name, rule in RULES.items()
        if name.lower() not in skipped and "all" not in skipped
        for line, message in rule(file)
    ]
    return sorted(found, key=lambda item: (item.line, item.rule)), is_error


def _wishes(text: str) -> tuple[set[str], bool]:
    skipped: set[str] = set()
    is_error = False
    for part in filter(None, (item.strip() for item in text.split(";"))):
        name, _, value = part.partition("=")
        if name.strip().lower() == "skip":
            skipped.update(item.strip().lower() for item in value.split(","))
        elif name.strip().lower() == "error" and value.strip().lower() in ("true", "false"):
            is_error = value.strip().lower() == "true"
        else:
            raise InvalidParameter(f"invalid check directive: {part}")
    return skipped, is_error


def _all(file: ins.Dockerfile) -> Iterator[ins.Instruction]:
    yield from file.arguments
    for stage in file.stages:
        yield stage.start
        yield from stage.instructions


def _keyword(instruction: ins.Instruction) -> str:
    return instruction.line.text.split(None, 1)[0]


def _casing(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    words = [(item.line.number, _keyword(item)) for item in _all(file)]
    upper = sum(word.isupper() for _, word in words)
    lower = sum(word.islower() for _, word in words)
    for line, word in words:
        if not (word.isupper() if upper >= lower else word.islower()):
            shape = "uppercase" if upper >= lower else "lowercase"
            yield line, f"Command '{word}' should match the case of the command majority ({shape})"


def _stage_casing(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        words = stage.start.line.text.split()
        if stage.start.alias and words[-1] != words[-1].lower():
            yield stage.start.line.number, f"Stage name '{words[-1]}' should be lowercase"


def _as_casing(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        words = stage.start.line.text.split()
        if stage.start.alias and words[-2].isupper() != words[0].isupper():
            yield stage.start.line.number, f"'{words[-2]}' and '{words[0]}' keywords' casing do not match"


def _duplicate_stages(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    for stage in file.stages:
        if stage.start.alias in seen:
            yield stage.start.line.number, f"Duplicate stage name '{stage.start.alias}', stage names should be unique"
        if stage.start.alias:
            seen.add(stage.start.alias)


def _reserved_stages(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        alias = stage.start.alias
        if alias in ("scratch", "context"):
            yield stage.start.line.number, f"Stage name should not use the same name as reserved stage '{alias}'"


def _maintainer(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        if isinstance(item, ins.Maintainer):
            yield item.line.number, "Maintainer instruction is deprecated in favor of using label"


def _old_pairs(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        if isinstance(item, (ins.Env, ins.Label)) and len(item.pairs) == 1:
            words = item.line.text.split(None, 2)
            if len(words) > 2 and "=" not in words[1]:
                old, new = f"{item.keyword} key value", f"{item.keyword} key=value"
                yield item.line.number, f'"{new}" should be used instead of legacy "{old}" format'


def _shell_commands(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        own_shell = any(isinstance(item, ins.Shell) for item in stage.instructions)
        for item in stage.instructions:
            if (
                isinstance(item, (ins.Cmd, ins.Entrypoint))
                and item.command.in_shell
                and item.command.words
                and not own_shell
            ):
                what = f"JSON arguments recommended for {item.keyword}"
                yield item.line.number, f"{what} to prevent unintended behavior related to OS signals"


def _several(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        for kind in (ins.Cmd, ins.Entrypoint, ins.Healthcheck):
            items = [item for item in stage.instructions if isinstance(item, kind)]
            for item in items[:-1]:
                what = f"Multiple {item.keyword} instructions should not be used in the same stage"
                yield item.line.number, f"{what} because only the last one will be used"


def _workdirs(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        known = any(stage.start.image.lower() == other.start.alias for other in file.stages[: stage.number])
        for item in stage.instructions:
            if not isinstance(item, ins.Workdir):
                continue
            if not known and not item.path.startswith(("/", "$", '"/', "'/")):
                yield (
                    item.line.number,
                    f"Relative workdir '{item.path}' can have unexpected results if the base image changes",
                )
            known = True


def _secrets(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        names = []
        if isinstance(item, ins.Env):
            names = [pair.name for pair in item.pairs]
        elif isinstance(item, ins.Arg):
            names = [name for name, _ in item.pairs]
        for name in names:
            if _SECRET.search(name):
                yield (
                    item.line.number,
                    f'Do not use ARG or ENV instructions for sensitive data ({item.keyword} "{name}")',
                )


def _continuations(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    yield from file.warnings


def _from_arguments(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    known = {name: default or "" for item in file.arguments for name, default in item.pairs}
    for stage in file.stages:
        for match in _VARIABLE.finditer(stage.start.image):
            name = match[1] or match[2]
            if name not in known and not _AUTOMATIC.match(name):
                yield stage.start.line.number, f"FROM argument '{name}' is not declared"
        try:
            if not expand(stage.start.image, known, file.escape).rstrip(":@"):
                yield (
                    stage.start.line.number,
                    f"Default value for ARG {stage.start.image} results in empty or invalid base image name",
                )
        except WordError:
            continue  # told when it is built


def _undefined(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    names_of: dict[str, set[str]] = {}
    for stage in file.stages:
        base = stage.start.image.lower()
        if base not in names_of and base != "scratch":
            names_of[stage.name] = set()
            continue  # what an image's environment has is not known here
        known = set(names_of.get(base, ()))
        for item in stage.instructions:
            texts = _texts(item)
            for text in texts:
                for match in _VARIABLE.finditer(text):
                    name = match[1] or match[2]
                    if name not in known and not _AUTOMATIC.match(name) and base == "scratch":
                        yield item.line.number, f"Usage of undefined variable '${name}'"
            if isinstance(item, ins.Env):
                known.update(pair.name for pair in item.pairs)
            elif isinstance(item, ins.Arg):
                known.update(name for name, _ in item.pairs)
        names_of[stage.name] = known


def _texts(item: ins.Instruction) -> list[str]:
    if isinstance(item, ins.Transfer):
        return [*item.sources, item.target, item.owner, item.mode]
    if isinstance(item, ins.Workdir):
        return [item.path]
    if isinstance(item, ins.Env):
        return [pair.value for pair in item.pairs]
    return []


RULES: dict[str, Check] = {
    "ConsistentInstructionCasing": _casing,
    "DuplicateStageName": _duplicate_stages,
    "FromAsCasing": _as_casing,
    "JSONArgsRecommended": _shell_commands,
    "LegacyKeyValueFormat": _old_pairs,
    "MaintainerDeprecated": _maintainer,
    "MultipleInstructionsDisallowed": _several,
    "NoEmptyContinuation": _continuations,
    "ReservedStageName": _reserved_stages,
    "SecretsUsedInArgOrEnv": _secrets,
    "StageNameCasing": _stage_casing,
    "UndefinedArgInFrom": _from_arguments,
    "UndefinedVar": _undefined,
    "WorkdirRelativePath": _workdirs,
}
