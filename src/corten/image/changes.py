"""``-c`` of ``import`` and ``commit``: Dockerfile instructions applied to an image's run configuration.

Source: docker import(1), docker commit(1), the Dockerfile reference.
"""

from __future__ import annotations

import copy

from corten.dockerfile import instructions as ins
from corten.dockerfile.instruction_parser import InstructionParser
from corten.dockerfile.source import LogicalLine, read_source
from corten.dockerfile.words import expand, expand_words
from corten.errors import InvalidParameter
from corten.image import run_config
from corten.image.run_config import Run

_ALLOWED = frozenset(
    ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")
)


def apply_changes(config: Run, changes: list[str]) -> Run:
    """A new configuration with the instructions applied in order.

    Errors: InvalidParameter, Docker's wording ("X is not a valid change command").
    """
    source = read_source("\n".join(changes).encode("utf-8", "surrogateescape"))
    parser = InstructionParser(source.escape)
    editor = _Editor(config, source.escape)
    for line in source.logical:
        keyword = line.text.split(None, 1)[0]
        if keyword.upper() not in _ALLOWED:
            raise InvalidParameter(f"{keyword} is not a valid change command")
        editor.apply(parser.parse(line))
    return editor.run


class _Editor:
    """Applies instructions; ``run`` is what came of it."""

    def __init__(self, config: Run, escape: str) -> None:
        self.run = copy.deepcopy(config)
        self._escape = escape
        self._has_command = False

    def _word(self, text: str) -> str:
        return expand(text, run_config.environment(self.run), self._escape)

    def _words(self, text: str) -> list[str]:
        return expand_words(text, run_config.environment(self.run), self._escape)

    def _pairs(self, pairs: tuple[ins.Pair, ...], line: LogicalLine, keyword: str) -> list[tuple[str, str]]:
        found = [(self._word(pair.name), self._word(pair.value)) for pair in pairs]
        if not all(name for name, _ in found):
            raise line.error(f"{keyword} names can not be blank")
        return found

    def apply(self, instruction: ins.Instruction) -> None:
        """Errors: InvalidParameter."""
        run = self.run
        match instruction:
            case ins.Env(line=line, pairs=pairs):
                run_config.set_environment(run, self._pairs(pairs, line, "ENV"))
            case ins.Label(line=line, pairs=pairs):
                run_config.set_labels(run, self._pairs(pairs, line, "LABEL"))
            case ins.Cmd(command=command):
                run_config.set_command(run, command, run_config.shell_of(run))
                self._has_command = True
            case ins.Entrypoint(command=command):
                shell = run_config.shell_of(run)
                run_config.set_entrypoint(run, command, shell, keep_command=self._has_command)
            case ins.Expose(ports=ports):
                run_config.add_ports(run, [port for text in ports for port in self._words(text)])
            case ins.Volume(line=line, paths=texts):
                paths = [self._word(text) for text in texts]
                if not all(paths):
                    raise line.error("VOLUME specified can not be an empty string")
                run_config.add_volumes(run, paths)
            case ins.User(user=user):
                run_config.set_user(run, self._word(user))
            case ins.Workdir(path=path):
                run_config.set_directory(run, self._word(path))
            case ins.StopSignal(signal=name):
                run_config.set_stop_signal(run, self._word(name))
            case ins.Healthcheck():
                run_config.set_healthcheck(run, instruction)
            case ins.OnBuild(trigger=trigger):
                run_config.add_trigger(run, trigger)
