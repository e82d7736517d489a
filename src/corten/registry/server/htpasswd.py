"""Users and passwords in Apache's file: ``name:hash``, the hashes bcrypt's (``htpasswd -B``).  Source: RFC 7617."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import time
from pathlib import Path

from corten.errors import InvalidParameter
from corten.registry.server.access import Principal, named
from corten.registry.server.failures import Refusal
from corten.registry.server.rights import AUTHENTICATED, Rights
from corten.registry.server.watched import WatchedFile

_REMEMBERED = 1024
_REMEMBER_S = 300.0
_MAX_PASSWORD = 72  # bytes; bcrypt takes no more
_AT_A_TIME = 4


def parse(path: Path, text: bytes) -> dict[str, bytes]:
    """Errors: InvalidParameter for a line that is none, and for other hashes than bcrypt's."""
    users: dict[str, bytes] = {}
    for number, raw in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        if not name or not colon:
            raise InvalidParameter(f"{path}: line {number} is not name:hash")
        if not hashed.startswith(("$2a$", "$2b$", "$2y$")) or len(hashed) != 60:
            raise InvalidParameter(f"{path}: line {number}: only bcrypt hashes are taken (htpasswd -B)")
        users[name] = hashed.encode()
    return users


class Htpasswd:
    """An ``Authenticator``.  A password that was right is remembered for some minutes, as a keyed hash."""

    def __init__(self, path: Path, realm: str, rights: Rights | None = None) -> None:
        """Errors: InvalidParameter, also when the library is missing."""
        try:
            import bcrypt
        except ImportError:
            raise InvalidParameter("passwords need the package bcrypt: pip install 'corten[registry]'") from None
        self._bcrypt = bcrypt
        self._users = WatchedFile(path, parse)
        self._rights = rights or AUTHENTICATED
        self._realm = realm.replace('"', "'")
        self._key = os.urandom(32)
        self._right: dict[bytes, float] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        # checked for users that do not exist, so that the time tells nothing
        self._nobody = bcrypt.hashpw(os.urandom(16).hex().encode(), bcrypt.gensalt(5))

    async def principal(self, authorization: str) -> Principal:
        if not authorization:
            return named("", self._rights, is_anonymous=True)
        user, password = _credentials(authorization)
        hashed = self._users.value.get(user)
        mark = hmac.digest(self._key, b"%b\0%b\0%b" % (user.encode(), password, hashed or b""), hashlib.sha256)
        now = time.monotonic()
        if hashed is None or self._right.get(mark, 0.0) < now:
            async with self._slots:
                is_right = await asyncio.to_thread(self._check, password, hashed)
            if not is_right:
                raise Refusal("UNAUTHORIZED")
            while len(self._right) >= _REMEMBERED:
                del self._right[next(iter(self._right))]
            self._right[mark] = now + _REMEMBER_S
        return named(user, self._rights, until=time.time() + _REMEMBER_S)

    def _check(self, password: bytes, hashed: bytes | None) -> bool:
        found = self._bcrypt.checkpw(password[:_MAX_PASSWORD], hashed or self._nobody)
        return found and hashed is not None

    def challenge(self, scope: str, error: str) -> str:
        return f'Basic realm="{self._realm}"'

    def generation(self) -> object:
        return self._users.generation(), self._rights.generation()


def _credentials(authorization: str) -> tuple[str, bytes]:
    """Errors: Refusal(UNAUTHORIZED)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            user, colon, password = base64.b64decode(value.strip(), validate=True).partition(b":")
            if colon and b"\0" not in password:
                return user.decode(), password
        except ValueError:
            pass
    raise Refusal("UNAUTHORIZED")
