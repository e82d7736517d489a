"""Credentials of registries where Docker's tools keep them: ``config.json``, credential stores and helpers.

Source: Docker's documentation of ``docker login``, "Credential stores" and "Credential helpers", and the protocol of
the ``docker-credential-*`` programs (a word as argument, JSON on standard input and output).
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path

from corten.client import config_place
from corten.client.references import HUB, domain_of
from corten.dockerapi.registry_auth import HUB_SERVER, RegistryAuth, auth_of
from corten.errors import InvalidParameter, SystemFailure, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TOKEN_USER = "<token>"  # the user that helpers store identity tokens under
_HELPER_TIMEOUT_S = 60
_NOT_FOUND = "credentials not found in native keychain"


def config_directory() -> Path:
    """``DOCKER_CONFIG``, or ``~/.docker``."""
    return Path(config_place.config_directory())


def server_key(server: str) -> str:
    """The name under which a registry's credentials are kept: its host and port; Docker Hub has a URL of its own."""
    host = _host(server)
    return HUB_SERVER if host in ("", HUB, "index.docker.io", "registry-1.docker.io") else host


def _host(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


class CredentialFile:
    """``config.json``; what it holds beside credentials stays as it is.

    Errors of everything: InvalidParameter for a file that is no JSON object, SystemFailure when it cannot be read or
    written, Unavailable for a helper that is missing or fails.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.path = (directory or config_directory()) / "config.json"

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, server: str) -> RegistryAuth:
        """The credentials for a registry; anonymous when there are none."""
        document = self._read()
        key = server_key(server)
        helper = self._helper(document, key)
        if helper:
            return _from_helper(helper, key)
        entries = _table(document, "auths", self.path)
        entry = entries.get(key)
        if entry is None:
            # other tools write the key as a URL, with a path or without one
            entry = next((each for name, each in entries.items() if server_key(name) == key), None)
        found = auth_of(entry)
        return RegistryAuth(
            username=found.username,
            password=found.password,
            identity_token=found.identity_token,
            registry_token=found.registry_token,
            server=key if entry is not None else "",
        )

    def every(self) -> dict[str, RegistryAuth]:
        """What is known, by server: a build may need any of it.  Errors: as ``get``."""
        document = self._read()
        servers = [*(document.get("auths") or {}), *(document.get("credHelpers") or {})]
        found = {server: self.get(server) for server in dict.fromkeys(servers)}
        return {server: auth for server, auth in found.items() if auth != RegistryAuth(server=auth.server)}

    def for_image(self, reference: str) -> RegistryAuth:
        """The credentials for an image's registry."""
        return self.get(domain_of(reference))

    def is_plain(self, server: str) -> bool:
        """Whether credentials for a registry would lie in the file itself, for whoever can read it."""
        return not self._helper(self._read(), server_key(server))

    def has(self, server: str) -> bool:
        found = self.get(server)
        return bool(found.username or found.identity_token or found.registry_token)

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise SystemFailure(f"cannot read {self.path}: {error}", step="read credentials") from error
        try:
            document = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise InvalidParameter(f"invalid {self.path}: {error}") from None
        if not isinstance(document, dict):
            raise InvalidParameter(f"invalid {self.path}: an object is needed")
        return document

    def _helper(self, document: dict[str, Any], key: str) -> str:
        """The program that keeps a registry's credentials, "" when the file does."""
        helpers = _table(document, "credHelpers", self.path)
        name = helpers.get(key) or document.get("credsStore") or ""
        if not isinstance(name, str) or "/" in name:
            raise InvalidParameter(f"invalid {self.path}: {name!r} is no name of a credential helper")
        return name

    # -- writing ------------------------------------------------------------------------------------------------------

    def store(self, auth: RegistryAuth) -> None:
        """Keep credentials for ``auth.server``."""
        document = self._read()
        key = server_key(auth.server)
        helper = self._helper(document, key)
        entries = dict(_table(document, "auths", self.path))
        if helper:
            user, secret = (_TOKEN_USER, auth.identity_token) if auth.identity_token else (auth.username, auth.password)
            _run_helper(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}))
            entries[key] = {}
        else:
            pair = base64.b64encode(f"{auth.username}:{'' if auth.identity_token else auth.password}".encode()).decode()
            entries[key] = {"auth": pair, **({"identitytoken": auth.identity_token} if auth.identity_token else {})}
        self._write({**document, "auths": entries})

    def erase(self, server: str) -> bool:
        """Forget a registry's credentials; whether there were any."""
        document = self._read()
        key = server_key(server)
        helper = self._helper(document, key)
        entries = dict(_table(document, "auths", self.path))
        names = [name for name in entries if server_key(name) == key]
        existed = bool(names)
        if helper:
            existed = self.has(server) or existed
            if existed:
                _run_helper(helper, "erase", key)
        for name in names:
            del entries[name]
        if names:
            self._write({**document, "auths": entries})
        return existed

    def _write(self, document: dict[str, Any]) -> None:
        """Replaced as a whole, for its owner's eyes only; a link stays a link."""
        target = Path(os.path.realpath(self.path))
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".config.json-", dir=target.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(document, file, indent="\t")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, target)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise SystemFailure(f"cannot write {target}: {error.strerror}", step="write credentials") from error


def _table(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParameter(f"invalid {path}: {name} must be an object")
    return value


def _run_helper(name: str, word: str, data: str) -> str:
    import subprocess

    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, word], input=data, capture_output=True, text=True, timeout=_HELPER_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise Unavailable(f"error getting credentials: {program}: executable file not found in $PATH") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"error getting credentials: {program}: {error}") from None
    if done.returncode:
        words = " ".join((done.stdout or done.stderr).split())[:300]
        if word == "get" and _NOT_FOUND in words:
            return ""
        raise Unavailable(f"error getting credentials: {program} {word}: {words or f'exit status {done.returncode}'}")
    return done.stdout


def _from_helper(name: str, key: str) -> RegistryAuth:
    text = _run_helper(name, "get", key)
    if not text:
        return RegistryAuth()
    try:
        answer = json.loads(text)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"error getting credentials: docker-credential-{name}: it answered without JSON") from None
    if user == _TOKEN_USER:
        return RegistryAuth(identity_token=secret, server=key)
    return RegistryAuth(username=user, password=secret, server=key)
