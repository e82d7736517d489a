"""What the builds' cache holds, and how it gets smaller.

A step's image that has a name, or that a named image stands on, belongs to that image: it takes no room of its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.build.cache import CacheMount, Entry, StepCache
from corten.build.cache_locks import CacheLocks
from corten.errors import InvalidParameter
from corten.image.store import Image, ImageStore
from corten.oci.config import format_time
from corten.snapshot.overlay import tree_size

Matches = Callable[["Row"], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing in the cache.  type: "regular" (a step) or "exec.cachemount"; times in nanoseconds, size in bytes

    shared: an image that has a name needs it; in_use: something runs with it
    """

    id: str
    type: str
    parent: str
    description: str
    size: int
    created: int
    used: int
    uses: int
    shared: bool
    in_use: bool
    image: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "ID": self.id,
            "Parent": self.parent,
            "Parents": [self.parent] if self.parent else [],
            "Type": self.type,
            "Description": self.description,
            "InUse": self.in_use,
            "Shared": self.shared,
            "Size": self.size,
            "CreatedAt": format_time(self.created),
            "LastUsedAt": format_time(self.used) if self.uses else None,
            "UsageCount": self.uses,
        }


@dataclass(frozen=True, slots=True)
class Space:
    """What may stay, in bytes; 0 for no wish.

    reserved: so much stays in any case; max_used: more must not; min_free: so much of the disk should be free
    """

    reserved: int = 0
    max_used: int = 0
    min_free: int = 0

    def keep(self, held: int, free: int) -> int:
        """How much of ``held`` stays when the disk has ``free``."""
        if not (self.max_used or self.min_free):
            return self.reserved
        kept = min(held, self.max_used) if self.max_used else held
        return max(self.reserved, min(kept, held - max(0, self.min_free - free)))


class Usage:
    """Thread-safe."""

    def __init__(self, store: ImageStore, cache: StepCache, mounts: Path, locks: CacheLocks) -> None:
        self._store = store
        self._cache = cache
        self._mounts = mounts
        self._locks = locks

    def _listed(self) -> list[Row]:
        busy = self._locks.in_use()
        images = {image.id: image for image in self._store.all()}
        needed = _needed(images)
        entries = self._cache.entries()
        keys = {entry.image: entry.key for entry in entries}
        found = [_step(entry, keys, needed) for entry in entries]
        return found + [self._mount(mount, busy) for mount in self._cache.mounts()]

    def _mount(self, mount: CacheMount, busy: set[str]) -> Row:
        place = self._mounts / mount.id
        return Row(
            id=mount.id,
            type="exec.cachemount",
            parent="",
            description=mount.description,
            size=tree_size(place) if place.is_dir() else 0,
            created=mount.created,
            used=mount.used,
            uses=mount.uses,
            shared=False,
            in_use=mount.id in busy,
        )

    def rows(self) -> list[dict[str, Any]]:
        """As ``system df`` lists them."""
        return [row.document() for row in self._listed()]

    @staticmethod
    def matcher(wanted: dict[str, list[str]], until: int | None) -> Matches:
        """Errors: InvalidParameter for a bad value."""
        flags = {}
        for name in ("inuse", "shared", "private"):
            for text in wanted.get(name, ()):
                if text.lower() not in ("true", "false", "1", "0"):
                    raise InvalidParameter(f"invalid filter '{name}={text}'")
                flags[name] = text.lower() in ("true", "1")
        try:
            patterns = [re.compile(text) for text in wanted.get("description", ())]
        except re.error as error:
            raise InvalidParameter(f"invalid filter 'description': {error}") from None

        def matches(row: Row) -> bool:
            if until is not None and (row.used or row.created) > until:
                return False
            for name, value in (("id", row.id), ("parent", row.parent), ("type", row.type)):
                if name in wanted and value not in wanted[name]:
                    return False
            for name, is_so in (("inuse", row.in_use), ("shared", row.shared), ("private", not row.shared)):
                if name in flags and flags[name] is not is_so:
                    return False
            return all(pattern.search(row.description) for pattern in patterns)

        return matches

    def prune(
        self,
        matches: Matches,
        *,
        everything: bool,
        space: Space,
        remove: Callable[[str], bool],
    ) -> tuple[list[str], int]:
        """(ids of what went, bytes reclaimed), what was used longest ago first.

        everything: also steps of images that have names; remove: takes an image away that nothing needs
        """
        rows = sorted(self._listed(), key=lambda row: (row.used, row.created))
        held = sum(row.size for row in rows if not row.shared)
        disk = os.statvfs(self._mounts)
        keep_bytes = space.keep(held, disk.f_bavail * disk.f_frsize)
        deleted: list[str] = []
        reclaimed = 0
        for row in rows:
            if row.in_use or (row.shared and not everything) or not matches(row):
                continue
            if keep_bytes > 0 and not row.shared and held <= keep_bytes:
                continue
            if not self._remove(row):
                continue
            deleted.append(row.id)
            if not row.shared:
                held -= row.size
                reclaimed += row.size
        self._remove_images([row.image for row in rows if row.id in set(deleted) and row.image], remove)
        return deleted, reclaimed

    def _remove(self, row: Row) -> bool:
        """False for a cache mount that a step has begun to use since it was listed."""
        if row.type != "exec.cachemount":
            self._cache.remove([row.id])
            return True
        with self._locks.removing(row.id) as is_free:
            if is_free:
                shutil.rmtree(self._mounts / row.id, ignore_errors=True)
                self._cache.forget_mount(row.id)
            return is_free

    @staticmethod
    def _remove_images(images: list[str], remove: Callable[[str], bool]) -> None:
        """Children go before what they stand on: as long as one goes, the next may be free."""
        left = list(dict.fromkeys(reversed(images)))
        while left:
            gone = [image for image in left if remove(image)]
            if not gone:
                return
            left = [image for image in left if image not in gone]


def _needed(images: dict[str, Image]) -> set[str]:
    """Images that have names, and what they were made from."""
    found: set[str] = set()
    for image in images.values():
        current: Image | None = image if image.tags or image.digests else None
        while current is not None and current.id not in found:
            found.add(current.id)
            current = images.get(current.parent)
    return found


def _step(entry: Entry, keys: dict[str, str], needed: set[str]) -> Row:
    return Row(
        id=entry.key,
        type="regular",
        parent=keys.get(entry.parent, ""),
        description=entry.description,
        size=entry.size,
        created=entry.created,
        used=entry.used,
        uses=entry.uses,
        shared=entry.image in needed,
        in_use=False,
        image=entry.image,
    )
