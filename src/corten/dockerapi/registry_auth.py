"""Credentials as Docker's clients send them: ``X-Registry-Auth``, ``X-Registry-Config``, the body of ``/auth``.

Source: the Engine API's "Authentication": base64url of a JSON object.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corten.errors import InvalidParameter

HEADER = "X-Registry-Auth"
CONFIG_HEADER = "X-Registry-Config"
HUB_SERVER = "https://index.docker.io/v1/"
_MAX_HEADER = 48 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """server: whom it is for, as the client wrote it ("https://index.docker.io/v1/", "registry.example:5000")"""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""

    def header(self) -> str:
        """Value of ``X-Registry-Auth``."""
        return base64.urlsafe_b64encode(json.dumps(self.document()).encode()).decode()

    def document(self) -> dict[str, str]:
        pairs = {
            "username": self.username, "password": self.password, "identitytoken": self.identity_token,
            "registrytoken": self.registry_token, "serveraddress": self.server,
        }  # fmt: skip
        return {key: value for key, value in pairs.items() if value}


def auth_of(document: Any) -> RegistryAuth:
    """Errors: InvalidParameter for something that is no object of strings."""
    if document is None:
        return RegistryAuth()
    if not isinstance(document, dict):
        raise InvalidParameter("invalid registry credentials: an object is needed")
    values: dict[str, str] = {}
    for name in ("username", "password", "auth", "identitytoken", "registrytoken", "serveraddress"):
        value = document.get(name) or ""
        if not isinstance(value, str):
            raise InvalidParameter(f"invalid registry credentials: {name} must be a string")
        values[name] = value
    if values["auth"] and not values["username"]:
        values["username"], values["password"] = split_auth(values["auth"])
    return RegistryAuth(
        username=values["username"],
        password=values["password"],
        identity_token=values["identitytoken"],
        registry_token=values["registrytoken"],
        server=values["serveraddress"],
    )


def split_auth(text: str) -> tuple[str, str]:
    """(user, password) of a base64 "user:password".  Errors: InvalidParameter."""
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidParameter("invalid registry credentials: auth must be base64 of user:password") from None
    if not colon:
        raise InvalidParameter("invalid registry credentials: auth must be base64 of user:password")
    return user, password.strip("\0")


def _object(text: str, name: str) -> Any:
    if len(text) > _MAX_HEADER:
        raise InvalidParameter(f"invalid {name} header: more than {_MAX_HEADER} bytes")
    padded = text.strip().replace("+", "-").replace("/", "_")
    try:
        return json.loads(base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidParameter(f"invalid {name} header: base64url of a JSON object is needed") from None


def decode_header(text: str) -> RegistryAuth:
    """The value of ``X-Registry-Auth``; anonymous when there is none.  Errors: InvalidParameter."""
    return auth_of(_object(text, HEADER)) if text else RegistryAuth()


def decode_config_header(text: str) -> dict[str, RegistryAuth]:
    """The value of ``X-Registry-Config``: credentials by server.  Errors: InvalidParameter."""
    if not text:
        return {}
    document = _object(text, CONFIG_HEADER)
    if not isinstance(document, dict):
        raise InvalidParameter(f"invalid {CONFIG_HEADER} header: an object is needed")
    return {str(server): auth_of(entry) for server, entry in document.items()}


def credentials_for(known: Mapping[str, RegistryAuth], domain: str) -> RegistryAuth:
    """Of the registry at a domain; clients write it with or without scheme and path."""
    wanted = {domain, *(("index.docker.io", "registry-1.docker.io") if domain == "docker.io" else ())}
    for server, auth in known.items():
        if server.partition("://")[2].partition("/")[0] in wanted or server.partition("/")[0] in wanted:
            return auth
    return RegistryAuth()
