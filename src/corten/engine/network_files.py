"""The files of a container that tell of its network: hosts and resolv.conf, as text."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from corten.engine.container import Container
from corten.engine.network_names import Resolving, host_resolv_conf, outside_servers
from corten.network.resolver import ADDRESS

logger = logging.getLogger(__name__)

_BUILTIN_HOSTS = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def hosts(container: Container, *, linked: Sequence[tuple[str, Sequence[str]]] = (), gateway: str = "") -> str:
    """/etc/hosts.

    linked:  (address, names) of containers that are linked in the default network
    gateway: what "host-gateway" stands for
    """
    host = container.host_config
    lines = read_text("/etc/hosts").splitlines() if host.network_mode == "host" else list(_BUILTIN_HOSTS)
    for entry in host.extra_hosts:
        name, _, address = entry.partition(":")
        lines.append(f"{gateway or '127.0.0.1' if address == 'host-gateway' else address}\t{name}")
    lines += [f"{address}\t{' '.join(names)}" for address, names in linked]
    own = own_names(container)
    if own:
        addresses = [address for endpoint in container.networks.values() for address in endpoint.addresses]
        if not addresses and host.network_mode == "none":
            addresses = ["127.0.1.1"]
        lines += [f"{address}\t{own}" for address in addresses]
    return "\n".join(lines) + "\n"


def own_names(container: Container) -> str:
    """What a container's addresses stand for in its own /etc/hosts, "" for nothing."""
    config = container.config
    if not config.hostname or container.host_config.network_mode == "host":
        return ""
    return f"{config.hostname}.{config.domainname} {config.hostname}" if config.domainname else config.hostname


def change_hosts(
    path: Path, *, names: str, add: Sequence[str] = (), remove: Sequence[str] = (), replace: bool = False
) -> None:
    """Change lines of a running container's /etc/hosts; what else is in it stays.  Never raises.

    names:   what the lines stand for
    replace: other addresses of the same names go
    """
    gone = {f"{address}\t{names}" for address in remove}

    def changed(text: str) -> str:
        kept = [
            line
            for line in text.splitlines()
            if line not in gone and not (replace and line.partition("\t")[2] == names)
        ]
        new = [f"{address}\t{names}" for address in add]
        return "\n".join([*kept, *(line for line in new if line not in kept)]) + "\n"

    _rewrite(path, changed)


def use_resolver(path: Path, container: Container, resolving: Resolving) -> None:
    """Have a running container ask the daemon for names, unless it has changed its resolv.conf.  Never raises."""
    before = resolv_conf(container, resolving, resolver=False)
    after = resolv_conf(container, resolving, resolver=True)
    _rewrite(path, lambda text: after if text == before else text)


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    """In place: the file is mounted where the container sees it, a new one would not be."""
    try:
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+", errors="surrogateescape") as file:
            text = file.read()
            new = change(text)
            if new != text:
                file.seek(0)
                file.write(new)
                file.truncate()
    except FileNotFoundError:
        return  # it has never been started
    except OSError as error:
        logger.warning("cannot change %s: %s", path, error)


def resolv_conf(container: Container, resolving: Resolving, *, resolver: bool) -> str:
    """/etc/resolv.conf.

    resolver: names are resolved by the daemon, at 127.0.0.11
    """
    bare = container.host_config.network_mode in ("host", "none")
    text = read_text("/etc/resolv.conf") if bare else host_resolv_conf()
    lines = text.splitlines()
    servers, options = resolving.servers_of(container), resolving.options_of(container)
    if resolver:
        lines = _replaced(lines, ("nameserver",), [f"nameserver {ADDRESS}"])
    elif servers or not bare:
        lines = _replaced(lines, ("nameserver",), [f"nameserver {item}" for item in outside_servers(servers, text)])
    search = resolving.search_of(container)
    if search:
        lines = _replaced(lines, ("domain", "search"), [] if search == ["."] else [f"search {' '.join(search)}"])
    if not options:
        options = [word for line in lines if line.split()[:1] == ["options"] for word in line.split()[1:]]
    if resolver and not any(option.startswith("ndots:") for option in options):
        # names without dots are names of containers
        options.append("ndots:0")
    if options:
        lines = _replaced(lines, ("options",), [f"options {' '.join(options)}"])
    return "\n".join(lines) + "\n"


def _replaced(lines: list[str], keywords: Sequence[str], new: list[str]) -> list[str]:
    return [line for line in lines if line.split()[:1] not in [[word] for word in keywords]] + new


def read_text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
