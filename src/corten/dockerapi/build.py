"""What a client asks of ``POST /build``, read and typed: query parameters become one document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from corten.dockerapi.container import Ulimit
from corten.errors import InvalidParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildQuery:
    """remote: a URL or git address instead of an archive in the body; memory in bytes, CPU times in microseconds

    arguments: None stands for an argument without a value; id: by which the build can be cancelled
    explain: tell why a step was not taken from the cache; framed: the body is that of ``build_request`` (both ours)
    """

    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    cache_from: tuple[str, ...] = ()
    pull: bool = False
    remove: bool = True
    force_remove: bool = False
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: int = 0
    cgroup_parent: str = ""
    arguments: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    network: str = ""
    platform: str = ""
    target: str = ""
    id: str = ""
    squash: bool = False
    explain: bool = False
    framed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSpace:
    """Bytes that the builds' cache may keep; 0 for no wish.

    reserved: so much stays in any case; max_used: more must not; min_free: so much of the disk should be free
    """

    reserved: int = 0
    max_used: int = 0
    min_free: int = 0


def json_value(text: str, kind: Any, what: str) -> Any:
    """The JSON of one query parameter; None without one.  Errors: InvalidParameter."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidParameter(f"error reading {what}: {error}") from None


def number(text: str, what: str) -> int:
    """Errors: InvalidParameter, Go's wording."""
    if not text:
        return 0
    digits = text[1:] if text[:1] in "+-" else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text[:40]}": invalid syntax ({what})')
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text[:40]}": value out of range ({what})')
    return value


def read_build_query(
    text: Callable[[str], str], texts: Callable[[str], list[str]], flag: Callable[..., bool]
) -> BuildQuery:
    """text, texts, flag: the getters of a request's query.

    Errors: InvalidParameter, also for what only a builder with sessions can do.
    """
    if text("version") not in ("", "1"):
        raise InvalidParameter(f"invalid version {text('version')}: 1 and 2 are builders' versions")
    if text("session") or text("remote") == "client-session":
        raise InvalidParameter("builder version 1 has no sessions, version 2 has")
    if text("isolation") not in ("", "default"):
        raise InvalidParameter(f"Unsupported isolation: {text('isolation')!r}")
    if json_value(text("securityopt"), list[str] | None, "securityopt"):
        raise InvalidParameter("The daemon on this platform does not support setting security options on build")
    if json_value(text("outputs"), list[dict[str, Any]] | None, "outputs"):
        raise InvalidParameter(
            "outputs are not supported by builder version 1, which gives its result to the image store"
        )
    arguments = json_value(text("buildargs"), dict[str, str | None] | None, "build args") or {}
    return BuildQuery(
        dockerfile=text("dockerfile") or "Dockerfile",
        tags=tuple(tag for tag in texts("t") if tag),
        remote=text("remote"),
        quiet=flag("q"),
        no_cache=flag("nocache"),
        cache_from=tuple(json_value(text("cachefrom"), list[str] | None, "cache-from") or ()),
        pull=flag("pull"),
        remove=flag("forcerm") or (flag("rm") if text("rm") else True),
        force_remove=flag("forcerm"),
        memory=number(text("memory"), "memory"),
        memory_swap=number(text("memswap"), "memswap"),
        cpu_shares=number(text("cpushares"), "cpushares"),
        cpu_period=number(text("cpuperiod"), "cpuperiod"),
        cpu_quota=number(text("cpuquota"), "cpuquota"),
        cpuset_cpus=text("cpusetcpus"),
        cpuset_mems=text("cpusetmems"),
        shm_size=number(text("shmsize"), "shmsize"),
        cgroup_parent=text("cgroupparent"),
        arguments=arguments,
        labels=json_value(text("labels"), dict[str, str] | None, "labels") or {},
        ulimits=tuple(json_value(text("ulimits"), list[Ulimit] | None, "ulimits") or ()),
        extra_hosts=tuple(host for value in texts("extrahosts") for host in _hosts(value)),
        network=text("networkmode"),
        platform=text("platform").lower(),
        target=text("target"),
        id=text("buildid"),
        squash=flag("squash"),
        explain=flag("explain"),
    )


def _hosts(text: str) -> list[str]:
    """One "name:address", or a JSON list of them, or several with commas: clients do all three."""
    if text.startswith("["):
        return list(json_value(text, list[str], "extrahosts") or ())
    if text.startswith("{"):
        found: dict[str, str] = json_value(text, dict[str, str], "extrahosts") or {}
        return [f"{name}:{address}" for name, address in found.items()]
    return [item for item in text.split(",") if item]
