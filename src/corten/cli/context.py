"""What a command works with: the daemon, and where its words go."""

from __future__ import annotations

import sys

from corten.client import address
from corten.client.api import Api
from corten.client.transport import is_listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, TextIO


class Context:
    """One run of the command.

    host:  the address given with ``-H``, or nothing
    tls:   what the ``--tls`` flags say; None when there are none: the environment decides
    name:  the command as it was called: "run" or "container run"
    log_level: warnings are printed up to "warn"; an automatically started daemon logs from this level on
    """

    def __init__(
        self,
        host: str = "",
        *,
        name: str = "",
        tls: address.Tls | None = None,
        log_level: str = "info",
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.host = host
        self.tls = tls
        self.name = name
        self.log_level = log_level
        self.starts_daemon = True
        self.out = sys.stdout if out is None else out
        self.err = sys.stderr if err is None else err
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The daemon; one is started when nobody chose a host and nobody listens on the default socket.

        Errors: InvalidParameter for a bad host, Unavailable when no daemon can be started.
        """
        if self._api is None:
            host = address.chosen_host(self.host)
            api = Api(host, self.tls)
            if not host and self.starts_daemon and not is_listening(api.transport.path):
                from corten.client.autostart import start_daemon

                start_daemon(api.transport.path, self.log_level)
            self._api = api
        return self._api

    @property
    def raw_out(self) -> BinaryIO:
        """Standard output for bytes; what was printed before is written first."""
        self.out.flush()
        return self.out.buffer

    def print(self, text: str = "") -> None:
        """A line on standard output."""
        self.out.write(text + "\n")

    def write(self, text: str) -> None:
        """Text on standard output as it is."""
        self.out.write(text)

    def warning(self, text: str) -> None:
        """ "WARNING: …" on standard error, unless the log level is above that."""
        if self.log_level not in ("error", "fatal"):
            self.complain(f"WARNING: {text}")

    def complain(self, text: str) -> None:
        """A line on standard error."""
        self.out.flush()
        self.err.write(text + "\n")
        self.err.flush()

    @property
    def is_out_terminal(self) -> bool:
        return self.out.isatty()
