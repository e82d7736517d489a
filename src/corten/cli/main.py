"""The ``corten`` command: finds the command, reads its options, runs it, and turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys

from corten.cli import exit_codes, flags, registry
from corten.cli.command import ArgumentCount
from corten.cli.context import Context
from corten.cli.exit_codes import ExitStatus
from corten.cli.messages import describe
from corten.client.address import Tls
from corten.errors import CortenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.cli.command import Command

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


def _read_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise flags.BadValue(f"it must be one of {', '.join(LOG_LEVELS)}")
    return text


GLOBAL_FLAGS = (
    flags.switch("debug", "D", "Show tracebacks of unexpected errors"),
    flags.text("host", "H", "Daemon socket to connect to (default: $CORTEN_HOST, else this user's own daemon)"),
    flags.single(
        "log-level",
        "l",
        "Least important messages to print, also by a daemon that is started (debug, info, warn, error, fatal)",
        _read_level,
        metavar="string",
        default="info",
    ),
    flags.switch("tls", "", "Use TLS on TCP; implied by --tlsverify"),
    flags.text("tlscacert", "", 'Trust a daemon whose certificate it signed (default "~/.docker/ca.pem")'),
    flags.text("tlscert", "", 'TLS certificate of this client (default "~/.docker/cert.pem")'),
    flags.text("tlskey", "", 'Key of the certificate (default "~/.docker/key.pem")'),
    flags.switch("tlsverify", "", "Use TLS on TCP and verify the daemon"),
    flags.switch("version", "v", "Print version information and quit"),
)


def load(name: str) -> Command:
    """The command with this name, its module imported now."""
    module_name, attribute, _ = registry.COMMANDS[registry.canonical(name)]
    module = __import__(f"corten.cli.commands.{module_name}", fromlist=[attribute])
    command: Command = getattr(module, attribute)
    return command


def _hint(name: str) -> str:
    return f"See 'corten {name} --help'." if name else "See 'corten --help'."


def _unknown(words: list[str]) -> ExitStatus:
    group = registry.group_of(words)
    wrong = " ".join(words[: len(group.split()) + 1])
    return ExitStatus(exit_codes.GENERAL, f"corten: unknown command: corten {wrong}\n{_hint(group)}")


def _show_group_help(words: list[str]) -> bool:
    """Help that belongs to no single command."""
    from corten.cli import help as texts

    if not words or words[0] in ("--help", "-h"):
        sys.stdout.write(texts.overview(GLOBAL_FLAGS))
        return True
    group = registry.group_of(words)
    rest = words[len(group.split()) :]
    if group and (not rest or rest[0] in ("--help", "-h")):
        sys.stdout.write(texts.group(group))
        return True
    return False


def _tls(options: flags.Options) -> Tls | None:
    """What the flags say; None when they say nothing."""
    files = [options.text(name) for name in ("tlscacert", "tlscert", "tlskey")]
    if not (options.switch("tls") or options.switch("tlsverify") or any(files)):
        return None
    from_environment = Tls.from_environment()
    return Tls(
        on=options.switch("tls") or from_environment.on or any(files),
        verify=options.switch("tlsverify") or from_environment.verify,
        ca=files[0],
        cert=files[1],
        key=files[2],
    )


def _dispatch(words: list[str]) -> int:
    try:
        options, words = flags.parse(GLOBAL_FLAGS, words, interspersed=False)
    except flags.HelpRequested:
        _show_group_help([])
        return 0
    except flags.UsageError as error:
        raise ExitStatus(exit_codes.code_of(error), f"{error}\n{_hint('')}") from None
    if options.switch("version"):
        from corten import __version__

        sys.stdout.write(f"Corten version {__version__}\n")
        return 0
    tls = _tls(options)
    if words[:1] == ["__complete"]:
        return _complete(Context(options.text("host"), tls=tls), words[1:])
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    name, rest = registry.find(words)
    if not name:
        if _show_group_help(words):
            return 0
        raise _unknown(words)
    context = Context(options.text("host"), name=name, tls=tls, log_level=options.text("log-level"))
    try:
        return _run(context, load(name), rest)
    except (CortenError, ExitStatus, BrokenPipeError):
        raise
    except Exception as error:
        if options.switch("debug"):
            raise
        raise ExitStatus(exit_codes.GENERAL, f"corten: {_unexpected(error)}") from None


def _unexpected(error: Exception) -> str:
    """One line for what no command foresaw."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)"


def _complete(context: Context, words: list[str]) -> int:
    """Hidden: what the shells' completion asks for, without starting a daemon for it."""
    from corten.cli.commands.completion import candidates

    context.starts_daemon = False
    for word in candidates(context, words):
        context.print(word)
    return 0


def _run(context: Context, command: Command, words: list[str]) -> int:
    name = context.name
    try:
        options, arguments = flags.parse(command.flags, words, interspersed=command.interspersed)
        command.check_count(name, len(arguments))
        return command.run(context, options, arguments) or 0
    except flags.HelpRequested:
        from corten.cli import help as texts

        context.write(texts.command(name, command))
        return 0
    except ArgumentCount as error:
        raise ExitStatus(
            exit_codes.GENERAL, f"corten: {error}\n{_hint(name)}\n\nUsage:  corten {name} {command.usage}".rstrip()
        ) from None
    except flags.UsageError as error:
        raise ExitStatus(exit_codes.code_of(error), f"{error}\n{_hint(name)}") from None


def _die_of(number: int) -> None:
    """End as a program does that has no handler for this signal, so that a shell sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _say(text: str) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass


def _guarded(words: list[str]) -> int:
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except ExitStatus as status:
        if status.message:
            _say(status.message)
        code = status.code
    except CortenError as error:
        _say(describe(error))
        code = exit_codes.code_of(error)
    return code


def main(words: list[str] | None = None) -> int:
    """Run the command line (without the program's name) and give its exit code."""
    words = sys.argv[1:] if words is None else words
    try:
        return _guarded(words)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # nobody reads: stay silent, also when the interpreter flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _die_of(signal.SIGPIPE)
        return exit_codes.BROKEN_PIPE
