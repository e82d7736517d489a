"""Bearer tokens: made and signed by a token service, checked here.

Source: the distribution project's "Token Authentication Specification" and "JWT implementation"; RFC 7519.  Only
signatures by asymmetric keys are taken, of keys or certificates that were given: a token says at most which of them.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.registry.server.access import Principal
from corten.registry.server.failures import Refusal
from corten.registry.server.watched import WatchedFile

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY_S = 60
_MAX_TOKEN = 64 << 10
_REMEMBERED = 1024
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """realm: URL of the token service; service: what tokens must be for; issuer: who must have made them

    keys: files with PEM keys or certificates, or a JSON Web Key Set
    """

    realm: str
    service: str
    issuer: str
    keys: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Keys:
    by_name: dict[str, Any]
    all: tuple[Any, ...]
    authorities: tuple[Any, ...]  # certificates: what they have signed is taken too (x5c)


class Tokens:
    """An ``Authenticator``."""

    def __init__(self, settings: TokenSettings) -> None:
        """Errors: InvalidParameter, also when the libraries are missing."""
        try:
            import cryptography.x509
            import jwt
        except ImportError:
            raise InvalidParameter("tokens need the package PyJWT: pip install 'corten[registry]'") from None
        del cryptography
        self._jwt = jwt
        self._settings = settings
        self._files = [WatchedFile(path, _parse) for path in settings.keys]
        self._checked: dict[str, Principal] = {}
        self._checked_for: object = None

    async def principal(self, authorization: str) -> Principal:
        if not authorization:
            return Principal("", lambda action, repository: False, is_anonymous=True)
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise Refusal("UNAUTHORIZED")
        generation = self.generation()
        if generation != self._checked_for:
            self._checked, self._checked_for = {}, generation
        found = self._checked.get(token)
        if found is None or found.until < time.time():
            found = self._principal(self._claims(token))
            while len(self._checked) >= _REMEMBERED:
                del self._checked[next(iter(self._checked))]
            self._checked[token] = found
        return found

    def challenge(self, scope: str, error: str) -> str:
        parts = [("realm", self._settings.realm), ("service", self._settings.service)]
        parts += [(name, value) for name, value in (("scope", scope), ("error", error)) if value]
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parts)

    def generation(self) -> object:
        return tuple(file.generation() for file in self._files)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _claims(self, token: str) -> dict[str, Any]:
        """What a token says, when it may say it.  Errors: Refusal(UNAUTHORIZED)."""
        try:
            head = self._jwt.get_unverified_header(token)
            candidates = self._candidates(head)
        except (self._jwt.PyJWTError, ValueError, TypeError):
            raise Refusal("UNAUTHORIZED") from None
        for key in candidates:
            try:
                claims: dict[str, Any] = self._jwt.decode(
                    token,
                    key,
                    algorithms=_ALGORITHMS,
                    audience=self._settings.service,
                    issuer=self._settings.issuer,
                    leeway=_LEEWAY_S,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except (self._jwt.PyJWTError, ValueError, TypeError):
                continue
            return claims
        raise Refusal("UNAUTHORIZED")

    def _candidates(self, head: dict[str, Any]) -> list[Any]:
        """Keys that the token may be signed with."""
        keys = [file.value for file in self._files]
        chain = head.get("x5c")
        if isinstance(chain, list) and chain:
            authorities = [item for found in keys for item in found.authorities]
            try:
                return _of_chain(chain, authorities)
            except Exception:  # whatever a stranger's certificates make of the parser
                raise Refusal("UNAUTHORIZED") from None
        name = head.get("kid")
        if isinstance(name, str):
            named = [found.by_name[name] for found in keys if name in found.by_name]
            if named:
                return named
        return [key for found in keys for key in found.all]

    @staticmethod
    def _principal(claims: dict[str, Any]) -> Principal:
        allowed: dict[str, set[str]] = {}
        lists: Callable[[str], bool] | None = None
        access = claims.get("access")
        for item in access if isinstance(access, list) else []:
            if not isinstance(item, dict) or not isinstance(item.get("actions"), list):
                continue
            actions = {action for action in item["actions"] if isinstance(action, str)}
            if item.get("type") == "repository" and isinstance(item.get("name"), str):
                allowed.setdefault(item["name"], set()).update(actions)
            elif item.get("type") == "registry" and item.get("name") == "catalog":
                lists = (lambda name: True) if "*" in actions else None
        until = float(claims["exp"]) + _LEEWAY_S
        return Principal(str(claims.get("sub") or ""), _may(allowed), until, lists=lists)


def _may(allowed: dict[str, set[str]]) -> Callable[[str, str], bool]:
    def may(action: str, repository: str) -> bool:
        actions = allowed.get(repository, ())
        return action in actions or "*" in actions

    return may


# -- keys --------------------------------------------------------------------------------------------------------------


def _parse(path: Path, text: bytes) -> _Keys:
    """Errors: InvalidParameter naming the file."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return _of_pem(text) if _BEGIN in text else _of_set(text)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidParameter) as error:
        raise InvalidParameter(f"{path}: no usable key: {error}") from None


def _of_set(text: bytes) -> _Keys:
    import jwt

    document = documents.load_object(text, "key set")
    try:
        found = jwt.PyJWKSet.from_dict(document) if "keys" in document else None
        keys = found.keys if found is not None else [jwt.PyJWK.from_dict(document)]
    except jwt.PyJWTError as error:
        raise ValueError(str(error)) from None
    named = {key.key_id: key.key for key in keys if key.key_id}
    return _Keys(named, tuple(key.key for key in keys), ())


def _of_pem(text: bytes) -> _Keys:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    named: dict[str, Any] = {}
    keys: list[Any] = []
    authorities: list[Any] = []
    for part in text.split(_BEGIN)[1:]:
        block = _BEGIN + part
        if part.startswith(b"CERTIFICATE"):
            certificate = x509.load_pem_x509_certificate(block)
            authorities.append(certificate)
            key: Any = certificate.public_key()
        elif b"PRIVATE KEY" in part.partition(b"\n")[0]:
            raise ValueError("it has a private key; only the public one is needed here")
        else:
            key = load_pem_public_key(block)
        keys.append(key)
        named.update(dict.fromkeys(_names(key), key))
    return _Keys(named, tuple(keys), tuple(authorities))


def _names(key: Any) -> list[str]:
    """What tokens call a key: the name that libtrust gave it, or the plain SHA-256 of the key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    hashed = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    letters = base64.b32encode(hashed[:30]).decode()
    libtrust = ":".join(letters[place : place + 4] for place in range(0, 48, 4))
    return [libtrust, base64.urlsafe_b64encode(hashed).decode().rstrip("=")]


def _of_chain(chain: list[Any], authorities: list[Any]) -> list[Any]:
    """The key of a chain's first certificate, when an authority has signed it, directly or through the chain."""
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    certificates = [x509.load_der_x509_certificate(base64.b64decode(item)) for item in chain[:5]]
    now = datetime.now(UTC)
    for position, certificate in enumerate(certificates):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return []
        for authority in authorities:
            try:
                if certificate != authority:
                    certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return [certificates[0].public_key()]
        if position + 1 == len(certificates) or not _is_authority(certificates[position + 1]):
            return []
        try:
            certificate.verify_directly_issued_by(certificates[position + 1])
        except (ValueError, TypeError, InvalidSignature):
            return []
    return []


def _is_authority(certificate: Any) -> bool:
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False
