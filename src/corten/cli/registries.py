"""Registries that the command itself speaks with: for what needs no daemon (manifests, copies)."""

from __future__ import annotations

import contextlib

from corten.client.credentials import CredentialFile
from corten.registry.auth import Credentials
from corten.registry.registry import Registry, Settings, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def credentials_for(reference: str) -> Credentials:
    """What ``config.json`` has for a reference's registry."""
    auth = CredentialFile().for_image(reference)
    return Credentials(auth.username, auth.password, auth.identity_token, auth.registry_token)


@contextlib.contextmanager
def connected(*insecure: str) -> Iterator[tuple[Registry, Transport]]:
    """A client of registries, with connections for the time of the block.

    insecure: domains that need no TLS
    """
    registry = Registry(Settings(insecure=tuple(insecure)))
    transport = registry.transport()
    try:
        yield registry, transport
    finally:
        transport.close()
