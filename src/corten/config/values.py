"""Values of the configuration, from a flag's text or daemon.json's value to the type of their field.

Every error is InvalidParameter and names the key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corten.errors import InvalidParameter


def _size(value: Any) -> int:
    text = str(value).strip().lower().removesuffix("b")
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:], 1)
    number = text[:-1] if factor > 1 else text
    if not number.isdigit() or int(number) <= 0:
        raise InvalidParameter(f"invalid size: '{value}'")
    return int(number) * factor


def _ulimits(value: Any) -> dict[str, tuple[int, int]]:
    limits: dict[str, tuple[int, int]] = {}
    if isinstance(value, dict):
        for name, limit in value.items():
            if (
                not isinstance(limit, dict)
                or not isinstance(limit.get("Soft"), int)
                or not isinstance(limit.get("Hard"), int)
            ):
                raise InvalidParameter(f"invalid default ulimit {name}: Soft and Hard numbers are needed")
            limits[name] = (limit["Soft"], limit["Hard"])
        return limits
    for item in value:
        name, _, numbers = item.partition("=")
        soft, _, hard = numbers.partition(":")
        try:
            limits[name] = (int(soft), int(hard or soft))
        except ValueError:
            raise InvalidParameter(f"invalid ulimit argument: {item}") from None
    return limits


def _pairs(option: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    pairs = {}
    for item in value:
        key, equals, text = str(item).partition("=")
        if not equals or not key:
            raise InvalidParameter(f"invalid {option} '{item}': KEY=VALUE is needed")
        pairs[key] = text
    return pairs


def _runtimes(value: Any) -> dict[str, tuple[str, ...]]:
    """daemon.json: {"name": {"path": "…", "runtimeArgs": ["…"]}}; flags: NAME=PATH."""
    if not isinstance(value, dict):
        pairs = _pairs("runtime", value)
        value = {name: {"path": path} for name, path in pairs.items()}
    found: dict[str, tuple[str, ...]] = {}
    for name, about in value.items():
        if name in ("", "corten"):
            raise InvalidParameter(f"runtime name '{name}' is reserved")
        if not isinstance(about, dict):
            raise InvalidParameter(f"invalid runtime {name}: an object with a path is needed")
        unknown = sorted(set(about) - {"path", "runtimeArgs"})
        if unknown:
            raise InvalidParameter(f"invalid runtime {name}: only path and runtimeArgs are supported, not {unknown[0]}")
        path, options = about.get("path"), about.get("runtimeArgs") or []
        if not isinstance(path, str) or not path or not isinstance(options, list):
            raise InvalidParameter(f"invalid runtime {name}: a path is needed, and runtimeArgs are a list")
        if not all(isinstance(option, str) for option in options):
            raise InvalidParameter(f"invalid runtime {name}: runtimeArgs are texts")
        found[name] = (path, *options)
    return found


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "true", "t", "yes"):
        return True
    if str(value).lower() in ("0", "false", "f", "no"):
        return False
    raise InvalidParameter(f"invalid boolean for {name}: '{value}'")


def mirror_urls(urls: Iterable[Any]) -> tuple[str, ...]:
    """``registry-mirrors``, checked.  Errors: InvalidParameter."""
    return tuple(_mirror(url) for url in urls)


def _mirror(url: Any) -> str:
    parts = urlsplit(str(url))
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(f"invalid mirror: unsupported scheme '{parts.scheme}' in '{url}'")
    if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidParameter(f"invalid mirror: '{url}' must be the URL of a host, without user, query and fragment")
    return str(url).rstrip("/")


def _proxy(name: str, value: Any) -> str:
    parts = urlsplit(str(value) if "://" in str(value) else f"http://{value}")
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise InvalidParameter(f"invalid {name.replace('_', '-')}: the URL of a proxy is needed")
    return str(value)


def _insecure(item: Any) -> str:
    text = str(item)
    if "://" in text or not text or ("/" in text and not _is_range(text)):
        raise InvalidParameter(f"invalid insecure registry '{text}': host[:port] or a range of addresses is needed")
    return text


def _is_range(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _address_pool(item: Any) -> tuple[str, int]:
    """{"base": "10.10.0.0/16", "size": 24}, or the same as base=…,size=…"""
    if not isinstance(item, dict):
        item = dict(part.partition("=")[::2] for part in str(item).split(","))
    try:
        base, size = ipaddress.ip_network(str(item["base"])), int(item["size"])
        if set(item) != {"base", "size"} or not base.prefixlen <= size <= base.max_prefixlen:
            raise ValueError
    except (KeyError, ValueError):
        raise InvalidParameter(
            f"invalid default address pool: {item}: base=CIDR and a size that fits are needed"
        ) from None
    return str(base), size


def _bridge_address(value: Any) -> str:
    try:
        address = ipaddress.ip_interface(str(value))
        if address.network.prefixlen > 30 or address.ip == address.network.network_address:
            raise ValueError
    except ValueError:
        raise InvalidParameter(f"invalid bip: '{value}': an address with its prefix is needed, 172.20.0.1/16") from None
    return str(address)


def _address(name: str, value: Any) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise InvalidParameter(f"invalid {name.replace('_', '-')}: '{value}' is no IP address") from None


def _subnet(name: str, value: Any, version: int) -> str:
    try:
        network = ipaddress.ip_network(str(value), strict=False)
        if network.version != version:
            raise ValueError
    except ValueError:
        raise InvalidParameter(f"invalid {name.replace('_', '-')}: '{value}' is no IPv{version} subnet") from None
    return str(network)


def _network_options(value: Any) -> dict[str, dict[str, str]]:
    """daemon.json: {"bridge": {"key": "value"}}; flags: DRIVER=KEY=VALUE."""
    if isinstance(value, dict):
        if not all(isinstance(options, dict) for options in value.values()):
            raise InvalidParameter("invalid default-network-opts: an object for each driver is needed")
        return {str(driver): _pairs("default-network-opts", options) for driver, options in value.items()}
    found: dict[str, dict[str, str]] = {}
    for driver, text in ((driver, text) for item in value for driver, text in _pairs("network option", [item]).items()):
        found.setdefault(driver, {}).update(_pairs("network option", [text]))
    return found


def _converted_network(name: str, value: Any) -> Any:
    """A key that is about the default network, or about names."""
    match name:
        case "bip":
            return _bridge_address(value)
        case "fixed_cidr":
            return _subnet(name, value, 4)
        case "fixed_cidr_v6":
            return _subnet(name, value, 6)
        case "ip" | "host_gateway_ip":
            return _address(name, value)
        case "dns":
            return tuple(_address(name, item) for item in value)
        case "dns_opts" | "dns_search":
            return tuple(str(item) for item in value)
        case "ipv6" | "icc" | "ip_masq":
            return _boolean(name.replace("_", "-"), value)
        case "mtu":
            if not isinstance(value, int) or isinstance(value, bool) or not 68 <= value <= 65535:
                raise InvalidParameter(f"invalid mtu: '{value}': 68 to 65535 is needed")
            return value
        case "default_network_opts":
            return _network_options(value)
    return tuple(_address_pool(item) for item in value)


_NETWORK_KEYS = frozenset(
    "bip fixed_cidr fixed_cidr_v6 ip host_gateway_ip dns dns_opts dns_search ipv6 icc ip_masq mtu default_network_opts "
    "default_address_pools".split()
)


def _exec_options(value: Any) -> dict[str, str]:
    options = _pairs("exec option", value)
    for key, text in options.items():
        if key != "native.cgroupdriver":
            raise InvalidParameter(f"invalid exec-opt '{key}': only native.cgroupdriver is known")
        if text not in ("cgroupfs", "systemd"):
            raise InvalidParameter(f"invalid native.cgroupdriver '{text}': cgroupfs or systemd is needed")
    return options


def _features(value: Any) -> dict[str, bool]:
    """daemon.json: {"cdi": true}; flags: NAME[=BOOL]."""
    if not isinstance(value, dict | list):
        raise InvalidParameter("invalid features: an object of names and booleans is needed")
    if isinstance(value, list):
        value = {name: text if equals else True for name, equals, text in (str(item).partition("=") for item in value)}
    features = {str(name): _boolean(f"feature {name}", on) for name, on in value.items()}
    for name, on in features.items():
        if name == "buildkit" and not on:
            raise InvalidParameter("invalid feature buildkit=false: BuildKit's clients are always served")
        if name not in ("buildkit", "cdi"):
            raise InvalidParameter(f"invalid feature '{name}': cdi and buildkit are known")
    return features


def _directories(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidParameter("invalid cdi-spec-dirs: a list of directories is needed")
    for item in value:
        if item and not item.startswith("/"):
            raise InvalidParameter(f"invalid cdi-spec-dirs: '{item}' is not an absolute path")
    return tuple(value)


def converted(name: str, value: Any) -> Any:
    if name in _NETWORK_KEYS:
        return _converted_network(name, value)
    if name in ("data_root", "exec_root", "pidfile", "tlscacert", "tlscert", "tlskey"):
        return Path(value).absolute()
    if name in ("hosts", "tcp_names"):
        return tuple(value)
    if name == "registry_mirrors":
        return mirror_urls(value)
    if name == "insecure_registries":
        return tuple(_insecure(item) for item in value)
    if name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 100:
            raise InvalidParameter(f"invalid {name.replace('_', '-')}: '{value}': 1 to 100 is needed")
        return value
    if name in ("http_proxy", "https_proxy"):
        return _proxy(name, value)
    if name == "labels":
        return tuple(f"{key}={text}" for key, text in _pairs("label", value).items())
    if name == "log_opts":
        return _pairs("log option", value)
    if name == "cdi_spec_dirs":
        return _directories(value)
    if name == "features":
        return _features(value)
    if name == "exec_opts":
        return _exec_options(value)
    if name == "default_ulimits":
        return _ulimits(value)
    if name == "runtimes":
        return _runtimes(value)
    if name == "default_shm_size":
        return _size(value)
    if name in (
        "debug",
        "tls",
        "tlsverify",
        "allow_unauthenticated_tcp",
        "live_restore",
        "no_new_privileges",
        "selinux_enabled",
        "init",
        "iptables",
    ):
        return _boolean(name.replace("_", "-"), value)
    if name in ("shutdown_timeout", "idle_exit", "oom_score_adjust", "default_pids_limit"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidParameter(f"invalid {name.replace('_', '-')}: '{value}' is not a number")
        return value
    return str(value)
