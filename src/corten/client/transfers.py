"""Requests that move images between a daemon and registries."""

from __future__ import annotations

from corten.client.api import path_of
from corten.client.credentials import CredentialFile
from corten.client.references import split_reference
from corten.dockerapi.registry_auth import CONFIG_HEADER, HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.client.api import Api
    from corten.client.response import Response
    from corten.dockerapi.registry_auth import RegistryAuth


def auth_headers(auth: RegistryAuth) -> Iterable[tuple[str, str]]:
    return ((HEADER, auth.header()),)


def every_auth_header() -> list[tuple[str, str]]:
    """All that ``config.json`` has, for a request that may need several registries.

    Errors: those of CredentialFile.
    """
    import base64
    import json

    known = {server: auth.document() for server, auth in CredentialFile().every().items()}
    return [(CONFIG_HEADER, base64.urlsafe_b64encode(json.dumps(known).encode()).decode())] if known else []


def open_pull(
    api: Api, reference: str, *, platform: str = "", all_tags: bool = False, auth: RegistryAuth | None = None
) -> Response:
    """The stream of a pull's progress, to be read to its end.

    auth: None takes what ``config.json`` has for the image's registry

    Errors: the daemon's; those of CredentialFile.
    """
    name, tag = split_reference(reference)
    query = {"fromImage": name, "tag": tag or (None if all_tags else "latest"), "platform": platform or None}
    auth = CredentialFile().for_image(reference) if auth is None else auth
    return api.stream("POST", "/images/create", query, headers=auth_headers(auth))


def open_push(api: Api, reference: str, *, all_tags: bool = False, auth: RegistryAuth | None = None) -> Response:
    """The stream of a push's progress.  Errors: the daemon's; those of CredentialFile."""
    name, tag = split_reference(reference)
    query = {"tag": tag or (None if all_tags else "latest")}
    auth = CredentialFile().for_image(reference) if auth is None else auth
    return api.stream("POST", path_of("/images/", name, "/push"), query, headers=auth_headers(auth))
