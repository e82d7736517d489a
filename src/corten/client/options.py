"""What a container is made of, in the words of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

PublishedPort = int | tuple[str, int] | None


class ContainerOptions(TypedDict, total=False):
    """Keywords of ``Containers.create`` and ``Containers.run``; sizes in bytes, times in seconds.

    volumes:     "SOURCE:TARGET[:ro]", or "TARGET" for an anonymous volume
    mounts:      entries of ``HostConfig.Mounts``, for what ``volumes`` cannot say
    network:     a network's name, "none", "host", "container:NAME"
    aliases:     further names in that network
    ports:       port of the container ("80", "53/udp") -> port of the host, (address, port), or None for any
    network_rate: bytes a second that each interface may receive and send
    restart:     "no", "always", "unless-stopped", "on-failure[:RETRIES]"
    auto_remove: the daemon removes the container when its program has ended
    config:      further fields of the create document, as the API description names them
    host_config: further fields of its ``HostConfig``
    """

    name: str
    env: Mapping[str, str]
    labels: Mapping[str, str]
    workdir: str
    user: str
    hostname: str
    entrypoint: str | Sequence[str]
    tty: bool
    open_stdin: bool
    stop_signal: str
    stop_timeout_s: int
    volumes: Sequence[str]
    mounts: Sequence[Mapping[str, Any]]
    tmpfs: Mapping[str, str]
    read_only: bool
    memory: int
    cpus: float
    pids_limit: int
    network: str
    aliases: Sequence[str]
    ports: Mapping[str, PublishedPort]
    network_rate: int
    restart: str
    init: bool
    privileged: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    security_opt: Sequence[str]
    auto_remove: bool
    platform: str
    config: Mapping[str, Any]
    host_config: Mapping[str, Any]


_CONFIG = {
    "workdir": "WorkingDir",
    "user": "User",
    "hostname": "Hostname",
    "tty": "Tty",
    "open_stdin": "OpenStdin",
    "stop_signal": "StopSignal",
    "stop_timeout_s": "StopTimeout",
}
_HOST_CONFIG = {
    "tmpfs": "Tmpfs",
    "mounts": "Mounts",
    "read_only": "ReadonlyRootfs",
    "memory": "Memory",
    "pids_limit": "PidsLimit",
    "network": "NetworkMode",
    "init": "Init",
    "privileged": "Privileged",
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "security_opt": "SecurityOpt",
    "auto_remove": "AutoRemove",
}


def words(command: str | Sequence[str] | None) -> list[str] | None:
    """A text is one program without arguments, not a line for a shell."""
    if command is None:
        return None
    return [command] if isinstance(command, str) else list(command)


def _restart(text: str) -> dict[str, Any]:
    name, _, count = text.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _binding(place: PublishedPort) -> dict[str, str]:
    address, port = place if isinstance(place, tuple) else ("", place)
    return {"HostIp": address, "HostPort": str(port or "")}


def create_document(
    image: str, command: str | Sequence[str] | None, options: ContainerOptions
) -> tuple[dict[str, Any], dict[str, str]]:
    """(body, query) of ``POST /containers/create``.

    Errors: TypeError for a keyword that nobody knows.
    """
    unknown = set(options) - set(ContainerOptions.__annotations__)
    if unknown:
        raise TypeError(f"unknown option of a container: {', '.join(sorted(unknown))}")
    given: dict[str, Any] = dict(options)
    volumes = list(given.get("volumes", ()))
    document: dict[str, Any] = {"Image": image, "AttachStdout": True, "AttachStderr": True}
    document |= {field: given[key] for key, field in _CONFIG.items() if key in given}
    host: dict[str, Any] = {field: given[key] for key, field in _HOST_CONFIG.items() if key in given}
    if command is not None:
        document["Cmd"] = words(command)
    if "entrypoint" in given:
        document["Entrypoint"] = words(given["entrypoint"])
    if "env" in given:
        document["Env"] = [f"{key}={value}" for key, value in given["env"].items()]
    if "labels" in given:
        document["Labels"] = dict(given["labels"])
    if "cpus" in given:
        host["NanoCpus"] = round(given["cpus"] * 1_000_000_000)
    if "restart" in given:
        host["RestartPolicy"] = _restart(given["restart"])
    if volumes:
        document["Volumes"] = {volume: {} for volume in volumes if ":" not in volume}
        host["Binds"] = [volume for volume in volumes if ":" in volume]
    if given.get("network_rate"):
        host["NetworkRate"] = {"Ingress": given["network_rate"], "Egress": given["network_rate"]}
    if "ports" in given:
        bindings = {_port(port): [_binding(place)] for port, place in given["ports"].items()}
        host["PortBindings"], document["ExposedPorts"] = bindings, {port: {} for port in bindings}
    if given.get("aliases"):
        endpoint = {"Aliases": list(given["aliases"])}
        document["NetworkingConfig"] = {"EndpointsConfig": {given.get("network", "default"): endpoint}}
    document |= given.get("config", {})
    document["HostConfig"] = {**host, **given.get("host_config", {})}
    query = {key: given[key] for key in ("name", "platform") if given.get(key)}
    return document, query
