"""``corten stats``."""

from __future__ import annotations

import json
import select
import time

from corten.cli import flags
from corten.cli.command import Command
from corten.cli.render import FORMAT_HELP, Kind, Listing, short_id
from corten.cli.units import binary_size, decimal_size
from corten.client.api import checked, path_of
from corten.errors import CortenError, InvalidParameter, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.context import Context
    from corten.client.response import PendingResponse, Response

    Document = dict[str, Any]

_REDRAW_S = 0.5
_NOTHING = "--"


class StatsRow:
    """The last sample of a container.  ``sample``: None while there is none."""

    __slots__ = ("asked", "identifier", "name", "sample", "trunc")

    def __init__(self, asked: str, *, identifier: str = "", name: str = "", trunc: bool = True) -> None:
        self.asked = asked
        self.identifier = identifier
        self.name = name
        self.trunc = trunc
        self.sample: Document | None = None

    def take(self, sample: Document) -> None:
        """Remember a sample; of a container that does not run it has no figures."""
        self.identifier = sample.get("id") or self.identifier
        self.name = (sample.get("name") or self.name).removeprefix("/")
        self.sample = sample


def cpu_percent(sample: Document) -> float:
    """CPU time since the sample before, in percent of one CPU."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    usage = now.get("cpu_usage") or {}
    used = usage.get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or ())
    return used / passed * cpus * 100.0 if passed > 0 and used > 0 else 0.0


def memory_used(sample: Document) -> int:
    """Bytes in use without the page cache that can be given back at once."""
    memory = sample.get("memory_stats") or {}
    usage = int(memory.get("usage") or 0)
    details = memory.get("stats") or {}
    cache = int(details.get("total_inactive_file", details.get("inactive_file", 0)))
    return usage - cache if cache < usage else usage


def _network(sample: Document) -> tuple[int, int]:
    networks = (sample.get("networks") or {}).values()
    return sum(each["rx_bytes"] for each in networks), sum(each["tx_bytes"] for each in networks)


def _rate(row: StatsRow) -> str:
    """What each interface may receive and send in a second."""
    rate = (row.sample or {}).get("network_rate") or {}
    both = (rate.get("ingress") or 0, rate.get("egress") or 0)
    return " / ".join(f"{decimal_size(value, 3)}/s" if value else "-" for value in both)


def _blocks(sample: Document) -> tuple[int, int]:
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read = sum(entry["value"] for entry in entries if entry["op"][:1].lower() == "r")
    written = sum(entry["value"] for entry in entries if entry["op"][:1].lower() == "w")
    return read, written


def _memory_percent(sample: Document) -> float:
    limit = (sample.get("memory_stats") or {}).get("limit") or 0
    return memory_used(sample) / limit * 100.0 if limit else 0.0


def _memory(row: StatsRow) -> str:
    if row.sample is None:
        return f"{_NOTHING} / {_NOTHING}"
    limit = (row.sample.get("memory_stats") or {}).get("limit") or 0
    return f"{binary_size(memory_used(row.sample))} / {binary_size(limit)}"


def _pair(row: StatsRow, pair: Any) -> str:
    if row.sample is None:
        return _NOTHING
    first, second = pair(row.sample)
    return f"{decimal_size(first, 3)} / {decimal_size(second, 3)}"


def _percent(row: StatsRow, measure: Any) -> str:
    return _NOTHING if row.sample is None else f"{measure(row.sample):.2f}%"


def _pids(row: StatsRow) -> str:
    return _NOTHING if row.sample is None else str((row.sample.get("pids_stats") or {}).get("current", 0))


KIND = Kind(
    "statsContext",
    {
        "Container": ("CONTAINER", lambda row: row.asked),
        "Name": ("NAME", lambda row: row.name or _NOTHING),
        "ID": ("CONTAINER ID", lambda row: short_id(row.identifier) if row.trunc else row.identifier),
        "CPUPerc": ("CPU %", lambda row: _percent(row, cpu_percent)),
        "MemUsage": ("MEM USAGE / LIMIT", _memory),
        "MemPerc": ("MEM %", lambda row: _percent(row, _memory_percent)),
        "NetIO": ("NET I/O", lambda row: _pair(row, _network)),
        "NetRate": ("NET RATE", _rate),
        "BlockIO": ("BLOCK I/O", lambda row: _pair(row, _blocks)),
        "PIDs": ("PIDS", _pids),
    },
    ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"),
)


class _Stream:
    """The samples of one container as they come."""

    def __init__(self, row: StatsRow, pending: PendingResponse) -> None:
        self.row = row
        self.is_over = False
        self._response: Response = checked(pending.wait())
        self._rest = b""

    def fileno(self) -> int:
        return self._response.fileno()

    def read(self) -> None:
        """Take what has come."""
        while True:
            piece = self._response.read_some()
            self._rest += piece
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.strip():
                    self.row.take(json.loads(line))
            if not piece:
                self.close()
            if not piece or not self._response.has_data:
                return

    def close(self) -> None:
        self.is_over = True
        self._response.close()


class _Board:
    """All streams, and the events that add and remove some."""

    def __init__(self, context: Context, *, every: bool, trunc: bool) -> None:
        self._context = context
        self._every = every
        self._trunc = trunc
        self.streams: list[_Stream] = []
        self._events: Response | None = None
        self._rest = b""

    def add(self, asked: str, *, identifier: str = "", name: str = "") -> None:
        """Errors: the daemon's."""
        row = StatsRow(asked, identifier=identifier, name=name, trunc=self._trunc)
        pending = self._context.api.send("GET", path_of("/containers/", asked, "/stats"), {"stream": True})
        self.streams.append(_Stream(row, pending))

    def watch(self) -> None:
        """Follow what is started and what ends from now on."""
        filters = {"type": ["container"], "event": ["start", "die", "destroy", "create"]}
        self._events = self._context.api.stream("GET", "/events", {"filters": filters})

    def _handle_events(self, response: Response) -> None:
        """Errors: Unavailable when the daemon ends."""
        data = response.read_some()
        if not data:
            raise Unavailable("the daemon has ended the stream of events")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            event = json.loads(line)
            identifier, action = event["Actor"]["ID"], event["Action"]
            gone = action == "destroy" or (action == "die" and not self._every)
            known = [stream for stream in self.streams if stream.row.identifier == identifier]
            if gone:
                for stream in known:
                    stream.close()
            elif not known and (action == "start" or self._every):
                try:
                    name = event["Actor"]["Attributes"].get("name", "")
                    self.add(identifier[:12], identifier=identifier, name=name)
                except CortenError:
                    continue  # gone again already

    def gather(self, seconds: float) -> None:
        """Take samples for this long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            poller = select.poll()
            by_fd = {stream.fileno(): stream for stream in self.streams if not stream.is_over}
            for fd in by_fd:
                poller.register(fd, select.POLLIN)
            if self._events is not None:
                poller.register(self._events, select.POLLIN)
            for fd, _ in poller.poll(left * 1000):
                if fd in by_fd:
                    by_fd[fd].read()
                elif self._events is not None:
                    self._handle_events(self._events)
            self.streams = [stream for stream in self.streams if not stream.is_over]


def _listed(context: Context, *, every: bool) -> list[Document]:
    documents: list[Document] = context.api.get("/containers/json", {"all": True if every else None})
    return documents


def _once(context: Context, listing: Listing, names: list[str], *, every: bool, trunc: bool) -> None:
    api = context.api
    rows = [StatsRow(name, trunc=trunc) for name in names] or [
        StatsRow(short_id(each["Id"]), identifier=each["Id"], name=each["Names"][0].removeprefix("/"), trunc=trunc)
        for each in _listed(context, every=every)
    ]
    # asked all at once: a daemon may take a second for the two readings that a rate needs
    waiting = [api.send("GET", path_of("/containers/", row.asked, "/stats"), {"stream": False}) for row in rows]
    for row, pending in zip(rows, waiting, strict=True):
        with checked(pending.wait()) as response:
            row.take(json.loads(response.read()))
    listing.print(context, rows)


def _follow(context: Context, listing: Listing, names: list[str], *, every: bool, trunc: bool) -> None:
    board = _Board(context, every=every, trunc=trunc)
    if names:
        for name in names:
            board.add(name)
    else:
        board.watch()
        for each in _listed(context, every=every):
            board.add(short_id(each["Id"]), identifier=each["Id"], name=each["Names"][0].removeprefix("/"))
    while True:
        board.gather(_REDRAW_S)
        text = listing.text(stream.row for stream in board.streams)
        if context.is_out_terminal and listing.is_table:
            # from the top left corner, each line cleared to its end, and what is below it
            text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J"
        context.write(text)
        context.out.flush()
        if names and not board.streams:
            return


def _stats(context: Context, options: flags.Options, names: list[str]) -> None:
    every = options.switch("all")
    if names and options.is_given("all"):
        raise InvalidParameter("conflicting options: cannot specify both --all and names of containers")
    listing = Listing(KIND, options.text("format"))
    trunc = not options.switch("no-trunc")
    if options.switch("no-stream"):
        _once(context, listing, names, every=every, trunc=trunc)
    else:
        if context.is_out_terminal and listing.is_table:
            context.write("\x1b[2J")
        _follow(context, listing, names, every=every, trunc=trunc)


STATS = Command(
    _stats,
    "[OPTIONS] [CONTAINER...]",
    (
        flags.switch("all", "a", "Show all containers, not only those that run"),
        flags.text("format", "", FORMAT_HELP),
        flags.switch("no-stream", "", "Print one reading and end"),
        flags.switch("no-trunc", "", "Show long values whole"),
    ),
    most=None,
    examples=("stats", "stats --no-stream web db", "stats --format '{{.Name}}: {{.CPUPerc}}'"),
)
