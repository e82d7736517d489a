"""Everything a start needs beside the record: files of the container's directory, joined namespaces, the spec."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from corten.cdi.injection import Injection
from corten.cgroup import systemd
from corten.cgroup.hierarchy import Hierarchies
from corten.config import Config
from corten.dockerapi.codec import encode
from corten.engine import apparmor
from corten.engine.container import Container, IdMaps
from corten.engine.devices import Devices
from corten.engine.endpoints import Endpoints
from corten.engine.host_support import LimitSupport
from corten.engine.live import Index
from corten.engine.mount_points import oci_mounts
from corten.engine.security import SecurityOptions, capabilities, parse_security_options
from corten.engine.selinux import SELinux
from corten.engine.spec import SpecInput, build_spec
from corten.engine.user_namespaces import donor
from corten.errors import Conflict, InvalidParameter
from corten.linux import files as small_files
from corten.linux import paths, user_namespace
from corten.linux import process as kernel
from corten.linux import selinux as kernel_selinux
from corten.runtime import seccomp_profile, tiny_init, users

_NAMESPACE_FILES = {"network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts"}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the daemon reads once about its host.

    cgroups: containers have control groups; an ordinary user has none unless they are delegated
    """

    capabilities: tuple[str, ...]
    apparmor: bool
    selinux: bool
    cgroup_v2: bool
    cgroups: bool
    pids_limit: bool

    @classmethod
    def read(cls, hierarchies: Hierarchies) -> HostFacts:
        return cls(
            capabilities=kernel.known_capabilities(),
            apparmor=apparmor.is_enabled(),
            selinux=kernel_selinux.is_enabled(),
            cgroup_v2=hierarchies.is_v2,
            cgroups=bool(hierarchies.directories("/")),
            pids_limit=bool(hierarchies.directories("/")) and LimitSupport.read(hierarchies).pids,
        )


class Preparation:
    """Builds the specs of containers and execs of one daemon."""

    def __init__(
        self,
        config: Config,
        facts: HostFacts,
        index: Index,
        endpoints: Endpoints,
        devices: Devices,
        open_root: Callable[[str], AbstractContextManager[int]],
    ) -> None:
        """open_root: (container id) -> a descriptor of its root while it does not run"""
        self._config = config
        self._facts = facts
        self._index = index
        self._endpoints = endpoints
        self._devices = devices
        self._open_root = open_root
        self._default_profile = self._read_profile(config.seccomp_profile)
        self.apparmor = apparmor.AppArmor(enabled=facts.apparmor)
        self.selinux = SELinux(enabled=config.selinux_enabled)
        self._resolved: dict[tuple[str, ...], dict[str, Any] | None] = {}

    @staticmethod
    def _read_profile(path: str) -> dict[str, Any] | None:
        if path == "unconfined":
            return None
        if not path:
            return seccomp_profile.default_profile()
        try:
            profile = json.loads(Path(path).read_text())
            seccomp_profile.check(profile)
        except (OSError, ValueError, RecursionError, InvalidParameter) as error:
            raise InvalidParameter(f"opening seccomp profile ({path}) failed: {error}") from error
        return cast("dict[str, Any]", profile)

    def directory(self, container_id: str) -> Path:
        return self._config.data_root / "containers" / container_id

    def security(self, container: Container) -> SecurityOptions:
        return parse_security_options(
            container.host_config.security_opt,
            no_new_privileges=self._config.no_new_privileges,
            apparmor_enabled=self._facts.apparmor,
            selinux_enabled=self.selinux.enabled,
            selinux_here=self._facts.selinux,
        )

    def apparmor_profile(self, container: Container) -> str:
        """As inspect tells it."""
        return self.apparmor.shown(self.security(container).apparmor, privileged=container.host_config.privileged)

    def capabilities(self, container: Container, *, privileged: bool = False) -> list[str]:
        if privileged:
            return list(self._facts.capabilities)
        return capabilities(container.host_config, self._facts.capabilities)

    def cgroup_path(self, container: Container) -> str:
        parent = container.host_config.cgroup_parent or self._config.cgroup_parent
        if self._config.cgroup_driver == "systemd":
            return systemd.scope_path(parent or systemd.DEFAULT_SLICE, f"corten-{container.id}.scope")
        return paths.clean(f"{parent or '/corten'}/{container.id}")

    def _seccomp(self, container: Container, options: SecurityOptions, names: list[str]) -> dict[str, Any] | None:
        if options.seccomp == "unconfined" or (container.host_config.privileged and not options.seccomp):
            return None
        if options.seccomp:
            return seccomp_profile.resolve_profile(json.loads(options.seccomp), names)
        if self._default_profile is None:
            return None
        key = tuple(names)
        if key not in self._resolved:
            self._resolved[key] = seccomp_profile.resolve_profile(self._default_profile, names)
        return self._resolved[key]

    def joined_namespaces(self, container: Container) -> dict[str, str]:
        """Paths of the namespaces of other containers that this one shares.

        Errors: Conflict when the other container does not run.
        """
        host = container.host_config
        joined = {}
        for kind, mode in (("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)):
            if mode.startswith("container:"):
                other = self._index.find(mode.partition(":")[2]).container
                if not other.is_running:
                    raise Conflict(f"cannot join {kind} of a non running container: {other.id}")
                joined[kind] = f"/proc/{other.state.pid}/ns/{_NAMESPACE_FILES[kind]}"
                if kind != "uts" and other.id_maps:
                    # whoever shares a namespace must share the user namespace that it belongs to
                    joined["user"] = f"/proc/{other.state.pid}/ns/user"
        joined |= self._endpoints.namespaces(container)
        return joined

    def shared_ids(self, container: Container) -> IdMaps | None:
        """The ids of a container whose namespaces this one joins; None when it joins none."""
        giver = donor(container, lambda reference: self._index.find(reference).container)
        return giver.id_maps if giver is not None else None

    def shm_source(self, container: Container) -> str:
        """The host directory behind /dev/shm when the IPC namespace is shared with the host or a container."""
        mode = container.host_config.ipc_mode
        if mode == "host":
            return "/dev/shm"
        if mode == "shareable":
            return str(self.shm_directory(container.id))
        if mode.startswith("container:"):
            other = self._index.find(mode.partition(":")[2]).container
            if other.host_config.ipc_mode == "host":
                return "/dev/shm"
            if other.host_config.ipc_mode != "shareable":
                raise Conflict(
                    f"cannot join IPC of container {other.id}: non-shareable IPC "
                    "(hint: use IpcMode:shareable for the donor container)"
                )
            return str(self.shm_directory(other.id))
        return ""

    def shm_directory(self, container_id: str) -> Path:
        """Beside the shim's directory, which the shim makes and removes itself."""
        return self._config.exec_root / "shm" / container_id

    def write_files(self, container: Container) -> dict[str, str]:
        """Write hostname, hosts and resolv.conf; returns destination -> source for the mounts."""
        host = container.host_config
        directory = self.directory(container.id)
        if host.network_mode.startswith("container:"):
            directory = self.directory(self._index.find(host.network_mode.partition(":")[2]).container.id)
        else:
            self._write_network_files(container, directory)
        files = {"/etc/resolv.conf": directory / "resolv.conf", "/etc/hosts": directory / "hosts"}
        if host.uts_mode != "host":
            own = self.directory(container.id) / "hostname"
            small_files.write_text(own, f"{container.config.hostname}\n")
            files["/etc/hostname"] = own
        return {destination: str(source) for destination, source in files.items()}

    def _write_network_files(self, container: Container, directory: Path) -> None:
        hosts, resolv_conf = self._endpoints.files(container)
        small_files.write_text(directory / "hosts", hosts)
        small_files.write_text(directory / "resolv.conf", resolv_conf)

    @staticmethod
    def _give_files(container: Container, files: Iterable[str]) -> bool:
        """To the root of a container with ids of its own, where the kernel does not map them for this daemon."""
        if not container.id_maps or user_namespace.is_initial():
            return False
        uid, gid = container.id_maps.uids[0]["hostID"], container.id_maps.gids[0]["hostID"]
        for path in files:
            os.chown(path, uid, gid)
        return True

    def _injection(self, container: Container) -> Injection:
        """Errors: InvalidParameter for devices that are not there."""

        def owner() -> tuple[int, int]:
            if not container.config.user:
                return 0, 0
            with self._open_root(container.id) as root:
                user = users.resolve(root, container.config.user, [])
            return user.uid, user.gid

        return self._devices.injection(container.host_config, owner, mapped=bool(container.id_maps))

    def prepare(self, container: Container, rootfs: str) -> dict[str, Any]:
        """The spec for a start, also written as ``config.json`` beside the container's files."""
        options = self.security(container)
        profile = self.apparmor.ready(options.apparmor, privileged=container.host_config.privileged)
        options = replace(options, apparmor=profile)
        names = self.capabilities(container)
        files = self.write_files(container)
        self.selinux.relabel_files(container, files.values())
        spec = build_spec(
            container,
            SpecInput(
                cgroup_path=self.cgroup_path(container),
                rootfs=rootfs,
                capabilities=names,
                security=options,
                seccomp=lambda wanted: self._seccomp(container, options, wanted),
                joined=self.joined_namespaces(container),
                files=files,
                mounts=oci_mounts(container.mount_points, mapped=bool(container.id_maps)),
                id_maps=container.id_maps,
                maps_files=not self._give_files(container, files.values()),
                devices=self._injection(container),
                shm_source=self.shm_source(container),
                init_source=str(tiny_init.path()) if container.host_config.init else "",
                default_ulimits=self._config.default_ulimits,
                cgroup_v2=self._facts.cgroup_v2,
                default_pids_limit=max(self._config.default_pids_limit, 0) if self._facts.pids_limit else 0,
            ),
        )
        spec["process"]["env"] = [*self._endpoints.links.environment(container), *spec["process"]["env"]]
        path = self.directory(container.id) / "config.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(spec))
        return spec
