"""What containers ask for beside plain device nodes: devices of CDI files by name, graphics processors by number.

Source: moby ``daemon/devices.go`` and ``cdi.go``; graphics processors come through the CDI files of their vendors only.
"""

from __future__ import annotations

from collections.abc import Callable

from corten.cdi.catalogue import Catalogue, Found
from corten.cdi.injection import Injection, inject
from corten.dockerapi.container import DeviceRequest, HostConfig
from corten.dockerapi.device_names import is_qualified
from corten.errors import InvalidParameter

CDI = "cdi"
# kinds of graphics processors -> drivers that stand for them, what may be asked of them; moby, devices_*_linux.go
_GRAPHICS = {
    "nvidia.com/gpu": (
        ("nvidia", "nvidia.cdi"),
        frozenset("gpu nvidia compute compat32 graphics utility video display".split()),
    ),
    "amd.com/gpu": (("amd",), frozenset(("gpu", "amd"))),
}


class Devices:
    """Of this machine.  directories: of CDI files, none when the engine is to know no such devices"""

    def __init__(self, directories: tuple[str, ...]) -> None:
        self.directories = directories
        self._catalogue = Catalogue(directories)

    def look(self) -> Found:
        """What the files say now; reads those that have changed."""
        return self._catalogue.look()

    def check(self, host: HostConfig) -> None:
        """What can be said before the start; whether a CDI device is there is asked when it is needed, as by dockerd.

        Errors: InvalidParameter.
        """
        for mapping in host.devices:
            if not is_qualified(mapping.path_on_host):
                continue
            plain = mapping.path_in_container in ("", mapping.path_on_host)
            if not plain or mapping.cgroup_permissions not in ("", "rwm"):
                raise InvalidParameter(
                    f"{mapping.path_on_host}: its CDI file says where a device is in the container, and its permissions"
                )
        self._names(host)

    def injection(self, host: HostConfig, owner: Callable[[], tuple[int, int]], *, mapped: bool) -> Injection:
        """What a container's devices add to its configuration.

        owner, mapped: as ``corten.cdi.injection.inject`` has them
        Errors: InvalidParameter for devices that are not there.
        """
        names = self._names(host)
        return inject(self.look(), names, owner, mapped=mapped) if names else Injection()

    def _names(self, host: HostConfig) -> list[str]:
        """Of all devices that a container asks for.  Errors: InvalidParameter."""
        names = [mapping.path_on_host for mapping in host.devices if is_qualified(mapping.path_on_host)]
        if names and not self.directories:
            raise InvalidParameter(
                f"{names[0]}: CDI devices are switched off in this daemon (feature cdi, cdi-spec-dirs)"
            )
        for request in host.device_requests:
            names += self._named(request) if request.driver == CDI and self.directories else self._graphics(request)
        return names

    @staticmethod
    def _named(request: DeviceRequest) -> list[str]:
        if request.count:
            raise InvalidParameter("unexpected count in CDI device request")
        if request.options:
            raise InvalidParameter("unexpected options in CDI device request")
        return request.device_ids

    def _graphics(self, request: DeviceRequest) -> list[str]:
        """``--gpus``: numbers and ids of the first vendor whose CDI file is there."""
        if request.count and request.device_ids:
            raise InvalidParameter("cannot set both Count and DeviceIDs on device request")
        present = {device.kind for device in self.look().devices.values()}
        for kind, (drivers, capabilities) in _GRAPHICS.items():
            meant = request.driver in drivers or (
                not request.driver and any(capabilities.issuperset(wanted) for wanted in request.capabilities)
            )
            if not meant or kind not in present:
                continue
            if request.options:
                raise InvalidParameter(f"unexpected options in device request: CDI devices ({kind}) have none")
            numbers = ["all"] if request.count < 0 else [str(number) for number in range(min(request.count, 1 << 10))]
            return [name if "=" in name else f"{kind}={name}" for name in request.device_ids or numbers]
        wanted = " ".join(f"[{' '.join(names)}]" for names in request.capabilities)
        raise InvalidParameter(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')
