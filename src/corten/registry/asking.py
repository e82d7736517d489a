"""Questions to a registry that move no image: log in, describe a reference."""

from __future__ import annotations

from typing import Any

from corten.errors import CortenError, InvalidParameter, Unauthorized, Unavailable
from corten.oci import config as image_config
from corten.oci import descriptor as media
from corten.oci import documents, reference
from corten.oci.manifest import Index, Manifest, parse_document
from corten.oci.platform import Platform, from_document
from corten.oci.reference import DEFAULT_DOMAIN, Reference
from corten.registry.auth import Credentials
from corten.registry.failures import Refused, RegistryFailure, Unreachable
from corten.registry.hosts import HUB
from corten.registry.remote import Content, Remote
from corten.registry.sources import Sources
from corten.registry.transport import Transport
from corten.registry.words import pull_error


def domain_of(server: str) -> str:
    """The domain that a login's server means: "https://index.docker.io/v1/" and "" are Docker Hub.

    Errors: InvalidParameter.
    """
    host = server.strip().removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in ("", DEFAULT_DOMAIN, "index.docker.io", HUB):
        return DEFAULT_DOMAIN
    reference.parse(f"{host}/x") if ("." in host or ":" in host or host == "localhost") else _refuse(server)
    return host


def _refuse(server: str) -> None:
    raise InvalidParameter(f"invalid registry address {server[:200]!r}")


def login(transport: Transport, server: str, credentials: Credentials) -> str:
    """Try credentials; the identity token that the registry gave for them, or "".

    Errors: Unauthorized, Unavailable.
    """
    domain = domain_of(server)
    endpoints = [item for item in transport.hosts.endpoints(domain, "push") if item.is_origin]
    last: CortenError = Unavailable(f"{domain}: no registry")
    for endpoint in endpoints:
        remote = Remote(transport, endpoint, "", credentials, offline=True)
        try:
            remote.ping(scope="")
        except Unreachable as error:
            if error.is_tls:
                raise
            last = error
            continue
        except Refused as error:
            if remote.authorizer.is_basic and error.status == 401:
                text = f"login attempt to {endpoint.base}/ failed with status: 401 Unauthorized"
            else:
                text = f'Get "{endpoint.base}/": {error}'
            raise Unauthorized(text) from error
        return remote.authorizer.new_identity_token
    raise last


def describe(transport: Transport, name: Reference, credentials: Credentials) -> dict[str, Any]:
    """The answer of ``/distribution/{name}/json``.  Errors: NotFound, Unavailable, InvalidParameter."""
    sources = Sources(transport, name, credentials)
    try:
        content = sources.ask(lambda remote: remote.manifest(name.digest or name.tag), capability="resolve")
        document = parse_document(content.body, _known(content))
        platforms = _platforms(sources, document)
    except RegistryFailure as error:
        raise pull_error(error, name) from error
    descriptor = {"mediaType": document.media_type, "digest": content.digest, "size": len(content.body)}
    return {"Descriptor": descriptor, "Platforms": [_platform(item) for item in platforms]}


def _known(content: Content) -> str:
    return content.media_type if content.media_type in media.MANIFESTS | media.INDEXES else ""


def _platforms(sources: Sources, document: Manifest | Index) -> list[Platform]:
    if isinstance(document, Index):
        return [item.platform for item in document.manifests if item.platform is not None]
    if not document.is_image:
        return []
    config = document.config
    content = sources.ask(lambda remote: remote.document(config.digest, config.size, documents.MAX_CONFIG_BYTES))
    return [from_document(image_config.parse_config(content))]


def _platform(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    return {**document, "variant": platform.variant} if platform.variant else document
