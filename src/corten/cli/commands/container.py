"""What is done to containers, and short questions about one."""

from __future__ import annotations

import json

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.exit_codes import GENERAL, ExitStatus
from corten.cli.many import answers, for_each
from corten.cli.messages import describe
from corten.client.api import path_of
from corten.errors import CortenError, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from corten.cli.context import Context
    from corten.client.response import PendingResponse

_NAMES = "[OPTIONS] CONTAINER [CONTAINER...]"


def _poster(context: Context, action: str, query: Mapping[str, Any] | None = None) -> Callable[[str], PendingResponse]:
    api = context.api
    return lambda name: api.send("POST", path_of("/containers/", name, f"/{action}"), query)


def _stop_query(options: flags.Options) -> dict[str, Any]:
    if options.is_given("time") and options.is_given("timeout"):
        raise InvalidParameter("conflicting options: cannot specify both --timeout and --time")
    seconds = next((options.integer(name) for name in ("timeout", "time") if options.is_given(name)), None)
    return {"signal": options.text("signal") or None, "t": seconds}


def _stop(context: Context, options: flags.Options, names: list[str]) -> int:
    return for_each(context, names, _poster(context, "stop", _stop_query(options)))


def _restart(context: Context, options: flags.Options, names: list[str]) -> int:
    return for_each(context, names, _poster(context, "restart", _stop_query(options)))


def _kill(context: Context, options: flags.Options, names: list[str]) -> int:
    return for_each(context, names, _poster(context, "kill", {"signal": options.text("signal") or None}))


def _pause(context: Context, _options: flags.Options, names: list[str]) -> int:
    return for_each(context, names, _poster(context, "pause"))


def _unpause(context: Context, _options: flags.Options, names: list[str]) -> int:
    return for_each(context, names, _poster(context, "unpause"))


def _wait(context: Context, _options: flags.Options, names: list[str]) -> int:
    code = 0
    for _, answer in answers(names, _poster(context, "wait")):
        if isinstance(answer, CortenError):
            context.complain(describe(answer))
            code = 1
            continue
        document = json.loads(answer.read())
        problem = (document.get("Error") or {}).get("Message")
        if problem:
            context.complain(problem)
            code = 1
        else:
            context.print(str(document["StatusCode"]))
            context.out.flush()
    return code


def _remove(context: Context, options: flags.Options, names: list[str]) -> int:
    api = context.api
    force = options.switch("force")
    query = {
        "v": True if options.switch("volumes") else None,
        "link": True if options.switch("link") else None,
        "force": True if force else None,
    }

    def send(name: str) -> PendingResponse:
        plain = name.strip("/") if not options.switch("link") else name
        if not plain:
            raise InvalidParameter("Container name cannot be empty")
        return api.send("DELETE", path_of("/containers/", plain), query)

    return for_each(context, names, send, forgive=lambda error: force and isinstance(error, NotFound))


def _rename(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    old, new = (argument.strip() for argument in arguments)
    if not old or not new:
        raise InvalidParameter("Error: Neither old nor new names may be empty")
    context.api.post(path_of("/containers/", old, "/rename"), {"name": new})


def _top(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    from corten.cli.tabwriter import align

    name, *words = arguments
    document = context.api.get(path_of("/containers/", name, "/top"), {"ps_args": " ".join(words) or None})
    rows = [document["Titles"], *(document["Processes"] or ())]
    context.print(align("\n".join("\t".join(row) for row in rows), least=20))


def _diff(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    if not arguments[0]:
        raise InvalidParameter("Container name cannot be empty")
    for change in context.api.get(path_of("/containers/", arguments[0], "/changes")) or ():
        context.print(f"{'CAD'[change['Kind']]} {change['Path']}")


def _bindings(entries: list[dict[str, str]] | None) -> list[str]:
    addresses = []
    for entry in entries or ():
        address = entry.get("HostIp") or ""
        addresses.append(f"[{address}]:{entry['HostPort']}" if ":" in address else f"{address}:{entry['HostPort']}")
    return addresses


def _port(context: Context, _options: flags.Options, arguments: list[str]) -> None:
    name = arguments[0]
    document = context.api.get(path_of("/containers/", name, "/json"))
    ports = (document.get("NetworkSettings") or {}).get("Ports") or {}
    if len(arguments) == 1:
        order = sorted(ports, key=lambda port: (int(port.partition("/")[0]), port))
        for port in order:
            for address in _bindings(ports[port]):
                context.print(f"{port} -> {address}")
        return
    number, _, protocol = arguments[1].partition("/")
    if not number.isdigit() or not 0 < int(number) < 1 << 16:
        raise InvalidParameter(f"Error: Invalid port: {arguments[1]}")
    port = f"{number}/{protocol or 'tcp'}"
    if ports.get(port) is None:
        raise ExitStatus(GENERAL, f"Error: No public port '{port}' published for {name}")
    for address in _bindings(ports[port]):
        context.print(address)


_STOP_FLAGS = (
    flags.text("signal", "s", "Signal to send"),
    flags.integer("timeout", "t", "Seconds until SIGKILL, -1 to wait for ever"),
    flags.integer("time", "", "Seconds until SIGKILL", hidden=True),
)

STOP = Command(
    _stop,
    _NAMES,
    _STOP_FLAGS,
    least=1,
    most=None,
    description="The program gets the image's stop signal (SIGTERM by default), then SIGKILL when it is too slow.",
    examples=("stop web", "stop -t 1 web db", "stop $(corten ps -q)"),
)
RESTART = Command(_restart, _NAMES, _STOP_FLAGS, least=1, most=None, examples=("restart -t 1 web",))
KILL = Command(
    _kill,
    _NAMES,
    (flags.text("signal", "s", 'Signal to send (default "KILL")'),),
    least=1,
    most=None,
    examples=("kill web", "kill -s HUP web"),
)
PAUSE = Command(_pause, "CONTAINER [CONTAINER...]", least=1, most=None, examples=("pause web",))
UNPAUSE = Command(_unpause, "CONTAINER [CONTAINER...]", least=1, most=None, examples=("unpause web",))
WAIT = Command(_wait, "CONTAINER [CONTAINER...]", least=1, most=None, examples=("wait job1 job2",))
REMOVE = Command(
    _remove,
    _NAMES,
    (
        flags.switch("force", "f", "Kill what runs (SIGKILL) and remove it"),
        flags.switch("link", "l", "Remove a link rather than a container"),
        flags.switch("volumes", "v", "Remove the container's anonymous volumes too"),
    ),
    least=1,
    most=None,
    examples=("rm web", "rm -f -v web", "rm $(corten ps -aq --filter status=exited)"),
)
RENAME = Command(_rename, "CONTAINER NEW_NAME", least=2, most=2, examples=("rename web web-old",))
TOP = Command(
    _top,
    "CONTAINER [ps OPTIONS]",
    least=1,
    most=None,
    interspersed=False,
    examples=("top web", "top web -o pid,comm,rss"),
)
DIFF = Command(
    _diff,
    "CONTAINER",
    least=1,
    most=1,
    description="A: added, C: changed, D: deleted since the container was created.",
    examples=("diff web",),
)
PORT = Command(_port, "CONTAINER [PRIVATE_PORT[/PROTO]]", least=1, most=2, examples=("port web", "port web 80/tcp"))
