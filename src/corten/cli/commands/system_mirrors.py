"""``corten system mirrors``."""

from __future__ import annotations

from corten.cli import flags
from corten.cli.command import Command
from corten.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.cli.context import Context

_PATH = "/system/mirrors"


def _mirrors(context: Context, options: flags.Options, _arguments: list[str]) -> None:
    known = context.api.get(_PATH)["Mirrors"]
    wanted = _changed(known, options)
    if wanted != known:
        known = context.api.call("PUT", _PATH, document={"Mirrors": wanted})["Mirrors"]
    for url in known:
        context.print(url)


def _changed(known: list[str], options: flags.Options) -> list[str]:
    """Errors: NotFound for one to remove that is not there, InvalidParameter."""
    added, removed = options.many("add"), options.many("rm")
    if options.switch("clear") and removed:
        raise InvalidParameter("--clear and --rm exclude each other")
    for url in removed:
        if url.rstrip("/") not in known:
            raise NotFound(f"{url} is no mirror of this daemon")
    gone = {url.rstrip("/") for url in removed}
    kept = [] if options.switch("clear") else [url for url in known if url not in gone]
    return list(dict.fromkeys([*kept, *(url.rstrip("/") for url in added)]))


MIRRORS = Command(
    _mirrors,
    "[OPTIONS]",
    (
        flags.many("add", "", "Ask this mirror too, after the others"),
        flags.switch("clear", "", "Ask none but those that are added"),
        flags.many("rm", "", "Do not ask this mirror any more"),
    ),
    description=(
        "Mirrors are asked in order before Docker Hub, for pulls that begin after a change. Changes hold until the "
        "daemon reads its configuration again: at its next start, or at SIGHUP."
    ),
    examples=("system mirrors", "system mirrors --add https://mirror.example"),
)
