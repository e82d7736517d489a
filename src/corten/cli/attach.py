"""Attaching to a container and waiting for its end: what ``run``, ``start -a`` and ``attach`` share."""

from __future__ import annotations

import contextlib
import json
import os

from corten.cli import terminal
from corten.cli.exit_codes import DAEMON, GENERAL, ExitStatus
from corten.cli.session import Session
from corten.cli.signals import name_of
from corten.client.api import checked, path_of
from corten.dockerapi.detach_keys import parse_detach_keys
from corten.errors import CortenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corten.cli.context import Context
    from corten.client.response import PendingResponse, Response

_REGISTERED_WITHIN_S = 10.0


def check_terminal(*, stdin: bool, tty: bool) -> None:
    """Errors: ExitStatus when a terminal is asked for and standard input is none."""
    if stdin and tty and not os.isatty(0):
        raise ExitStatus(GENERAL, "the input device is not a TTY")


class Wait:
    """A request that is answered when a container has ended.

    removed: wait until the container is removed, too
    """

    def __init__(self, context: Context, container: str, *, removed: bool, next_exit: bool = True) -> None:
        condition = "removed" if removed else ("next-exit" if next_exit else None)
        self._context = context
        self._pending: PendingResponse = context.api.send(
            "POST", path_of("/containers/", container, "/wait"), {"condition": condition}
        )
        self._response: Response | None = None

    def register(self) -> None:
        """Returns when the daemon has taken the request, so that a program that ends at once is not missed.

        Errors: the daemon's.
        """
        with contextlib.suppress(TimeoutError):
            self._response = checked(self._pending.wait(_REGISTERED_WITHIN_S))

    @property
    def response(self) -> Response | None:
        """The answer whose body comes at the end, once registered."""
        return self._response

    def has_ended(self) -> bool:
        """Whether the status is there, or nearly: the program is over."""
        import select

        if self._response is not None and self._response.has_data:
            return True
        poller = select.poll()
        poller.register(self._pending, select.POLLIN)
        return bool(poller.poll(0))

    def status(self) -> int:
        """The exit code, when there is one; 125 when the daemon cannot tell."""
        try:
            response = self._response or checked(self._pending.wait())
            with response:
                document = json.loads(response.read())
        except (CortenError, ValueError) as error:
            self._context.complain(f"error waiting for container: {error}")
            return DAEMON
        problem = (document.get("Error") or {}).get("Message")
        if problem:
            self._context.complain(f"Error waiting for container: {problem}")
            return DAEMON
        return int(document["StatusCode"])

    def close(self) -> None:
        self._pending.close()


def resizer(context: Context, path: str) -> Callable[[int, int], None]:
    """A function that resizes the terminal behind ``path``."""

    def resize(rows: int, columns: int) -> None:
        context.api.post(path + "/resize", {"h": rows, "w": columns})

    return resize


def forwarder(context: Context, container: str) -> Callable[[int], None]:
    """A function that sends a signal to a container; one that has just ended is no error."""

    def forward(number: int) -> None:
        with contextlib.suppress(CortenError):
            context.api.post(path_of("/containers/", container, "/kill"), {"signal": name_of(number)})

    return forward


def attached(
    context: Context,
    container: str,
    streams: dict[str, bool],
    *,
    tty: bool,
    keys: str,
    proxy: bool,
    start: Callable[[], Any] | None = None,
    wait: Wait | None = None,
) -> bool:
    """Attach, start, and stay until the output is over; True when the detach keys ended it earlier.

    streams: "stdin", "stdout", "stderr"

    Errors: the daemon's.
    """
    query = {"stream": True, "detachKeys": keys or None, **{name: True for name, on in streams.items() if on}}
    with context.api.hijack(path_of("/containers/", container, "/attach"), query) as connection:
        if wait is not None:
            wait.register()
        is_resizable = tty and context.is_out_terminal
        session = Session(
            connection,
            tty=tty,
            stdin=streams["stdin"],
            outputs=streams["stdout"] or streams["stderr"],
            detach_keys=parse_detach_keys(keys),
            on_signal=forwarder(context, container) if proxy else None,
            on_resize=resizer(context, path_of("/containers/", container)) if is_resizable else None,
            ended=wait.response if wait is not None else None,
        )
        context.out.flush()
        return session.run(start)


def console_size() -> list[int] | None:
    """[rows, columns] of standard output, None when it is no terminal."""
    rows, columns = terminal.size()
    return [rows, columns] if rows or columns else None
