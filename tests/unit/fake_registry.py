"""A registry in memory that behaves, until a test says otherwise: what it is asked for, it notes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from image_archives import config, described, sha

from corten.oci import descriptor as media

GZIP = media.OCI_LAYER + "+gzip"


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def secret(self) -> str:
        return self.headers.get("authorization", "")


@dataclass
class Rule:
    pattern: re.Pattern[str]
    act: Callable[[Exchange], Any]
    times: int


@dataclass
class Upload:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()
            return
        self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.seen = Seen(self.command, parts.path, parse_qs(parts.query), headers)
        self.registry.requests.append(self.seen)
        rule = self.registry.take_rule(f"{self.command} {parts.path}")
        if rule is not None:
            rule.act(self)
            return
        self.registry.answer(self)

    # -- reading ------------------------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[bytes]:
        """The request's body as it arrives."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        rest = int(self.headers.get("content-length") or 0)
        while rest:
            piece = self.rfile.read(min(rest, 1 << 16))
            if not piece:
                return
            rest -= len(piece)
            yield piece

    # -- answering ----------------------------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        headers.setdefault("content_length", str(len(body)))
        self.head(status, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def error(self, status: int, code: str, message: str = "", **headers: str) -> None:
        document = {"errors": [{"code": code, "message": message or code.lower().replace("_", " "), "detail": {}}]}
        self.answer(status, json.dumps(document).encode(), content_type="application/json", **headers)

    def cut(self, status: int, length: int, body: bytes) -> None:
        """Promise ``length`` bytes, send some, and leave."""
        self.head(status, content_length=str(length))
        self.wfile.write(body)
        self.close_connection = True

    def reset(self) -> None:
        """The connection goes without a word."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def endless(self, status: int, content_type: str = "application/json") -> None:
        """A body without an end, as fast as it is read."""
        self.head(status, content_type=content_type, transfer_encoding="chunked")
        block = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
        with contextlib.suppress(OSError):
            while not self.registry.closing.is_set():
                self.wfile.write(block)
                self.registry.endless_bytes += 1 << 16
        self.close_connection = True

    def stall(self) -> None:
        """Say nothing until the test is over."""
        self.registry.closing.wait(20)
        self.close_connection = True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass


class FakeRegistry:
    """host: 127.0.0.2 and the like are other hosts as far as names tell"""

    def __init__(self, host: str = "127.0.0.1", context: Any = None) -> None:
        handler = type("Handler", (Exchange,), {"registry": self})
        self._server = _Server((host, 0), handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.netloc = f"{host}:{self._server.server_address[1]}"
        self.url = f"{'https' if context else 'http'}://{self.netloc}"
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: list[Seen] = []
        self.rules: list[Rule] = []
        self.closing = threading.Event()
        self.endless_bytes = 0
        self.token_realm = ""  # bearer authentication, tokens from there
        self.passwords: dict[str, str] = {}
        self.basic = False
        self.refresh_tokens: set[str] = set()
        self.tokens: dict[str, str] = {}  # token -> scopes
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    # -- content ------------------------------------------------------------------------------------------------------

    def put_blob(self, repository: str, content: bytes) -> str:
        self.blobs.setdefault(repository, {})[sha(content)] = content
        return sha(content)

    def put_manifest(self, repository: str, content: bytes, *tags: str, media_type: str = "") -> str:
        media_type = media_type or json.loads(content).get("mediaType", media.OCI_MANIFEST)
        for reference in (*tags, sha(content)):
            self.manifests[(repository, reference)] = (content, media_type)
        return sha(content)

    def put_image(
        self,
        repository: str,
        layers: list[bytes],
        *tags: str,
        pack: Callable[[bytes], bytes] | None = None,
        layer_type: str = GZIP,
        docker: bool = False,
        **fields: Any,
    ) -> str:
        """An image with its layers; the digest of its manifest."""
        image = fields.pop("image", None) or config(*layers, **fields)
        packed = [pack(layer) if pack else layer for layer in layers]
        for content in (image, *packed):
            self.put_blob(repository, content)
        kind = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": described(image, media.DOCKER_CONFIG if docker else media.OCI_CONFIG),
            "layers": [described(content, layer_type) for content in packed],
        }
        return self.put_manifest(repository, json.dumps(document).encode(), *tags)

    # -- misbehaviour -------------------------------------------------------------------------------------------------

    def on(self, pattern: str, act: Callable[[Exchange], Any], times: int = 1 << 30) -> None:
        """The next requests whose "METHOD /path" matches are answered by ``act``."""
        self.rules.append(Rule(re.compile(pattern), act, times))

    def take_rule(self, line: str) -> Rule | None:
        with self._lock:
            for rule in self.rules:
                if rule.times > 0 and rule.pattern.search(line):
                    rule.times -= 1
                    return rule
        return None

    def asked(self, pattern: str) -> list[Seen]:
        return [seen for seen in list(self.requests) if re.search(pattern, f"{seen.method} {seen.path}")]

    @property
    def secrets(self) -> set[str]:
        """Everything secret that was ever sent here."""
        found = {seen.secret for seen in self.requests} | {seen.headers.get("cookie", "") for seen in self.requests}
        return (found | {seen.body.decode("latin-1") for seen in self.requests if b"=" in seen.body}) - {""}

    # -- behaviour ----------------------------------------------------------------------------------------------------

    def answer(self, exchange: Exchange) -> None:
        path = exchange.seen.path
        if path == "/token":
            self._token(exchange)
            return
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs|tags)/(.+)", path)
        repository = match[1] if match else ""
        if not self._is_allowed(exchange, repository):
            return
        if path == "/v2/":
            exchange.answer(200, b"{}", content_type="application/json")
        elif match is None:
            exchange.answer(404, b"404 page not found", content_type="text/plain")
        elif match[2] == "manifests":
            self._manifest(exchange, repository, match[3])
        elif match[2] == "tags":
            self._tags(exchange, repository)
        elif match[3].startswith("uploads/"):
            self._upload(exchange, repository, match[3].removeprefix("uploads/"))
        else:
            self._blob(exchange, repository, match[3])

    def _manifest(self, exchange: Exchange, repository: str, reference: str) -> None:
        if exchange.command == "PUT":
            body = b"".join(exchange.pieces())
            kind = exchange.seen.headers["content-type"]
            self.put_manifest(repository, body, reference, media_type=kind)
            exchange.answer(201, docker_content_digest=sha(body), location=f"/v2/{repository}/manifests/{sha(body)}")
            return
        found = self.manifests.get((repository, reference))
        if found is None:
            exchange.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        exchange.answer(200, found[0], content_type=found[1], docker_content_digest=sha(found[0]))

    def _blob(self, exchange: Exchange, repository: str, digest: str) -> None:
        content = self.blobs.get(repository, {}).get(digest)
        if content is None:
            exchange.error(404, "BLOB_UNKNOWN")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", exchange.seen.headers.get("range", ""))
        if wanted:
            start = int(wanted[1])
            rest = f"bytes {start}-{len(content) - 1}/{len(content)}"
            exchange.answer(206, content[start:], content_range=rest)
        else:
            exchange.answer(200, content)

    def _tags(self, exchange: Exchange, repository: str) -> None:
        tags = sorted(ref for name, ref in self.manifests if name == repository and ":" not in ref)
        exchange.answer(200, json.dumps({"name": repository, "tags": tags}).encode())

    def _upload(self, exchange: Exchange, repository: str, name: str) -> None:
        query = exchange.seen.query
        if exchange.command == "POST":
            source = self.blobs.get(query.get("from", [""])[0], {})
            mounted = query.get("mount", [""])[0]
            if mounted in source:
                self.put_blob(repository, source[mounted])
                exchange.answer(201, location=f"/v2/{repository}/blobs/{mounted}")
                return
            name = f"u{len(self.uploads)}"
            self.uploads[name] = Upload(repository)
            exchange.answer(202, location=f"/v2/{repository}/blobs/uploads/{name}", range="0-0")
            return
        upload = self.uploads.get(name)
        if upload is None:
            for _ in exchange.pieces():
                pass
            exchange.error(404, "BLOB_UPLOAD_UNKNOWN")
            return
        location = f"/v2/{repository}/blobs/uploads/{name}"
        if exchange.command in ("PATCH", "PUT"):
            for piece in exchange.pieces():
                upload.data += piece
        if exchange.command == "PUT":
            digest = query["digest"][0]
            if sha(bytes(upload.data)) != digest:
                exchange.error(400, "DIGEST_INVALID")
                return
            self.put_blob(repository, bytes(upload.data))
            del self.uploads[name]
            exchange.answer(201, location=f"/v2/{repository}/blobs/{digest}", docker_content_digest=digest)
        elif exchange.command == "DELETE":
            del self.uploads[name]
            exchange.answer(204)
        else:
            status = 202 if exchange.command == "PATCH" else 204
            exchange.answer(status, location=location, range=f"0-{max(len(upload.data) - 1, 0)}")

    # -- authentication -----------------------------------------------------------------------------------------------

    def _user_of(self, secret: str) -> str:
        if not secret.startswith("Basic "):
            return ""
        user, _, password = base64.b64decode(secret[6:]).decode().partition(":")
        return user if self.passwords.get(user) == password else ""

    def _is_allowed(self, exchange: Exchange, repository: str) -> bool:
        secret = exchange.seen.secret
        if self.basic:
            if self._user_of(secret):
                return True
            exchange.error(401, "UNAUTHORIZED", "authentication required", www_authenticate='Basic realm="Registry"')
            return False
        if not self.token_realm:
            return True
        granted = self.tokens.get(secret.removeprefix("Bearer "), "")
        if secret and (not repository or f"repository:{repository}:" in granted):
            return True
        need = f"repository:{repository}:pull" if repository else ""
        challenge = f'Bearer realm="{self.token_realm}",service="reg",scope="{need}"'
        exchange.error(401, "UNAUTHORIZED", "authentication required", www_authenticate=challenge)
        return False

    def _token(self, exchange: Exchange) -> None:
        query = exchange.seen.query
        if exchange.command == "POST":
            exchange.seen.body = b"".join(exchange.pieces())
            query = parse_qs(exchange.seen.body.decode())
            refresh = query.get("refresh_token", [""])[0]
            user, password = query.get("username", [""])[0], query.get("password", [""])[0]
            if refresh not in self.refresh_tokens and (not user or self.passwords.get(user) != password):
                exchange.error(401, "UNAUTHORIZED", "incorrect username or password")
                return
        elif exchange.seen.secret and not self._user_of(exchange.seen.secret):
            exchange.error(401, "UNAUTHORIZED", "incorrect username or password")
            return
        elif not exchange.seen.secret and self.passwords:
            # strangers get a token that is good for nothing
            query = {}
        token = hashlib.sha256(f"{len(self.tokens)} {query}".encode()).hexdigest()
        self.tokens[token] = " ".join(query.get("scope", []))
        exchange.answer(200, json.dumps({"token": token, "expires_in": 300}).encode())
