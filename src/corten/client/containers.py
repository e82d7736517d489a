"""Containers of a daemon: make, run, find, and what can be done with one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, Unpack

from corten.client.api import TAR, Api, checked, path_of
from corten.client.options import ContainerOptions, create_document, words
from corten.client.references import split_reference
from corten.client.response import Hijacked, PendingResponse
from corten.client.streams import STDERR, STDOUT, communicate, demultiplex, undivided
from corten.errors import CortenError, NotFound, SystemFailure

Document = dict[str, Any]
Filters = Mapping[str, Sequence[str]]
Pruned = tuple[list[str], int]  # the class below has a method that is called list


class ProgramFailed(CortenError):
    """A program ended with an exit code other than 0.

    output, error: what it wrote
    """

    def __init__(self, what: str, exit_code: int, output: bytes, error: bytes) -> None:
        last = error.decode("utf-8", "replace").strip().rpartition("\n")[2]
        super().__init__(f"{what} ended with exit code {exit_code}" + (f": {last}" if last else ""))
        self.exit_code = exit_code
        self.output = output
        self.error = error


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command that was executed in a container.  With a terminal, ``error`` is part of ``output``."""

    exit_code: int
    output: bytes
    error: bytes


class Container:
    """One container.

    attrs: the document of ``inspect`` as of the last ``reload()``

    As a context manager it is removed at the end, running or not:

    >>> with client.containers.create("host", ["sleep", "60"]) as container:    # doctest: +SKIP
    ...     container.start()
    ...     container.exec(["cat", "/proc/1/comm"]).output
    b'sleep\\n'
    """

    def __init__(self, api: Api, identifier: str, attrs: Document | None = None) -> None:
        self._api = api
        self.id = identifier
        self._attrs = attrs

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(NotFound):  # removed meanwhile
            self.remove(force=True, volumes=True)

    def _path(self, action: str = "") -> str:
        return path_of("/containers/", self.id, action)

    @property
    def attrs(self) -> Document:
        if self._attrs is None:
            self.reload()
        assert self._attrs is not None
        return self._attrs

    def reload(self) -> Self:
        """Ask the daemon again.  Errors: NotFound."""
        self._attrs = self._api.get(self._path("/json"))
        return self

    @property
    def name(self) -> str:
        return str(self.attrs["Name"]).removeprefix("/")

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "restarting", "removing", "exited" or "dead", asked now."""
        return str(self.reload().attrs["State"]["Status"])

    @property
    def pid(self) -> int:
        """The host's number of its first process, 0 when it does not run; asked now."""
        return int(self.reload().attrs["State"]["Pid"])

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the program; one that runs already is left alone.

        Errors: NotFound, Conflict, and what the program cannot be started for.
        """
        self._api.post(self._path("/start"))

    def stop(self, timeout_s: int | None = None, *, signal: str | None = None) -> None:
        """End the program by its stop signal, and by SIGKILL after ``timeout_s`` seconds (or the container's own)."""
        self._api.post(self._path("/stop"), {"t": timeout_s, "signal": signal})

    def restart(self, timeout_s: int | None = None) -> None:
        """``stop`` and ``start``."""
        self._api.post(self._path("/restart"), {"t": timeout_s})

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal.  Errors: Conflict when it does not run."""
        self._api.post(self._path("/kill"), {"signal": signal})

    def pause(self) -> None:
        """Freeze all processes."""
        self._api.post(self._path("/pause"))

    def unpause(self) -> None:
        """Thaw all processes."""
        self._api.post(self._path("/unpause"))

    def wait(self) -> int:
        """The exit code, when the program has ended."""
        return _exit_code(self._api.post(self._path("/wait")))

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it.

        force:   also when it runs
        volumes: with its anonymous volumes

        Errors: NotFound; Conflict when it runs.
        """
        self._api.delete(self._path(), {"force": force, "v": volumes})

    def rename(self, name: str) -> None:
        """Errors: Conflict when the name is taken."""
        self._api.post(self._path("/rename"), {"name": name})

    def update(self, **limits: Any) -> list[str]:
        """Change limits (``Memory=…``, ``NanoCpus=…``: fields of the API description); gives warnings."""
        answer = self._api.post(self._path("/update"), None, limits)
        return list(answer.get("Warnings") or ())

    # -- looking in -------------------------------------------------------------------------------------------------

    def logs(
        self,
        *,
        stdout: bool = True,
        stderr: bool = True,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
        timestamps: bool = False,
    ) -> bytes:
        """What the program wrote so far; ``since`` and ``until`` are seconds since the epoch."""
        pieces = self._log_pieces(
            stdout=stdout, stderr=stderr, tail=tail, since=since, until=until, timestamps=timestamps
        )
        return b"".join(data for _, data in pieces)

    def follow_logs(self, *, tail: int | None = None, since: float | None = None) -> Iterator[tuple[int, bytes]]:
        """(1 for output or 2 for error, bytes) of what was written and of what is being written, until it ends."""
        return self._log_pieces(stdout=True, stderr=True, tail=tail, since=since, follow=True)

    def _log_pieces(self, *, tail: int | None, **query: Any) -> Iterator[tuple[int, bytes]]:
        tty = self.attrs["Config"]["Tty"]
        query["tail"] = "all" if tail is None else tail
        with self._api.stream("GET", self._path("/logs"), query) as response:
            yield from undivided(response) if tty else demultiplex(response)

    def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        tty: bool = False,
        privileged: bool = False,
        check: bool = False,
    ) -> ExecResult:
        """Execute a command inside and wait for its end.

        stdin: its input
        check: an exit code other than 0 is an error

        Errors: Conflict when the container does not run; ProgramFailed with ``check``.

        >>> container.exec(["cat"], stdin=b"hello").output         # doctest: +SKIP
        b'hello'
        """
        document = {
            "Cmd": words(command),
            "AttachStdin": stdin is not None,
            "AttachStdout": True,
            "AttachStderr": True,
            "Env": [f"{key}={value}" for key, value in (env or {}).items()],
            "WorkingDir": workdir,
            "User": user,
            "Tty": tty,
            "Privileged": privileged,
        }
        path = path_of("/exec/", self._api.post(self._path("/exec"), None, document)["Id"])
        with self._api.hijack(path + "/start", None, {"Detach": False, "Tty": tty}) as connection:
            output, error = communicate(connection, stdin, tty=tty)
        code = int(self._api.get(path + "/json").get("ExitCode") or 0)
        if check and code:
            raise ProgramFailed(f"{document['Cmd']} in {self.id[:12]}", code, output, error)
        return ExecResult(code, output, error)

    def attach(self, *, stdin: bool = True, stdout: bool = True, stderr: bool = True, logs: bool = False) -> Hijacked:
        """The program's streams as one connection, which the caller closes; without a terminal output is in frames
        (``corten.client.streams.demultiplex``)."""
        query = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "logs": logs}
        return self._api.hijack(self._path("/attach"), query)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        self._api.post(self._path("/resize"), {"h": rows, "w": columns})

    def top(self, ps_args: str = "") -> list[dict[str, str]]:
        """Its processes, each with the columns of ``ps``."""
        answer = self._api.get(self._path("/top"), {"ps_args": ps_args or None})
        return [dict(zip(answer["Titles"], row, strict=True)) for row in answer["Processes"] or ()]

    def stats(self) -> Document:
        """One reading of what it uses."""
        document: Document = self._api.get(self._path("/stats"), {"stream": False})
        return document

    def follow_stats(self) -> Iterator[Document]:
        """A reading each second, until it ends."""
        with self._api.stream("GET", self._path("/stats"), {"stream": True}) as response:
            for line in response.lines():
                yield json.loads(line)

    # -- files ------------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[str, str]]:
        """("A", "C" or "D", path) of what was added, changed and deleted since it was made."""
        return [("CAD"[each["Kind"]], each["Path"]) for each in self._api.get(self._path("/changes")) or ()]

    def get_archive(self, path: str) -> Iterator[bytes]:
        """A file or directory as a tar archive.  Errors: NotFound."""
        with self._api.stream("GET", self._path("/archive"), {"path": path}) as response:
            yield from response

    def put_archive(self, directory: str, archive: bytes | Iterable[bytes]) -> None:
        """Unpack a tar archive in a directory of the container.  Errors: NotFound."""
        query = {"path": directory, "noOverwriteDirNonDir": "true"}
        self._api.stream("PUT", self._path("/archive"), query, body=archive, headers=TAR).close()

    def export(self) -> Iterator[bytes]:
        """Its whole root as a tar archive."""
        with self._api.stream("GET", self._path("/export")) as response:
            yield from response

    def commit(self, reference: str = "", *, message: str = "", author: str = "", changes: Sequence[str] = ()) -> str:
        """Make an image of it; gives the image's id."""
        repository, tag = split_reference(reference)
        query = {
            "container": self.id,
            "repo": repository or None,
            "tag": tag or None,
            "comment": message or None,
            "author": author or None,
            "changes": list(changes),
        }
        return str(self._api.post("/commit", query)["Id"])


class Containers:
    """All containers of a daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(
        self, image: str, command: str | Sequence[str] | None = None, **options: Unpack[ContainerOptions]
    ) -> Container:
        """Make a container without starting it; keywords are those of ``ContainerOptions``.

        Errors: NotFound for the image, Conflict for the name, InvalidParameter.
        """
        document, query = create_document(image, command, options)
        created = self._api.post("/containers/create", query, document)
        return Container(self._api, created["Id"])

    def start(
        self, image: str, command: str | Sequence[str] | None = None, **options: Unpack[ContainerOptions]
    ) -> Container:
        """Make a container and start it in the background; one that cannot be started is removed again.

        >>> web = client.containers.start("nginx", network="host", name="web")       # doctest: +SKIP
        """
        container = self.create(image, command, **options)
        try:
            container.start()
        except BaseException:
            container.__exit__()
            raise
        return container

    def run(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        stdin: bytes | None = None,
        keep: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> bytes:
        """Run a program to its end; gives what it wrote to its output.

        stdin: its input
        keep:  do not remove the container afterwards

        Errors: ProgramFailed for an exit code other than 0, which has output and error; NotFound for the image.

        >>> client.containers.run("host", ["sort"], stdin=b"b\\na\\n")                # doctest: +SKIP
        b'a\\nb\\n'
        """
        if stdin is not None:
            config = {"AttachStdin": True, "StdinOnce": True, **options.get("config", {})}
            options = {**options, "open_stdin": True, "config": config}
        container = self.create(image, command, **options)
        try:
            code, output, error = _run_to_end(self._api, container, stdin, tty=bool(options.get("tty")))
        finally:
            if not keep:
                container.__exit__()
        if code:
            raise ProgramFailed(f"{words(command) or image}", code, output, error)
        return output

    def get(self, reference: str) -> Container:
        """The container with this name, id or unambiguous beginning of an id.  Errors: NotFound."""
        attrs = self._api.get(path_of("/containers/", reference, "/json"))
        return Container(self._api, attrs["Id"], attrs)

    def list(self, *, all: bool = False, filters: Filters | None = None) -> list[Container]:
        """Running containers, or all; newest first."""
        query = {"all": all, "filters": _filters(filters)}
        return [Container(self._api, each["Id"]) for each in self._api.get("/containers/json", query)]

    def prune(self, filters: Filters | None = None) -> Pruned:
        """Remove all that are stopped: (their ids, bytes that are free now)."""
        answer = self._api.post("/containers/prune", {"filters": _filters(filters)})
        return list(answer.get("ContainersDeleted") or ()), int(answer.get("SpaceReclaimed") or 0)


def _filters(filters: Filters | None) -> dict[str, list[str]] | None:
    return {key: list(values) for key, values in filters.items()} if filters else None


def _exit_code(answer: Document) -> int:
    problem = (answer.get("Error") or {}).get("Message")
    if problem:
        raise SystemFailure(problem)
    return int(answer["StatusCode"])


def _run_to_end(api: Api, container: Container, stdin: bytes | None, *, tty: bool) -> tuple[int, bytes, bytes]:
    """Attached and waited for before the start, so that nothing is missed."""
    path = path_of("/containers/", container.id)
    query = {"stream": True, "stdin": stdin is not None, "stdout": True, "stderr": True}
    waiting: PendingResponse | None = None
    with api.hijack(path + "/attach", query) as connection:
        waiting = api.send("POST", path + "/wait", {"condition": "next-exit"})
        try:
            answer = checked(waiting.wait())
            container.start()
            output, error = communicate(connection, stdin, tty=tty)
            code = _exit_code(json.loads(answer.read()))
        finally:
            waiting.close()
    return code, output, error


__all__ = ["STDERR", "STDOUT", "Container", "Containers", "ExecResult", "ProgramFailed"]
