"""What a client asks of the Dockerfile frontend: a table of strings becomes a build's parameters.

Source: moby/buildkit, frontend/dockerui (names and syntax of attributes) and frontend/attestations.
"""

from __future__ import annotations

import csv
import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.build import BuildQuery, number
from corten.dockerapi.container import Ulimit
from corten.errors import InvalidParameter
from corten.oci import reference
from corten.oci.platform import Platform, parse_platform

FRONTENDS = ("dockerfile.v0", "gateway.v0")
ENTITLEMENTS = frozenset({"network.host", "security.insecure", "device"})
CAPABILITIES = frozenset(
    f"moby.buildkit.frontend.{name}" for name in ("inputs", "subrequests", "contexts", "gitquerystring")
)
_IMAGES = ("docker/dockerfile", "docker/dockerfile-upstream")
_NETWORKS = {"": "", "sandbox": "", "none": "none", "host": "host"}
# told to other frontends, to other parts of BuildKit or for the record alone
_HARMLESS = ("vcs:", "sharedkey:", "input:", "input-metadata:", "build-arg:", "label:", "local-sessionid:", "attest:")
_KNOWN = frozenset(
    """
    add-hosts cache-from cache-imports cgroup-parent cmdline context contextkey contextsubdir cpuperiod cpuquota
    cpusetcpus cpusetmems cpushares dockerfilekey filename force-network-mode frontend.caps hostname image-resolve-mode
    memory memswap multi-platform no-cache platform requestid shm-size source target ulimit
    """.split()
)
# build arguments that steer the builder; they are no arguments of the Dockerfile unless it declares them
_SETTINGS = frozenset(
    """
    BUILDKIT_CACHE_MOUNT_NS BUILDKIT_CONTEXT_KEEP_GIT_DIR BUILDKIT_DOCKERFILE_CHECK BUILDKIT_INLINE_CACHE
    BUILDKIT_MULTI_PLATFORM BUILDKIT_SANDBOX_HOSTNAME BUILDKIT_SYNTAX BUILDKIT_BUILD_NAME BUILDKIT_HISTORY_PROVENANCE_V1
    """.split()
)
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Where steps may be taken from, or are put."""

    type: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attestations:
    """provenance: "", "min" or "max"; inline_only: in images alone, and only where they can stand"""

    provenance: str = ""
    inline_only: bool = False
    sbom: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call of the frontend.

    query: what other clients of builds say too; platforms: of the result, none for this machine's
    context: an address, "" for files of the client; context_name, dockerfile_name: of its directories
    directory: below the context; named: what has a name -> where it is ("docker-image://…", "local:…", …)
    sessions: of a client's directory, where it is not the solve's own
    request: what is asked instead of a build, "" for a build; check: wishes for the linter
    is_index: the result is an index, even of one platform
    """

    query: BuildQuery
    platforms: tuple[Platform, ...] = ()
    context: str = ""
    context_name: str = "context"
    dockerfile_name: str = "dockerfile"
    has_dockerfile_name: bool = False
    directory: str = ""
    named: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, str] = field(default_factory=dict)
    fresh_stages: tuple[str, ...] = ()
    hostname: str = ""
    cache_namespace: str = ""
    keep_git: bool = False
    request: str = ""
    check: str = ""
    is_index: bool = False
    attestations: Attestations = Attestations()
    caches: tuple[CacheEntry, ...] = ()


def read_order(frontend: str, attributes: Mapping[str, str]) -> Order:
    """Errors: InvalidParameter, naming the attribute."""
    _check_frontend(frontend, attributes)
    _check_known(attributes)
    arguments = dict(_below(attributes, "build-arg:"))
    fresh = attributes.get("no-cache")
    platforms = _platforms(attributes.get("platform", ""))
    return Order(
        query=_query(attributes, arguments),
        platforms=platforms,
        context=attributes.get(attributes.get("contextkey", "context"), ""),
        dockerfile_name=attributes.get("dockerfilekey", "dockerfile"),
        has_dockerfile_name="dockerfilekey" in attributes,
        directory=attributes.get("contextsubdir", ""),
        named=dict(_below(attributes, "context:")),
        sessions=dict(_below(attributes, "local-sessionid:")),
        fresh_stages=tuple(name for name in (fresh or "").split(",") if name),
        hostname=arguments.get("BUILDKIT_SANDBOX_HOSTNAME") or attributes.get("hostname", ""),
        cache_namespace=arguments.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        keep_git=_flag(arguments.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", ""), "BUILDKIT_CONTEXT_KEEP_GIT_DIR"),
        request=attributes.get("requestid", ""),
        check=arguments.get("BUILDKIT_DOCKERFILE_CHECK", ""),
        is_index=_is_index(attributes, arguments, len(platforms)),
        attestations=_attestations(attributes),
        caches=tuple(_caches(attributes)),
    )


def _below(attributes: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    return ((name[len(prefix) :], value) for name, value in attributes.items() if name.startswith(prefix))


def _check_frontend(frontend: str, attributes: Mapping[str, str]) -> None:
    if frontend not in FRONTENDS:
        raise InvalidParameter(f"the frontend {frontend} is not supported: dockerfile.v0 is built in")
    source = attributes.get("source", "")
    if frontend == "gateway.v0" and not is_dockerfile_frontend(source):
        raise InvalidParameter(
            f"the frontend {source or 'of gateway.v0'} is not supported: the built-in one reads what "
            "docker/dockerfile does"
        )
    for name in filter(None, attributes.get("frontend.caps", "").split(",")):
        if name.partition("+")[0] not in CAPABILITIES:
            raise InvalidParameter(f"unsupported frontend capability {name}")


def is_dockerfile_frontend(image: str) -> bool:
    """Whether an image is the standard frontend, of whatever version and mirror."""
    parsed = reference.try_parse(image)
    return parsed is not None and f"/{parsed.path}".endswith(tuple(f"/{name}" for name in _IMAGES))


def _check_known(attributes: Mapping[str, str]) -> None:
    context_key = attributes.get("contextkey", "context")
    for name in attributes:
        if name in _KNOWN or name == context_key or name.startswith((*_HARMLESS, "context:")):
            continue
        raise InvalidParameter(f"the frontend attribute {name} is not supported")


def _query(attributes: Mapping[str, str], arguments: Mapping[str, str]) -> BuildQuery:
    mode = attributes.get("image-resolve-mode", "")
    if mode not in ("", "default", "pull", "local"):
        raise InvalidParameter(f"invalid image-resolve-mode: {mode}")
    network = attributes.get("force-network-mode", "")
    if network not in _NETWORKS:
        raise InvalidParameter(f"invalid netmode {network}")
    return BuildQuery(
        dockerfile=attributes.get("filename") or "Dockerfile",
        remote=attributes.get(attributes.get("contextkey", "context"), ""),
        no_cache=attributes.get("no-cache") == "",
        pull=mode == "pull",
        force_remove=True,
        memory=number(attributes.get("memory", ""), "memory"),
        memory_swap=number(attributes.get("memswap", ""), "memswap"),
        cpu_shares=number(attributes.get("cpushares", ""), "cpushares"),
        cpu_period=number(attributes.get("cpuperiod", ""), "cpuperiod"),
        cpu_quota=number(attributes.get("cpuquota", ""), "cpuquota"),
        cpuset_cpus=attributes.get("cpusetcpus", ""),
        cpuset_mems=attributes.get("cpusetmems", ""),
        shm_size=number(attributes.get("shm-size", ""), "shm-size"),
        cgroup_parent=attributes.get("cgroup-parent", ""),
        arguments={name: value for name, value in arguments.items() if not _is_setting(name)},
        labels=dict(_below(attributes, "label:")),
        ulimits=tuple(_ulimit(text) for text in _fields(attributes.get("ulimit", ""))),
        extra_hosts=tuple(_host(text) for text in _fields(attributes.get("add-hosts", ""))),
        network=_NETWORKS[network],
        target=attributes.get("target", ""),
    )


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or name.startswith("BUILDKIT_ATTEST_")


def _fields(text: str) -> list[str]:
    """One line of comma-separated values."""
    if not text:
        return []
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise InvalidParameter(f"invalid list {text[:100]!r}: comma-separated values are needed") from None


def _ulimit(text: str) -> Ulimit:
    name, equals, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    if not name or not equals or not soft:
        raise InvalidParameter(f"invalid ulimit argument: {text}")
    lowest = number(soft, f"ulimit {name}")
    return Ulimit(name=name, soft=lowest, hard=number(hard, f"ulimit {name}") if colon else lowest)


def _host(text: str) -> str:
    name, equals, address = text.lower().partition("=")
    if not equals:
        raise InvalidParameter(f"failed to parse additional hosts: invalid key-value pair {text}")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidParameter(f"failed to parse additional hosts: failed to parse IP {address}") from None
    return f"{name}:{address}"


def _platforms(text: str) -> tuple[Platform, ...]:
    return tuple(dict.fromkeys(parse_platform(item.strip()) for item in text.split(",") if item.strip()))


def _flag(text: str, name: str) -> bool:
    lower = text.lower()
    if lower in _TRUE:
        return True
    if lower in _FALSE or not lower:
        return False
    raise InvalidParameter(f"invalid boolean value for {name}: {text}")


def _is_index(attributes: Mapping[str, str], arguments: Mapping[str, str], count: int) -> bool:
    text = arguments.get("BUILDKIT_MULTI_PLATFORM") or attributes.get("multi-platform", "")
    if not text:
        return count > 1
    wanted = _flag(text, "multi-platform")
    if count > 1 and not wanted:
        raise InvalidParameter("conflicting config: returning multiple target platforms is not allowed")
    return wanted


# -- attestations -----------------------------------------------------------------------------------------------------


def _attestations(attributes: Mapping[str, str]) -> Attestations:
    texts = {name.lower(): value for name, value in _below(attributes, "build-arg:BUILDKIT_ATTEST_")}
    texts.update({name.lower(): value for name, value in _below(attributes, "attest:")})
    mode, inline_only, has_sbom = "", False, False
    for kind, text in texts.items():
        given = {name: value for name, _, value in (item.partition("=") for item in _fields(text))}
        if given.pop("type", kind) != kind:
            raise InvalidParameter(f"attestation {kind}: invalid type")
        if kind == "sbom":
            has_sbom = not _flag(given.pop("disabled", ""), "disabled")
            given.pop("generator", None)  # nothing of an image runs for it: what is listed comes out of its databases
        elif kind == "provenance":
            mode, inline_only = _provenance(given)
        else:
            raise InvalidParameter(f"unknown attestation type {kind!r}")
        if given:
            raise InvalidParameter(f"attestation {kind}: the option {next(iter(given))} is not supported")
    return Attestations(mode, inline_only, has_sbom)


def _provenance(given: dict[str, str]) -> tuple[str, bool]:
    """(mode, inline only); what was read is taken out."""
    mode = given.pop("mode", "min")
    version = given.pop("version", "v1")
    inline_only = _flag(given.pop("inline-only", ""), "inline-only")
    is_disabled = _flag(given.pop("disabled", ""), "disabled")
    for name in ("reproducible", "builder-id", "filesystem-layers", "capture"):
        if _FALSE.isdisjoint({given.get(name, "false").lower()}):
            raise InvalidParameter(f"attestation provenance: the option {name} is not supported")
        given.pop(name, None)
    if mode not in ("min", "max"):
        raise InvalidParameter(f"attestation provenance: invalid mode {mode}")
    if version != "v1":
        raise InvalidParameter(f"attestation provenance: version {version} is not supported, v1 is")
    return ("" if is_disabled else mode), inline_only


# -- caches -----------------------------------------------------------------------------------------------------------


def _caches(attributes: Mapping[str, str]) -> Iterator[CacheEntry]:
    text = attributes.get("cache-imports", "")
    if text:
        try:
            yield from [_cache(item) for item in json.loads(text)]
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise InvalidParameter(f"failed to unmarshal cache-imports ({text[:100]!r})") from None
    for name in filter(None, attributes.get("cache-from", "").split(",")):
        yield CacheEntry("registry", {"ref": name})


def _cache(item: Any) -> CacheEntry:
    """Errors: AttributeError, TypeError for anything else than strings."""
    kind, attributes = item.get("Type", ""), dict(item.get("Attrs") or {})
    if not all(isinstance(text, str) for text in (kind, *attributes, *attributes.values())):
        raise TypeError("no string")
    return CacheEntry(kind, attributes)
