"""``corten start``, ``corten attach`` and ``corten logs``."""

from __future__ import annotations

from corten.cli import flags, terminal
from corten.cli.attach import Wait, attached, check_terminal
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.many import for_each
from corten.client.api import path_of
from corten.client.streams import STDERR, demultiplex, undivided
from corten.dockerapi.detach_keys import parse_detach_keys
from corten.errors import Conflict, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context

_DETACH_KEYS = flags.text("detach-keys", "", 'Keys that detach from the container (default "ctrl-p,ctrl-q")')


def _start(context: Context, options: flags.Options, names: list[str]) -> int:
    parse_detach_keys(options.text("detach-keys"))
    if options.switch("attach") or options.switch("interactive"):
        if len(names) > 1:
            raise InvalidParameter("you cannot start and attach multiple containers at once")
        return _start_attached(context, options, names[0])
    api = context.api
    failed: list[str] = []
    for name in names:
        # one after the other: the order of the names may matter to the programs
        if for_each(context, [name], lambda name: api.send("POST", path_of("/containers/", name, "/start"))):
            failed.append(name)
    if failed:
        raise ExitStatus(GENERAL, f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(context: Context, options: flags.Options, name: str) -> int:
    document = context.api.get(path_of("/containers/", name, "/json"))
    identifier, config = document["Id"], document["Config"]
    stdin = options.switch("interactive") and config["OpenStdin"]
    check_terminal(stdin=stdin, tty=config["Tty"])
    wait = Wait(context, identifier, removed=document["HostConfig"].get("AutoRemove", False))
    try:
        is_detached = attached(
            context,
            identifier,
            {"stdin": stdin, "stdout": True, "stderr": True},
            tty=config["Tty"],
            keys=options.text("detach-keys"),
            proxy=options.switch("sig-proxy") and not config["Tty"],
            start=lambda: context.api.post(path_of("/containers/", identifier, "/start")),
            wait=wait,
        )
        return 0 if is_detached else wait.status()
    finally:
        wait.close()


def _running(context: Context, name: str) -> dict[str, Any]:
    document: dict[str, Any] = context.api.get(path_of("/containers/", name, "/json"))
    state = document["State"]
    if not state["Running"]:
        raise Conflict("cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise Conflict("cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise Conflict("cannot attach to a restarting container, wait until it is running")
    return document


def _attach(context: Context, options: flags.Options, names: list[str]) -> int:
    keys = options.text("detach-keys")
    parse_detach_keys(keys)
    document = _running(context, names[0])
    identifier, config = document["Id"], document["Config"]
    stdin = not options.switch("no-stdin") and config["OpenStdin"]
    check_terminal(stdin=not options.switch("no-stdin"), tty=config["Tty"])
    wait = Wait(context, identifier, removed=False, next_exit=False)
    try:
        is_detached = attached(
            context,
            identifier,
            {"stdin": stdin, "stdout": True, "stderr": True},
            tty=config["Tty"],
            keys=keys,
            proxy=options.switch("sig-proxy") and not config["Tty"],
            start=lambda: _redraw(context, identifier, tty=config["Tty"]),
            wait=wait,
        )
        if is_detached:
            raise ExitStatus(GENERAL, "read escape sequence")
        return wait.status()
    finally:
        wait.close()


def _redraw(context: Context, identifier: str, *, tty: bool) -> None:
    """A size that is wrong for a moment makes programs draw their screen again for the new viewer."""
    rows, columns = terminal.size()
    if tty and (rows or columns):
        context.api.post(path_of("/containers/", identifier, "/resize"), {"h": rows + 1, "w": columns + 1})


def _moment(text: str) -> str | None:
    """``--since`` and ``--until`` as seconds; what cannot be read goes to the daemon, whose message says why."""
    if not text:
        return None
    from corten.dockerapi.timestamps import SECOND_NS, parse_moment

    moment = parse_moment(text)
    return f"{moment // SECOND_NS}.{moment % SECOND_NS:09d}"


def _logs(context: Context, options: flags.Options, names: list[str]) -> None:
    path = path_of("/containers/", names[0])
    query = {
        "stdout": True,
        "stderr": True,
        "follow": True if options.switch("follow") else None,
        "since": _moment(options.text("since")),
        "until": _moment(options.text("until")),
        "tail": options.text("tail"),
        "timestamps": True if options.switch("timestamps") else None,
        "details": True if options.switch("details") else None,
    }
    tty = context.api.get(path + "/json")["Config"]["Tty"]
    with context.api.stream("GET", path + "/logs", query) as response:
        for stream, data in (undivided if tty else demultiplex)(response):
            terminal.write_all(2 if stream == STDERR else 1, data)


START = Command(
    _start,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    (
        flags.switch("attach", "a", "Attach output and error, pass signals on, end with the program's exit status"),
        _DETACH_KEYS,
        flags.switch("interactive", "i", "Attach standard input"),
        flags.switch("sig-proxy", "", "Pass signals on to the program", default=True, hidden=True),
    ),
    least=1,
    most=None,
    examples=("start web", "start -ai shell"),
)
ATTACH = Command(
    _attach,
    "[OPTIONS] CONTAINER",
    (
        _DETACH_KEYS,
        flags.switch("no-stdin", "", "Leave standard input out"),
        flags.switch("sig-proxy", "", "Pass signals on to the program", default=True),
    ),
    least=1,
    most=1,
    examples=("attach shell", "attach --no-stdin --sig-proxy=false web"),
)
LOGS = Command(
    _logs,
    "[OPTIONS] CONTAINER",
    (
        flags.switch("details", "", "Begin lines with the labels and variables that the log options chose"),
        flags.switch("follow", "f", "Go on with what is written from now on"),
        flags.text("since", "", "Lines from this time on (2024-01-02T13:23:37Z) or this age (42m)"),
        flags.text("tail", "n", "Number of lines from the end", default="all"),
        flags.switch("timestamps", "t", "Begin lines with their time"),
        flags.text("until", "", "Lines before this time (2024-01-02T13:23:37Z) or this age (42m)"),
    ),
    least=1,
    most=1,
    examples=("logs web", "logs -f --tail 20 web", "logs --since 10m -t web 2>errors"),
)
