"""One solve as its client asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from corten.api.buildkit.attributes import CacheEntry
from corten.api.buildkit.exporters import Output

if TYPE_CHECKING:
    from corten.buildkit.proto import control_pb2 as pb
    from corten.dockerapi.registry_auth import RegistryAuth


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """ref: the client's name for it; session: where its files and secrets are, "" without one

    frontend: "" when the client is the frontend itself and calls ours
    inputs: graphs that attributes name; outputs, exporters: where the result goes, typed and as it was asked for
    is_internal: the history does not keep it
    credentials: beside those of the session
    """

    ref: str
    session: str = ""
    frontend: str = "dockerfile.v0"
    attributes: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, pb.Definition] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    exporters: tuple[tuple[str, Mapping[str, str]], ...] = ()
    cache_exports: tuple[CacheEntry, ...] = ()
    cache_imports: tuple[CacheEntry, ...] = ()
    entitlements: frozenset[str] = frozenset()
    is_internal: bool = False
    credentials: Mapping[str, RegistryAuth] = field(default_factory=dict, repr=False)
