"""What is allowed and most likely a mistake: rules as data, findings with line numbers.

The names are those of Docker's build checks (docs.docker.com/reference/build-checks), so that ``# check=skip=NAME`` and
``# check=error=true`` mean the same.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corten.dockerfile import instructions as ins
from corten.dockerfile.ignore import Ignore
from corten.dockerfile.words import WordError, expand
from corten.errors import InvalidParameter

_SECRET = re.compile(r"(?i)(^|_)(apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(_|$)")
_PUBLIC = re.compile(r"(?i)(^|_)public(_|$)")
_VARIABLE = re.compile(r"(?<![\\$])\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?(:[\w][\w.-]*)?(@[\w+.-]+:[0-9a-fA-F]+)?")
_AUTOMATIC = re.compile(r"(BUILD|TARGET)(PLATFORM|OS|ARCH|VARIANT)\Z|(?i:(https?|ftp|no|all)_proxy)\Z|PATH\Z|HOME\Z")


@dataclass(frozen=True, slots=True)
class Finding:
    """line: counted from 1"""

    rule: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Base:
    """An image that a stage stands on.  variables: names in its environment; platform: os/architecture[/variant]"""

    variables: frozenset[str]
    platform: str


def _unknown(_: str) -> Base | None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the Dockerfile.

    ignore: what the context leaves out; base: an image by the name in FROM, None for one that is not here
    platform: for which is built, "" when that is not known
    """

    ignore: Ignore | None = None
    base: Callable[[str], Base | None] = _unknown
    platform: str = ""


Check = Callable[[ins.Dockerfile], Iterator[tuple[int, str]]]
_NOTHING = Surroundings()


def check(file: ins.Dockerfile, around: Surroundings = _NOTHING) -> tuple[list[Finding], bool]:
    """(findings by line, whether the file wants them to be errors).  Errors: InvalidParameter (check directive)."""
    skipped, wanted, is_error = _wishes(file.directives.get("check", ""))
    rules = dict(RULES)
    if wanted & {"all", *(name.lower() for name in EXPERIMENTAL)}:
        rules.update((name, rule) for name, rule in EXPERIMENTAL.items() if wanted & {"all", name.lower()})
    if (ignore := around.ignore) is not None:
        rules["CopyIgnoredFile"] = lambda file: _ignored(file, ignore)
    rules["UndefinedVar"] = lambda file: _undefined(file, around.base)
    rules["InvalidBaseImagePlatform"] = lambda file: _other_platforms(file, around)
    found = [
        Finding(name, line, message)
        for name, rule in rules.items()
        if name.lower() not in skipped and "all" not in skipped
        for line, message in rule(file)
    ]
    return sorted(found, key=lambda item: (item.line, item.rule)), is_error


def _wishes(text: str) -> tuple[set[str], set[str], bool]:
    """(rules to leave out, experimental ones to look for, whether what is found is an error)."""
    skipped: set[str] = set()
    wanted: set[str] = set()
    is_error = False
    for part in filter(None, (item.strip() for item in text.split(";"))):
        name, _, value = part.partition("=")
        listed = {item.strip().lower() for item in value.split(",")}
        if name.strip().lower() == "skip":
            skipped |= listed
        elif name.strip().lower() == "experimental":
            wanted |= listed
        elif name.strip().lower() == "error" and value.strip().lower() in ("true", "false"):
            is_error = value.strip().lower() == "true"
        else:
            raise InvalidParameter(f"invalid check directive: {part}")
    return skipped, wanted, is_error


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
            if _SECRET.search(name) and not _PUBLIC.search(name):
                yield (
                    item.line.number,
                    f'Do not use ARG or ENV instructions for sensitive data ({item.keyword} "{name}")',
                )


def _continuations(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    yield from file.warnings


def _from_arguments(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        for name in _undeclared(file, stage.start.image):
            yield stage.start.line.number, f"FROM argument '{name}' is not declared"


def _undeclared(file: ins.Dockerfile, text: str) -> list[str]:
    known = {name for item in file.arguments for name, _ in item.pairs}
    names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
    return [name for name in names if name not in known and not _AUTOMATIC.match(name)]


def _bad_defaults(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    known: dict[str, str] = {}
    for item in file.arguments:
        for name, default in item.pairs:
            try:
                known[name] = expand(default or "", known, file.escape)
            except WordError:
                continue  # told when it is built
    for stage in file.stages:
        text = stage.start.image
        if not _VARIABLE.search(text) or _undeclared(file, text):
            continue
        try:
            name = expand(text, known, file.escape)
        except WordError:
            continue
        if not _IMAGE.fullmatch(name):
            yield (
                stage.start.line.number,
                f"Default value for ARG {text} results in empty or invalid base image name",
            )


def _platforms(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        if stage.start.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            what = f"Setting platform to predefined {stage.start.platform} in FROM is redundant"
            yield stage.start.line.number, f"{what} as this is the default behavior"


def _constant_platforms(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for stage in file.stages:
        platform = stage.start.platform
        if not platform or "$" in platform:
            continue
        if any(part and part in stage.start.alias for part in platform.lower().split("/")):
            continue  # a stage that is meant for one platform and says so
        yield stage.start.line.number, f'FROM --platform flag should not use constant value "{platform}"'


def _ports(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        for port in item.ports if isinstance(item, ins.Expose) else ():
            if ":" in port and "$" not in port:
                what = "EXPOSE instruction should not define an IP address or host-port mapping"
                yield item.line.number, f"{what}, found '{port}'"


def _port_casing(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        for port in item.ports if isinstance(item, ins.Expose) else ():
            protocol = port.rpartition("/")[2] if "/" in port and "$" not in port else ""
            if protocol != protocol.lower():
                yield item.line.number, f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"


def _descriptions(file: ins.Dockerfile) -> Iterator[tuple[int, str]]:
    named: list[tuple[ins.Instruction, str]] = [(stage.start, stage.start.alias) for stage in file.stages]
    named += [(item, item.pairs[0][0]) for item in _all(file) if isinstance(item, ins.Arg)]
    for item, name in named:
        last = item.line.comment.rpartition("\n")[2]
        if name and last and last.partition(" ")[0] != name:
            yield item.line.number, f"Comment for {name} should follow the format: `# {name} <description>`"


def _ignored(file: ins.Dockerfile, ignore: Ignore) -> Iterator[tuple[int, str]]:
    for item in _all(file):
        if not isinstance(item, ins.Transfer) or item.origin:
            continue
        for source in item.sources:
            if re.match(r"\w+://|git@", source) or "$" in source:
                continue
            path = posixpath.normpath(source).lstrip("/")
            if path != "." and ignore.excludes(path):
                yield (
                    item.line.number,
                    f'Attempting to {item.keyword.title()} file "{source}" that is excluded by .dockerignore',
                )


def _undefined(file: ins.Dockerfile, base: Callable[[str], Base | None] = _unknown) -> Iterator[tuple[int, str]]:
    names_of: dict[str, set[str] | None] = {"scratch": set()}
    for stage in file.stages:
        name = stage.start.image
        image = None if name.lower() in names_of else base(name)
        inherited = set(image.variables) if image is not None else names_of.get(name.lower())
        if inherited is None:
            names_of[stage.name] = None
            continue  # what this image's environment has is not known here
        known = set(inherited)
        for item in stage.instructions:
            for text in _texts(item):
                for match in _VARIABLE.finditer(text):
                    variable = match[1] or match[2]
                    if variable not in known and not _AUTOMATIC.match(variable):
                        yield item.line.number, f"Usage of undefined variable '${variable}'"
            if isinstance(item, ins.Env):
                known.update(pair.name for pair in item.pairs)
            elif isinstance(item, ins.Arg):
                known.update(argument for argument, _ in item.pairs)
        names_of[stage.name] = known


def _other_platforms(file: ins.Dockerfile, around: Surroundings) -> Iterator[tuple[int, str]]:
    stages: set[str] = set()
    for stage in file.stages:
        name, expected = stage.start.image, stage.start.platform or around.platform
        image = around.base(name) if name.lower() not in stages and expected and "$" not in expected else None
        if image is not None and image.platform.split("/")[:2] != expected.lower().split("/")[:2]:
            what = f'Base image {name} was pulled with platform "{image.platform}"'
            yield stage.start.line.number, f'{what}, expected "{expected}" for current build'
        stages.add(stage.name)


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
    "ExposeInvalidFormat": _ports,
    "ExposeProtoCasing": _port_casing,
    "FromAsCasing": _as_casing,
    "FromPlatformFlagConstDisallowed": _constant_platforms,
    "InvalidDefaultArgInFrom": _bad_defaults,
    "JSONArgsRecommended": _shell_commands,
    "LegacyKeyValueFormat": _old_pairs,
    "MaintainerDeprecated": _maintainer,
    "MultipleInstructionsDisallowed": _several,
    "NoEmptyContinuation": _continuations,
    "RedundantTargetPlatform": _platforms,
    "ReservedStageName": _reserved_stages,
    "SecretsUsedInArgOrEnv": _secrets,
    "StageNameCasing": _stage_casing,
    "UndefinedArgInFrom": _from_arguments,
    "UndefinedVar": _undefined,
    "WorkdirRelativePath": _workdirs,
}
# looked for when the Dockerfile asks for it: ``# check=experimental=NAME``
EXPERIMENTAL: dict[str, Check] = {"InvalidDefinitionDescription": _descriptions}
