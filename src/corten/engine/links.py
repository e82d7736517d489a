"""Links of the default network: another container's name, address and environment in this one (``--link``)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from corten.engine.container import Container
from corten.engine.live import Index, Live
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound

DEFAULT = "bridge"


class Links:
    """Finds what links of containers mean."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def check(self, links: list[str]) -> None:
        """Errors: InvalidParameter for a container that is not there."""
        for link in links:
            self.target(link)

    def target(self, link: str) -> tuple[Live, str]:
        """(container, alias) of "name:alias".  Errors: InvalidParameter."""
        reference, _, alias = link.removeprefix("/").partition(":")
        try:
            live = self._index.find(reference)
        except NotFound:
            raise InvalidParameter(f"could not get container for {reference}: No such container: {reference}") from None
        return live, (alias.rpartition("/")[2] or live.container.name)

    def hosts(self, container: Container) -> list[tuple[str, list[str]]]:
        """Addresses and names of the containers that one is linked to.

        Errors: Conflict for one that does not run, InvalidParameter for one that is gone.
        """
        if DEFAULT not in container.networks:
            return []
        found = []
        for link in container.host_config.links:
            live, alias = self.target(link)
            other = live.container
            endpoint = other.networks.get(DEFAULT)
            if endpoint is None or not endpoint.addresses:
                raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}")
            found.append((endpoint.addresses[0], names(alias, other)))
        return found

    def parents(self, container: Container) -> list[tuple[Container, list[str]]]:
        """Running containers that are linked to this one, and its names there."""
        found = []
        for live in self._index:
            parent = live.container
            if not parent.is_running or DEFAULT not in parent.networks:
                continue
            for link in parent.host_config.links:
                try:
                    target, alias = self.target(link)
                except CortenError:
                    continue
                if target.container is container:
                    found.append((parent, names(alias, container)))
        return found

    def shown(self, container: Container) -> list[str]:
        """The links of a container as inspect tells them: "/name:/container/alias"; without those that are gone."""
        return [f"/{target.name}:/{container.name}/{alias}" for target, alias, _ in self._of(container)]

    def aliases(self) -> dict[str, list[str]]:
        """By the id of a container the names "/container/alias" that others have for it."""
        found: dict[str, list[str]] = {}
        for live in self._index:
            for target, alias, _ in self._of(live.container):
                found.setdefault(target.id, []).append(f"/{live.container.name}/{alias}")
        return found

    def remove(self, container: Container, alias: str) -> None:
        """Take a link out of the record; what runs keeps it.  Errors: NotFound."""
        for _, name, link in self._of(container):
            if name == alias:
                container.host_config.links.remove(link)
                return
        raise NotFound(f"No such link: /{container.name}/{alias}")

    def _of(self, container: Container) -> Iterator[tuple[Container, str, str]]:
        """(linked container, alias, the link as it was asked for)"""
        for link in container.host_config.links:
            with contextlib.suppress(CortenError):
                live, alias = self.target(link)
                yield live.container, alias, link

    def environment(self, container: Container) -> list[str]:
        """The variables that linked containers give."""
        variables = []
        for link in container.host_config.links if DEFAULT in container.networks else ():
            live, alias = self.target(link)
            endpoint = live.container.networks.get(DEFAULT)
            if endpoint is not None and endpoint.addresses:
                variables += _variables(container.name, alias, live.container, endpoint.addresses[0])
        return variables


def names(alias: str, other: Container) -> list[str]:
    """Under which names a linked container is in /etc/hosts."""
    return list(dict.fromkeys((alias, other.config.hostname, other.name)))


def _variables(own: str, alias: str, other: Container, address: str) -> list[str]:
    prefix = re.sub(r"[^A-Z0-9_]", "_", alias.upper())
    variables = [f"{prefix}_NAME=/{own}/{alias}"]
    ports = sorted(other.config.exposed_ports, key=lambda text: int(text.partition("/")[0].partition("-")[0]))
    for number, text in enumerate(ports):
        port, _, protocol = text.partition("/")
        protocol = protocol or "tcp"
        url = f"{protocol}://{address}:{port}"
        if not number:
            variables.append(f"{prefix}_PORT={url}")
        base = f"{prefix}_PORT_{port}_{protocol.upper()}"
        variables += [f"{base}={url}", f"{base}_ADDR={address}", f"{base}_PORT={port}", f"{base}_PROTO={protocol}"]
    for item in other.config.env:
        if item.partition("=")[0] not in ("HOME", "PATH"):
            variables.append(f"{prefix}_ENV_{item}")
    return variables
