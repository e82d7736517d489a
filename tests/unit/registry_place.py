"""A store and a client of registries for tests: quick to try again, on a data root of its own."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

from corten.image.store import ImageStore
from corten.oci import reference
from corten.oci.platform import parse_platform
from corten.registry.auth import ANONYMOUS, Credentials
from corten.registry.pulling import Pull, Pulled
from corten.registry.pushing import Push, Pushed
from corten.registry.registry import Registry
from corten.registry.settings import Settings
from corten.snapshot.overlay import OverlaySnapshotter

QUICK = {"certificates": (), "attempts": 3, "backoff_s": 0.01, "stall_s": 20.0, "document_s": 20.0, "slow_bytes": 4096}
ME = Credentials("me", "s3cret")


class Place:
    """One machine's images."""

    def __init__(self, directory: Path, driver: Any = OverlaySnapshotter, **settings: Any) -> None:
        self.data_root = directory / "data"
        self.data_root.mkdir(parents=True)
        host = directory / "host"
        (host / "etc").mkdir(parents=True)
        self.snapshotter = driver(self.data_root)
        self.store = ImageStore(self.data_root, self.snapshotter, exec_root=directory / "run", host_root=str(host))
        self.registry = Registry(Settings(**{**QUICK, **settings}))
        self.reports: list[dict[str, Any]] = []
        self.transports: list[Any] = []
        self._start = self.state()

    def hurry(self, seconds: float) -> None:
        """Silence is not borne for long; enough for a busy machine where something good is to come as well."""
        times = {"stall_s": seconds, "slow_s": seconds, "document_s": 2 * seconds}
        self.registry.settings = dataclasses.replace(self.registry.settings, **times)

    def pull(self, name: str, credentials: Credentials = ANONYMOUS, *, platform: str = "") -> Pulled:
        transport = self.registry.transport()
        self.transports.append(transport)
        wanted = parse_platform(platform) if platform else None
        try:
            parsed = reference.parse(name).with_default_tag()
            pull = Pull(self.registry, self.store, transport, parsed, credentials, self.reports.append, platform=wanted)
            return pull.run()
        finally:
            transport.close()

    def push(self, name: str, credentials: Credentials = ANONYMOUS) -> list[Pushed]:
        transport = self.registry.transport()
        self.transports.append(transport)
        try:
            return Push(
                self.registry, self.store, transport, reference.parse(name), credentials, self.reports.append
            ).run()
        finally:
            transport.close()

    def state(self) -> tuple[Any, ...]:
        """Everything that a failed pull could leave."""
        blobs = sorted(path.name for path in (self.data_root / "blobs/sha256").iterdir())
        scratch = sorted(path.name for path in self.data_root.iterdir() if not path.name.startswith("images.db"))
        return (sorted(image.id for image in self.store.all()), sorted(self.snapshotter.ids()), blobs, scratch)

    def is_untouched(self) -> bool:
        """Nothing of a failed pull is left, no thread of it runs on."""
        running = [thread.name for thread in threading.enumerate() if thread.name.startswith(("pull", "push"))]
        return self.state() == self._start and not running

    def statuses(self, identifier: str = "") -> list[str]:
        return [item["status"] for item in self.reports if "status" in item and item.get("id", "") == identifier]

    def close(self) -> None:
        self.store.close()
