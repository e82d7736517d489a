"""The options of ``build`` as what the daemon is asked."""

from __future__ import annotations

import json
import os

from corten.cli import build_contexts
from corten.client.config_place import has_config_file
from corten.dockerapi.build_frames import MEDIA_TYPE
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import Any

    from corten.cli import flags

_NUMBERS = {
    "memory": "memory",
    "memory-swap": "memswap",
    "cpu-shares": "cpushares",
    "cpu-period": "cpuperiod",
    "cpu-quota": "cpuquota",
    "shm-size": "shmsize",
}
ENTITLEMENTS = ("network.host", "security.insecure", "device")


def build_arguments(pairs: list[str]) -> dict[str, str | None]:
    """``NAME=value``; NAME alone takes this environment's value, and none when there is none.

    SOURCE_DATE_EPOCH of the environment counts too, as for Docker's clients.
    """
    found: dict[str, str | None] = {}
    if os.environ.get("SOURCE_DATE_EPOCH"):
        found["SOURCE_DATE_EPOCH"] = os.environ["SOURCE_DATE_EPOCH"]
    for text in pairs:
        name, equals, value = text.partition("=")
        found[name] = value if equals else os.environ.get(name)
    return found


def _labels(pairs: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in pairs)}


def headers() -> list[tuple[str, str]]:
    """With the credentials of all registries that are known."""
    found = [("Content-Type", MEDIA_TYPE)]
    if has_config_file():
        from corten.client.transfers import every_auth_header  # what reads it takes as long as a cached build

        found += every_auth_header()
    return found


def query(
    options: flags.Options, dockerfile: str, *, platform: str, tags: list[str], cache_from: list[str], explain: bool
) -> dict[str, Any]:
    """Docker's own parameters."""
    arguments, labels = build_arguments(options.many("build-arg")), _labels(options.many("label"))
    ulimits = options.many("ulimit")
    asked: dict[str, Any] = {
        "dockerfile": dockerfile,
        "t": tags,
        "nocache": options.switch("no-cache") or None,
        "pull": options.switch("pull") or None,
        "rm": options.switch("rm"),
        "forcerm": options.switch("force-rm") or None,
        "buildargs": json.dumps(arguments) if arguments else None,
        "labels": json.dumps(labels) if labels else None,
        "cachefrom": json.dumps(cache_from) if cache_from else None,
        "extrahosts": options.many("add-host") or None,
        "ulimits": json.dumps(ulimits) if ulimits else None,
        "networkmode": options.text("network") or None,
        "platform": platform or None,
        "target": options.text("target") or None,
        "cgroupparent": options.text("cgroup-parent") or None,
        "cpusetcpus": options.text("cpuset-cpus") or None,
        "cpusetmems": options.text("cpuset-mems") or None,
        "explain": explain or None,
    }
    for name, parameter in _NUMBERS.items():
        asked[parameter] = options.value(name) or None
    return {name: value for name, value in asked.items() if value not in (None, [])}


def document(options: flags.Options, stack: ExitStack, *, rewrite_times: bool) -> dict[str, Any]:
    """What only this daemon knows.  stack: keeps agents of our own.

    Errors: InvalidParameter, NotFound, Unavailable.
    """
    allowed: list[str] = []
    for text in options.many("allow"):
        allowed += [text] if text.startswith("device=") else text.split(",")
    for name in allowed:
        if name not in ENTITLEMENTS and not name.startswith("device="):
            raise InvalidParameter(f"invalid entitlement {name!r}: one of {', '.join(ENTITLEMENTS)}")
    filtered = [item for text in options.many("no-cache-filter") for item in text.split(",") if item]
    asked = {
        "secrets": build_contexts.secrets(options.many("secret")),
        "agents": build_contexts.agents(options.many("ssh"), stack),
        "allow": allowed,
        "no_cache_filter": filtered,
        "squash": options.switch("squash"),
        "rewrite_times": rewrite_times,
        "structured": True,
    }
    return {name: value for name, value in asked.items() if value}
