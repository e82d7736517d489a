"""From the domain of a reference to the hosts that can serve it, in the order in which they are asked.

Mirrors come first and the origin last.  Docker's ``registry-mirrors`` are mirrors of Docker Hub; ``hosts.toml`` in a
host's directory below ``certs.d`` describes mirrors of any registry.

Source: containerd's documentation of ``hosts.toml`` (docs/hosts.md): ``server``, ``[host."…"]`` with ``capabilities``,
``ca``, ``client``, ``skip_verify``, ``header``, ``override_path``.  Corten adds ``token_hosts``: further hosts that
may be sent this registry's credentials when it names them as its token service.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corten.errors import InvalidParameter
from corten.oci.reference import DEFAULT_DOMAIN
from corten.registry.settings import Settings
from corten.registry.trust import Trust, files_of, host_of, is_listed, is_loopback, netloc_of

HUB = "registry-1.docker.io"
_HUB_NAMES = frozenset({DEFAULT_DOMAIN, HUB, "index.docker.io"})
_CAPABILITIES = ("pull", "resolve", "push")
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One place that serves a registry's repositories.

    base: URL up to and without the repository, "https://registry-1.docker.io/v2"
    domain: of the references that it serves; namespace: value of ``ns``, by which a mirror of many tells them apart
    is_origin: the registry itself, which alone gets the user's credentials
    """

    base: str
    domain: str
    is_origin: bool = True
    capabilities: frozenset[str] = frozenset(_CAPABILITIES)
    headers: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    token_hosts: tuple[str, ...] = ()

    @property
    def netloc(self) -> str:
        return netloc_of(self.base)


@dataclass(frozen=True, slots=True)
class _Described:
    """What a ``hosts.toml`` says."""

    server: str = ""
    mirrors: tuple[Endpoint, ...] = ()
    trusts: dict[str, Trust] = field(default_factory=dict)
    token_hosts: tuple[str, ...] = ()


class Hosts:
    """Every question about hosts under one ``Settings``; files are read when they are asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._described: dict[str, _Described] = {}
        self._trusts: dict[str, Trust] = {}
        # a mirror that the owner wrote with http:// is listed by that
        self._plain_mirrors = {netloc_of(url) for url in settings.mirrors if url.startswith("http://")}

    # -- who is asked -------------------------------------------------------------------------------------------------

    def endpoints(self, domain: str, capability: str) -> list[Endpoint]:
        """Who can do ``capability`` ("pull", "resolve", "push") for a registry, first choice first.

        Errors: InvalidParameter for a hosts.toml or certificate that cannot be used.
        """
        described = self._describe(domain)
        found = [mirror for mirror in described.mirrors if capability in mirror.capabilities]
        if domain == DEFAULT_DOMAIN and capability != "push":
            found += [
                Endpoint(base=f"{url.rstrip('/')}/v2", domain=domain, is_origin=False) for url in self._settings.mirrors
            ]
        return [*found, *self._origin(domain, described)]

    def _origin(self, domain: str, described: _Described) -> Iterator[Endpoint]:
        host = HUB if domain in _HUB_NAMES else domain
        server = described.server
        whole = Endpoint(base=f"https://{host}/v2", domain=domain, token_hosts=described.token_hosts)
        if server:
            yield replace(whole, base=_base(server, override=False), is_origin=True)
            return
        yield whole
        if self.trust(host).plain:
            yield replace(whole, base=f"http://{host}/v2")

    # -- how far they are trusted -------------------------------------------------------------------------------------

    def trust(self, netloc: str) -> Trust:
        """Errors: InvalidParameter."""
        known = self._trusts.get(netloc)
        if known is None:
            known = self._trusts[netloc] = self._judge(netloc)
        return known

    def _judge(self, netloc: str) -> Trust:
        for described in self._described.values():
            if netloc in described.trusts:
                return described.trusts[netloc]
        insecure = is_loopback(host_of(netloc)) or is_listed(netloc, self._settings.insecure)
        authorities: tuple[Path, ...] = ()
        identity: tuple[tuple[Path, Path], ...] = ()
        for directory in self._directories(netloc):
            more, own = files_of(directory)
            authorities, identity = authorities + more, identity + own
        return Trust(
            # whoever names an authority for a host wants TLS there
            plain=(insecure and not authorities) or netloc in self._plain_mirrors,
            verify=not insecure or bool(authorities),
            authorities=authorities,
            identity=identity,
        )

    def _directories(self, netloc: str) -> list[Path]:
        if "/" in netloc or netloc in (".", ".."):
            return []
        names = (netloc, DEFAULT_DOMAIN) if netloc == HUB else (netloc,)
        return [top / name for top in self._settings.certificates for name in names]

    # -- hosts.toml ---------------------------------------------------------------------------------------------------

    def _describe(self, domain: str) -> _Described:
        known = self._described.get(domain)
        if known is not None:
            return known
        described = _Described()
        for name in (domain, "_default"):
            for directory in self._directories(name):
                path = directory / "hosts.toml"
                try:
                    with open(path, "rb") as file:
                        text = file.read(_MAX_FILE)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise InvalidParameter(f"cannot read {path}: {error.strerror}") from error
                described = _parse(path, text, domain)
                break
            if described.server or described.mirrors or described.token_hosts:
                break
        self._described[domain] = described
        for netloc in described.trusts:
            self._trusts.pop(netloc, None)
        return described


def _base(url: str, *, override: bool) -> str:
    """The API's base of a host as hosts.toml names it; https when no scheme is given."""
    whole = url if "://" in url else f"https://{url}"
    netloc_of(whole)
    whole = whole.rstrip("/")
    return whole if override or whole.endswith("/v2") else f"{whole}/v2"


def _parse(path: Path, text: bytes, domain: str) -> _Described:
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid {path}: {error}") from error
    server = _text(path, document, "server")
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise InvalidParameter(f"invalid {path}: host must be a table")
    mirrors: list[Endpoint] = []
    trusts: dict[str, Trust] = {}
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidParameter(f"invalid {path}: host {url!r} must be a table")
        base = _base(url, override=_switch(path, table, "override_path"))
        endpoint = Endpoint(
            base=base,
            domain=domain,
            is_origin=netloc_of(base) == domain,
            capabilities=frozenset(_capabilities(path, table)),
            headers=tuple(_headers(path, table)),
            namespace="" if netloc_of(base) == domain else domain,
        )
        mirrors.append(endpoint)
        trusts[endpoint.netloc] = _trust(path, table, endpoint.base)
    if server:
        base = _base(server, override=False)
        trusts.setdefault(netloc_of(base), _trust(path, document, base))
    hosts = document.get("token_hosts", [])
    if not isinstance(hosts, list) or not all(isinstance(item, str) for item in hosts):
        raise InvalidParameter(f"invalid {path}: token_hosts must be a list of strings")
    return _Described(server, tuple(mirrors), trusts, tuple(hosts))


def _text(path: Path, table: dict[str, Any], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise InvalidParameter(f"invalid {path}: {name} must be a string")
    return value


def _switch(path: Path, table: dict[str, Any], name: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise InvalidParameter(f"invalid {path}: {name} must be true or false")
    return value


def _capabilities(path: Path, table: dict[str, Any]) -> list[str]:
    listed = table.get("capabilities", list(_CAPABILITIES))
    if not isinstance(listed, list) or not all(item in _CAPABILITIES for item in listed):
        raise InvalidParameter(f"invalid {path}: capabilities must be of {', '.join(_CAPABILITIES)}")
    return listed


def _headers(path: Path, table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    listed = table.get("header", {})
    if not isinstance(listed, dict):
        raise InvalidParameter(f"invalid {path}: header must be a table")
    for name, value in listed.items():
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not (name + item).isprintable():
                raise InvalidParameter(f"invalid {path}: header {name!r} must be a string or a list of strings")
            yield name, item


def _trust(path: Path, table: dict[str, Any], base: str) -> Trust:
    netloc = netloc_of(base)
    return Trust(
        plain=base.startswith("http://") or is_loopback(host_of(netloc)),
        verify=not _switch(path, table, "skip_verify"),
        authorities=tuple(_file(path, item) for item in _list(table.get("ca", []))),
        identity=tuple(_identities(path, table.get("client", []))),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _file(path: Path, name: Any) -> Path:
    if not isinstance(name, str):
        raise InvalidParameter(f"invalid {path}: certificates are named by strings")
    return path.parent / name


def _identities(path: Path, value: Any) -> Iterator[tuple[Path, Path]]:
    """``client``: one file with both, a list of such, or a list of [certificate, key] pairs."""
    for item in _list(value):
        if isinstance(item, list):
            if len(item) != 2:
                raise InvalidParameter(f"invalid {path}: client needs [certificate, key] pairs")
            yield _file(path, item[0]), _file(path, item[1])
        else:
            yield _file(path, item), _file(path, item)
