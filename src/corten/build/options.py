"""What a client asks of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from corten.build.workshop import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """dockerfile: its path in the context; tags: names of the result

    arguments: build arguments; None for one without a value; platform: "os/architecture[/variant]"
    remove: containers of steps that went well; force_remove: also of those that failed
    network: of RUN, "" for the engine's default; secrets: by id
    agents: sockets of ssh agents by id
    explain: tell why a step was not cached
    structured: tell of steps (``corten.build.steps``) instead of the classic builder's lines
    classic: as dockerd's classic builder where the reference says something else: what a step writes into a VOLUME
    is lost, WORKDIR makes directories of root, ".." and wildcards without a match are errors
    cache_namespace: keeps its cache mounts apart from those of other builds
    allow: entitlements that the client grants; fresh_stages: built without the cache, "*" for all of them
    squash: the result has one layer above its base; rewrite_times: no file of it is newer than SOURCE_DATE_EPOCH
    """

    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    target: str = ""
    arguments: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    cache_from: tuple[str, ...] = ()
    quiet: bool = False
    remove: bool = True
    force_remove: bool = False
    network: str = ""
    platform: str = ""
    limits: Limits = field(default_factory=Limits)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    agents: Mapping[str, str] = field(default_factory=dict)
    explain: bool = False
    structured: bool = False
    classic: bool = False
    allow: frozenset[str] = frozenset()
    fresh_stages: frozenset[str] = frozenset()
    squash: bool = False
    rewrite_times: bool = False
    cache_namespace: str = ""
