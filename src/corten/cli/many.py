"""One request for each of several names, under way at the same time, answered in the order of the names."""

from __future__ import annotations

from corten.cli.messages import describe
from corten.client.api import checked
from corten.errors import CortenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from corten.cli.context import Context
    from corten.client.response import PendingResponse, Response

_AT_ONCE = 50


def answers(
    names: Sequence[str], send: Callable[[str], PendingResponse]
) -> Iterator[tuple[str, Response | CortenError]]:
    """(name, answer or error) for each name."""
    waiting: list[PendingResponse | CortenError] = []
    try:
        for position, name in enumerate(names):
            while len(waiting) < len(names) and len(waiting) < position + _AT_ONCE:
                waiting.append(_sent(names[len(waiting)], send))
            pending = waiting[position]
            if isinstance(pending, CortenError):
                yield name, pending
                continue
            try:
                answer = checked(pending.wait())
            except CortenError as error:
                yield name, error
                continue
            with answer:
                yield name, answer
    finally:
        for pending in waiting:
            if not isinstance(pending, CortenError):
                pending.close()


def _sent(name: str, send: Callable[[str], PendingResponse]) -> PendingResponse | CortenError:
    try:
        return send(name)
    except CortenError as error:
        return error


def for_each(
    context: Context,
    names: Sequence[str],
    send: Callable[[str], PendingResponse],
    *,
    forgive: Callable[[CortenError], bool] | None = None,
) -> int:
    """Print each name when its request has succeeded; errors go to standard error.

    forgive: errors that are no failure; such a name is not printed

    Gives the exit code: 1 when one has failed.
    """
    code = 0
    for name, answer in answers(names, send):
        if not isinstance(answer, CortenError):
            answer.read()
            context.print(name)
        elif forgive is None or not forgive(answer):
            context.complain(describe(answer))
            code = 1
    return code
