"""``corten completion``: the shells ask ``corten __complete`` what may stand at the cursor."""

from __future__ import annotations

from corten.cli import flags, registry
from corten.cli.command import Command
from corten.errors import CortenError, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.cli.context import Context

_BASH = """\
_corten() {
    local IFS=$'\\n'
    COMPREPLY=($(corten __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        compopt -o default
    fi
}
complete -F _corten corten
"""
_ZSH = "#compdef corten\nautoload -U +X bashcompinit && bashcompinit\n" + _BASH
_FISH = """\
complete -c corten -f -a '(corten __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

# words of a command's usage -> what stands there
_KINDS = {
    "CONTAINER": "container",
    "CONTAINER|host": "container",
    "IMAGE": "image",
    "SOURCE_IMAGE": "image",
    "VOLUME": "volume",
    "NAME|ID": "any",
}


def _print_script(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    script = _SCRIPTS.get(arguments[0])
    if script is None:
        raise InvalidParameter(f"unknown shell '{arguments[0]}': must be one of {', '.join(_SCRIPTS)}")
    context.write(script)


def _names(context: Context, kind: str) -> Iterable[str]:
    if kind in ("container", "any"):
        for each in context.api.get("/containers/json", {"all": True}):
            yield from (name.removeprefix("/") for name in each["Names"])
    if kind in ("image", "any"):
        for each in context.api.get("/images/json"):
            for tag in each.get("RepoTags") or ():
                yield tag.removesuffix(":latest")
    if kind == "volume":
        for each in context.api.get("/volumes").get("Volumes") or ():
            yield each["Name"]


def _commands(group: str) -> Iterable[str]:
    every = (*registry.COMMANDS, *registry.ALIASES)
    if group:
        return (name.removeprefix(f"{group} ").split()[0] for name in every if name.startswith(f"{group} "))
    return (*(name for name in every if " " not in name), *(name for name in registry.GROUPS if " " not in name))


def candidates(context: Context, words: list[str]) -> list[str]:
    """What the last word may become; the words before it are what has been typed."""
    *before, current = words or [""]
    name, rest = registry.find(before)
    if not name:
        group = registry.group_of(before)
        found = _commands(group) if len(group.split()) == len(before) else ()
    elif current.startswith("-"):
        from corten.cli.main import load

        found = [f"--{flag.name}" for flag in load(name).flags if not flag.hidden] + ["--help"]
    else:
        from corten.cli.main import load

        usage = load(name).usage.replace("[OPTIONS]", "").replace("[", "").replace("]", "").split()
        first = usage[0].partition(":")[0] if usage else ""
        # what follows the image of "run" or the container of "exec" is the program's business
        is_first = not any(not word.startswith("-") for word in rest)
        repeats = len(usage) > 1 and usage[1].startswith(usage[0])
        kind = _KINDS.get(first, "")
        try:
            found = list(_names(context, kind)) if kind and (is_first or repeats) else []
        except CortenError:
            found = []
    return sorted({word for word in found if word.startswith(current)})


COMPLETION = Command(
    _print_script,
    "bash|zsh|fish",
    least=1,
    most=1,
    examples=(
        "completion bash > /etc/bash_completion.d/corten",
        "completion zsh > ~/.zfunc/_corten",
        "completion fish > ~/.config/fish/completions/corten.fish",
    ),
)
