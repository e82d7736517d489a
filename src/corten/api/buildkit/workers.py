"""What this engine is as a worker of BuildKit: its labels, platforms and rules of keeping."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from corten import __version__
from corten.api.buildkit.filters import Filters
from corten.build.emulation import platforms_here
from corten.buildkit.proto import control_pb2 as pb
from corten.cdi.selection import is_auto_allowed

if TYPE_CHECKING:
    from corten.engine.engine import Engine
    from corten.oci.platform import Platform

PACKAGE = "corten"
_LABEL = "org.mobyproject.buildkit.worker."
# what clients ask for before they send it
FRONTEND_CAPABILITIES = (
    "solve.base", "return", "returnmap", "readfile", "readdir", "statfile", "importcaches", "proto.refarray",
    "reference.output", "frontend.inputs", "gateway.solve.metadata", "frontend.caps", "gateway.solve.evaluate",
    "gateway.evaluate",
)  # fmt: skip
LLB_CAPABILITIES = (
    "source.image", "source.image.resolvemode", "source.local", "source.local.unique", "source.local.sessionid",
    "source.local.includepatterns", "source.local.followpaths", "source.local.excludepatterns",
    "source.local.sharedkeyhint", "source.git", "source.git.keepgitdir", "source.git.fullurl", "source.http",
    "source.http.checksum", "source.ocilayout", "exec.meta.base", "exec.meta.cgroup.parent", "exec.meta.network",
    "exec.meta.proxyenv", "exec.meta.security", "exec.meta.setsdefaultpath", "exec.meta.ulimit", "exec.mount.bind",
    "exec.mount.cache", "exec.mount.cache.sharing", "exec.mount.selector", "exec.mount.tmpfs",
    "exec.mount.tmpfs.size", "exec.mount.secret", "exec.mount.ssh", "exec.secretenv", "exec.meta.linux.resources",
    "file.base", "constraints", "platform", "meta.ignorecache", "meta.description", "meta.exportcache",
    "exporter.image.annotations", "exporter.image.attestations", "exporter.sourcedateepoch", "exporter.multiple",
    "history.filter",
)  # fmt: skip


def version() -> pb.BuildkitVersion:
    return pb.BuildkitVersion(package=PACKAGE, version=__version__, revision="")


def platform_message(platform: Platform) -> pb.Platform:
    return pb.Platform(os=platform.os, architecture=platform.architecture, variant=platform.variant)


def workers(engine: Engine, wanted: Iterable[str] = ()) -> list[pb.WorkerRecord]:
    """The one that this engine is, unless the filters leave it out.  Errors: InvalidParameter."""
    labels = _labels(engine)
    filters = Filters(wanted)
    name = engine.system.id
    values = {"id": name, **{f"labels.{key}": value for key, value in labels.items()}}
    if not filters.match(lambda field: values.get(field, "")):
        return []
    record = pb.WorkerRecord(id=name, labels=labels, buildkit_version=version())
    record.platforms.extend(platform_message(item) for item in platforms_here())
    for device in engine.devices.look().devices.values():
        listed = pb.CDIDevice(name=device.name, auto_allow=is_auto_allowed(device), annotations=device.annotations)
        record.cdi_devices.append(listed)
    return [record]


def _labels(engine: Engine) -> dict[str, str]:
    labels = {
        f"{_LABEL}hostname": os.uname().nodename,
        f"{_LABEL}executor": PACKAGE,
        # buildx takes it as the sign of an engine that exports archives, indexes and caches, as this one does
        f"{_LABEL}snapshotter": engine.config.storage_driver or "overlay2",
    }
    gateway = engine.networks.host_gateway
    if gateway:
        labels[f"{_LABEL}moby.host-gateway-ip"] = gateway
    return labels
