"""``corten run`` and ``corten create``."""

from __future__ import annotations

import os

from corten.cli import flags
from corten.cli.attach import Wait, attached, check_terminal, console_size
from corten.cli.command import Command
from corten.cli.exit_codes import DAEMON, ExitStatus, code_of_start
from corten.cli.messages import describe
from corten.cli.options import table
from corten.cli.options.container import document_of
from corten.client.api import path_of
from corten.dockerapi.detach_keys import parse_detach_keys
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from corten.cli.context import Context

    Document = dict[str, Any]


def _failed(error: CortenError, verb: str, code: int = DAEMON) -> ExitStatus:
    return ExitStatus(code, f"corten: {describe(error)}\nSee 'corten {verb} --help'.")


class _IdFile:
    """``--cidfile``: reserved before the container is made, removed when that fails."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_written = False

    def __enter__(self) -> Self:
        if self._path:
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            except FileExistsError:
                raise Conflict(
                    "container ID file found, make sure the other container isn't running or delete " + self._path
                ) from None
            except OSError as error:
                raise InvalidParameter(
                    f"failed to create the container ID file: open {self._path}: {error.strerror}"
                ) from None
        return self

    def write(self, identifier: str) -> None:
        if self._path:
            with open(self._path, "w", encoding="ascii") as file:
                file.write(identifier)
            self._is_written = True

    def __exit__(self, *_: object) -> None:
        if self._path and not self._is_written and os.path.exists(self._path):
            os.unlink(self._path)


def _pull(context: Context, image: str, platform: str, *, quiet: bool) -> None:
    from corten.cli.progress import show_progress
    from corten.client.transfers import open_pull

    with open_pull(context.api, image, platform=platform) as response:
        show_progress(response, None if quiet else context.err)


def _create(context: Context, document: Document, options: flags.Options) -> str:
    """The new container's id.  Errors: the daemon's."""
    image, pull, quiet = document["Image"], options.text("pull"), options.switch("quiet")
    query = {"name": options.text("name") or None, "platform": options.text("platform") or None}
    size = console_size()
    if size:
        document["HostConfig"]["ConsoleSize"] = size
    with _IdFile(options.text("cidfile")) as id_file:
        if pull == "always":
            _pull(context, image, options.text("platform"), quiet=quiet)
        try:
            created = context.api.post("/containers/create", query, document)
        except NotFound as error:
            if pull != "missing" or "no such image" not in str(error).lower():
                raise
            if not quiet:
                from corten.client.references import with_tag

                context.complain(f"Unable to find image '{with_tag(image)}' locally")
            _pull(context, image, options.text("platform"), quiet=quiet)
            created = context.api.post("/containers/create", query, document)
        id_file.write(created["Id"])
    for warning in created.get("Warnings") or ():
        context.warning(warning)
    return str(created["Id"])


def _parsed(options: flags.Options, arguments: list[str], verb: str) -> Document:
    try:
        if options.text("pull") not in ("", "always", "missing", "never"):
            raise InvalidParameter(
                f'invalid pull option: \'{options.text("pull")}\': must be one of "always", "missing" or "never"'
            )
        return document_of(options, arguments[0], arguments[1:])
    except InvalidParameter as error:
        raise _failed(error, verb) from None


def _run_create(context: Context, options: flags.Options, arguments: list[str]) -> None:
    document = _parsed(options, arguments, "create")
    context.print(_create(context, document, options))


def _run(context: Context, options: flags.Options, arguments: list[str]) -> int:
    document = _parsed(options, arguments, "run")
    detached = options.switch("detach")
    if detached:
        if options.is_given("attach"):
            raise _failed(InvalidParameter("conflicting options: cannot specify both --attach and --detach"), "run")
        document |= {"AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "StdinOnce": False}
    else:
        check_terminal(stdin=document["AttachStdin"], tty=document["Tty"])
    try:
        parse_detach_keys(options.text("detach-keys"))
        identifier = _create(context, document, options)
    except CortenError as error:
        raise _failed(error, "run", code_of_start(error)) from None
    try:
        return _start(context, identifier, document, options)
    except CortenError as error:
        raise _failed(error, "run", code_of_start(error)) from None


def _start(context: Context, identifier: str, document: Document, options: flags.Options) -> int:
    path = path_of("/containers/", identifier, "/start")
    streams = {name: document[f"Attach{name.capitalize()}"] for name in ("stdin", "stdout", "stderr")}
    if not any(streams.values()):
        context.api.post(path)
        context.print(identifier)
        return 0
    if not streams["stdout"] and not streams["stderr"]:
        context.print(identifier)
    removes = options.switch("rm")
    wait = Wait(context, identifier, removed=removes)
    started = False

    def start() -> None:
        nonlocal started
        context.api.post(path)
        started = True

    try:
        is_detached = attached(
            context,
            identifier,
            streams,
            tty=document["Tty"],
            keys=options.text("detach-keys"),
            proxy=options.switch("sig-proxy"),
            start=start,
            wait=wait,
        )
        return 0 if is_detached else wait.status()
    finally:
        if not started and removes:
            _wait_for_removal(wait)
        wait.close()


def _wait_for_removal(wait: Wait) -> None:
    """The daemon removes a container that could not be started; then nothing of it is left when the command ends."""
    if wait.response is not None:
        wait.status()


_COMMON = (
    flags.text("name", "", "Name of the container"),
    flags.text("platform", "", "Platform of the image (os/architecture)"),
    flags.text("pull", "", "When to pull the image: always, missing, never", default="missing"),
    flags.switch("quiet", "q", "Do not show the progress of pulling"),
)

RUN = Command(
    _run,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    (
        flags.switch("detach", "d", "Run in the background and print the container's id"),
        flags.text("detach-keys", "", 'Keys that detach from the program (default "ctrl-p,ctrl-q")'),
        flags.switch("sig-proxy", "", "Pass signals on to the program", default=True),
        *_COMMON,
    ),
    sections=table.SECTIONS,
    least=1,
    most=None,
    interspersed=False,
    description=(
        "Exit status: that of the program; 125 when the container could not be made or started, "
        "126 when the program cannot be executed, 127 when it is not there."
    ),
    examples=(
        "run --rm host echo hello",
        "run -it --rm -v $PWD:/work -w /work debian bash",
        "run -d --name web --network host --restart unless-stopped nginx",
        "run --rm --memory 512m --cpus 1.5 --pids-limit 100 host make",
    ),
)

CREATE = Command(
    _run_create,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    _COMMON,
    sections=table.SECTIONS,
    least=1,
    most=None,
    interspersed=False,
    examples=("create --name job -e MODE=fast debian ./job", "start -a job"),
)
