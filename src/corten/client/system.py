"""The daemon itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corten.client.api import Api

Document = dict[str, Any]


class System:
    """What a daemon says about itself."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def ping(self) -> bool:
        """True.  Errors: Unavailable when nobody listens."""
        with self._api.stream("GET", "/_ping") as response:
            return response.read() == b"OK"

    def version(self) -> Document:
        """Versions of the daemon and of what it is made of."""
        document: Document = self._api.get("/version")
        return document

    def info(self) -> Document:
        """Its configuration, its host, and how many of what there are."""
        document: Document = self._api.get("/info")
        return document

    def disk_usage(self) -> Document:
        """Images, containers and volumes with their sizes in bytes."""
        document: Document = self._api.get("/system/df")
        return document

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """What happens, from now or ``since`` (seconds since the epoch) on; without ``until`` it goes on for ever.

        >>> next(client.system.events(filters={"event": ["die"]}))["Actor"]["ID"]      # doctest: +SKIP
        'e90e34656806…'
        """
        query = {"since": since, "until": until, "filters": {key: [*values] for key, values in (filters or {}).items()}}
        with self._api.stream("GET", "/events", query) as response:
            for line in response.lines():
                if line.strip():
                    yield json.loads(line)
