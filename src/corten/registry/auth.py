"""Credentials and what is made of them: basic authentication, bearer tokens.

A password or identity token goes to the registry that it was given for, and to the token service that this registry
names when that is the same site: HTTPS, and a host that shares the registry's registered domain.  A realm anywhere else
is asked without credentials.

Source: the distribution project's "Token Authentication Specification" (GET) and "OAuth2 Token Authentication" (POST);
CVE-2020-15157 and CVE-2026-33540 for what happens without these rules.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.registry.challenges import Challenge, parse_challenges
from corten.registry.failures import Refused, Unreachable, refused
from corten.registry.hosts import Endpoint
from corten.registry.transport import Answer, Transport
from corten.registry.trust import host_of, netloc_of

_CLIENT = "corten"
_MAX_TOKEN_ANSWER = 256 << 10
_MAX_TOKEN = 64 << 10
_DEFAULT_LIFE_S = 60
_EARLY_S = 10
_NO_GET = frozenset({404, 405})


@dataclass(frozen=True, slots=True)
class Credentials:
    """identity_token: a refresh token instead of a password; registry_token: a bearer token that is sent as it is"""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of ``Authorization``; "" without a user."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credentials()


@dataclass(slots=True)
class _Token:
    text: str
    until: float  # monotonic


def same_site(registry: str, realm: str) -> bool:
    """Whether two hosts belong to one owner as far as names tell: equal, or below one registered domain.

    A registered domain has two labels, below two-letter countries with a short second label (co.uk) three.
    """
    one, two = host_of(registry).lower().rstrip("."), host_of(realm).lower().rstrip(".")
    if one == two:
        return True
    first, second = one.split("."), two.split(".")
    if first[-1].isdigit() or ":" in one or len(first) < 2:
        return False  # addresses and single names have no domain
    count = 3 if len(first[-1]) == 2 and len(first[-2]) <= 3 else 2
    return len(first) >= count and first[-count:] == second[-count:]


class Authorizer:
    """What is sent to one endpoint as ``Authorization``; thread-safe.

    credentials: the user's, for the origin; a mirror gets none
    offline: ask the token service for an identity token too, for a login (``new_identity_token``)
    """

    def __init__(
        self, transport: Transport, endpoint: Endpoint, credentials: Credentials, *, offline: bool = False
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._credentials = credentials if endpoint.is_origin else ANONYMOUS
        self._offline = offline
        self._lock = threading.Lock()
        self._scheme = ""
        self._challenge = Challenge("")
        self._tokens: dict[str, _Token] = {}
        self.new_identity_token = ""

    @property
    def is_basic(self) -> bool:
        """Whether the registry takes the password itself, and no token."""
        return self._scheme == "basic"

    def header(self, scope: str) -> str:
        """The value of ``Authorization``, as far as the registry has said what it wants; "" for none."""
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        if self._scheme == "basic":
            return self._credentials.basic
        if self._scheme == "bearer":
            with self._lock:
                token = self._tokens.get(scope)
                if token is None or token.until <= time.monotonic():
                    token = self._tokens[scope] = self._fetch(scope)
            return f"Bearer {token.text}"
        return ""

    def challenged(self, answer: Answer, scope: str, sent: str) -> bool:
        """Take in a 401; whether a further request makes sense.

        sent: the ``Authorization`` that was refused
        Errors: Unreachable (the token service), Refused (it says no).
        """
        found = {item.scheme: item for item in parse_challenges(answer.headers("www-authenticate"))}
        if self._credentials.registry_token:
            return False
        if "bearer" in found:
            self._challenge = found["bearer"]
            self._scheme = "bearer"
            with self._lock:
                token = self._tokens.get(scope)
                if token is not None and f"Bearer {token.text}" == sent:
                    del self._tokens[scope]  # expired, or not enough: one new token is worth asking for
            return True
        if "basic" in found and self._credentials.basic:
            self._scheme = "basic"
            return sent != self._credentials.basic
        return False

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _realm(self) -> tuple[str, bool]:
        """(URL of the token service, whether it may see credentials)."""
        realm = self._challenge.parameters.get("realm", "")
        try:
            host = netloc_of(realm)
        except InvalidParameter:
            raise Unreachable(
                f"{self._endpoint.netloc}: its authentication challenge names no usable realm", passing=False
            ) from None
        registry = urlsplit(self._endpoint.base)
        if registry.scheme == "https" and urlsplit(realm).scheme != "https":
            raise Unreachable(
                f"{self._endpoint.netloc}: its token service {host} is plain HTTP: refused", passing=False
            )
        listed = host in self._endpoint.token_hosts
        if urlsplit(realm).scheme == "http":
            # without TLS only the very same host is the same
            return realm, listed or host_of(host) == registry.hostname
        return realm, listed or same_site(self._endpoint.netloc, host)

    def _fetch(self, scope: str) -> _Token:
        realm, trusted = self._realm()
        credentials = self._credentials if trusted else ANONYMOUS
        service = self._challenge.parameters.get("service", "")
        scopes = list(dict.fromkeys(item for item in (scope or self._challenge.parameters.get("scope", "")).split()))
        if credentials.identity_token:
            return self._post(realm, service, scopes, refresh=credentials.identity_token)
        answer = self._get(realm, service, scopes, credentials)
        if answer.status in _NO_GET and credentials.username:
            answer.close()
            return self._post(realm, service, scopes, credentials=credentials)
        return self._token(answer)

    def _get(self, realm: str, service: str, scopes: Sequence[str], credentials: Credentials) -> Answer:
        query = [("account", credentials.username)] if credentials.username else []
        query += [("scope", scope) for scope in scopes]
        if service:
            query.append(("service", service))
        if self._offline:
            query += [("client_id", _CLIENT), ("offline_token", "true")]
        parts = urlsplit(realm)
        whole = urlencode(query)
        url = urlunsplit(
            parts._replace(query=f"{parts.query}&{whole}" if parts.query and whole else parts.query or whole)
        )
        own = {"Authorization": credentials.basic} if credentials.basic else {}
        return self._transport.get(url, {"Accept": "application/json"}, own)

    def _post(
        self,
        realm: str,
        service: str,
        scopes: Sequence[str],
        *,
        refresh: str = "",
        credentials: Credentials = ANONYMOUS,
    ) -> _Token:
        form = {"client_id": _CLIENT, "service": service, "scope": " ".join(scopes)}
        if self._offline:
            form["access_type"] = "offline"
        if refresh:
            form |= {"grant_type": "refresh_token", "refresh_token": refresh}
        else:
            form |= {
                "grant_type": "password", "username": credentials.username, "password": credentials.password,
            }  # fmt: skip
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        # no redirect is followed: the form holds the secret
        return self._token(self._transport.send("POST", realm, headers, urlencode(form).encode()))

    def _token(self, answer: Answer) -> _Token:
        body = answer.small(_MAX_TOKEN_ANSWER, cut=answer.status != 200)
        if answer.status != 200:
            failure = refused(answer.status, answer.header("content-type"), body, answer.what)
            if answer.status in (400, 401, 403) and not isinstance(failure, Refused):
                failure = Refused("unauthorized: authentication required", status=401)
            if isinstance(failure, Refused) and answer.status in (400, 401, 403) and not failure.code:
                failure = Refused("unauthorized: incorrect username or password", status=401, code="UNAUTHORIZED")
            raise failure
        try:
            document = documents.load_object(body, "token answer", limit=_MAX_TOKEN_ANSWER)
            text = documents.field(document, "token", str, "token answer", "") or documents.field(
                document, "access_token", str, "token answer", ""
            )
            life = documents.field(document, "expires_in", int, "token answer", _DEFAULT_LIFE_S)
            refresh = documents.field(document, "refresh_token", str, "token answer", "")
        except InvalidParameter as error:
            raise Unreachable(f"{answer.what}: {error}", passing=False) from None
        if not text or len(text) > _MAX_TOKEN or not all("!" <= letter <= "~" for letter in text):
            raise Unreachable(
                f"{answer.what}: authorization server did not include a token in the response", passing=False
            )
        self.new_identity_token = refresh or self.new_identity_token
        return _Token(text, time.monotonic() + max(life - _EARLY_S, _EARLY_S))
