"""``corten exec``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.attach import check_terminal, console_size, resizer
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.options import environment
from corten.cli.session import Session
from corten.client.api import path_of
from corten.dockerapi.detach_keys import parse_detach_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context


def _document(options: flags.Options, command: list[str]) -> dict[str, Any]:
    attached = not options.switch("detach")
    document = {
        "User": options.text("user"),
        "Privileged": options.switch("privileged"),
        "Tty": options.switch("tty"),
        "AttachStdin": attached and options.switch("interactive"),
        "AttachStdout": attached,
        "AttachStderr": attached,
        "DetachKeys": options.text("detach-keys"),
        "Env": environment.variables(options.many("env-file"), options.many("env")),
        "WorkingDir": options.text("workdir"),
        "Cmd": command,
    }
    size = console_size()
    if size and document["Tty"]:
        document["ConsoleSize"] = size
    return document


def _exec(context: Context, options: flags.Options, arguments: list[str]) -> int:
    name, *command = arguments
    keys = parse_detach_keys(options.text("detach-keys"))
    document = _document(options, command)
    if not options.switch("detach"):
        check_terminal(stdin=document["AttachStdin"], tty=document["Tty"])
    created = context.api.post(path_of("/containers/", name, "/exec"), None, document)
    path = path_of("/exec/", created["Id"])
    start = {"Detach": options.switch("detach"), "Tty": document["Tty"]}
    if "ConsoleSize" in document:
        start["ConsoleSize"] = document["ConsoleSize"]
    if start["Detach"]:
        context.api.post(path + "/start", None, start)
        return 0
    is_resizable = document["Tty"] and context.is_out_terminal
    with context.api.hijack(path + "/start", None, start) as connection:
        session = Session(
            connection,
            tty=document["Tty"],
            stdin=document["AttachStdin"],
            detach_keys=keys,
            on_resize=resizer(context, path) if is_resizable else None,
        )
        if session.run():
            raise ExitStatus(GENERAL, "read escape sequence")
    return int(context.api.get(path + "/json").get("ExitCode") or 0)


EXEC = Command(
    _exec,
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    (
        flags.switch("detach", "d", "Run the command in the background"),
        flags.text("detach-keys", "", 'Keys that detach from the command (default "ctrl-p,ctrl-q")'),
        flags.many(
            "env",
            "e",
            "Environment variable (NAME=VALUE, or NAME alone to pass this shell's value on)",
            environment.read_variable,
        ),
        flags.many("env-file", "", "File with environment variables, one NAME=VALUE per line"),
        flags.switch("interactive", "i", "Pass standard input on"),
        flags.switch("privileged", "", "All capabilities for the command"),
        flags.switch("tty", "t", "Give the command a terminal"),
        flags.text("user", "u", "User to run as (name or uid, with group: USER:GROUP)"),
        flags.text("workdir", "w", "Working directory inside the container"),
    ),
    least=2,
    most=None,
    interspersed=False,
    description="Exit status: that of the command; 126 when it cannot be executed, 127 when it is not there.",
    examples=("exec -it web bash", "exec -u postgres db pg_dump app > app.sql", "exec -d web touch /tmp/marker"),
)
