"""What the owner of a registry decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from corten.registry.server.tokens import TokenSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """Another registry whose content is kept here.

    url:    "https://registry.example", or with the path of its API
    keep_s: content that nobody has asked for so long is removed, 0: it stays
    insecure: it has no certificate that can be checked, or no TLS
    """

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    keep_s: float = 7 * 86400.0
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """A bucket of an object store that speaks S3; keys and region may come from the environment (AWS_…).

    endpoint: URL, "" for Amazon's own; prefix: of all keys
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes are bytes, 0: no limit.

    root:     content, uploads, locks: everything on this machine
    store:    where content is when it is not below ``root``
    tls:      (certificate, key) files
    gc_every_s: between garbage collections while serving, 0: none
    grace_s:  what is younger is not collected; see ``garbage``
    """

    root: Path
    listen: tuple[str, ...] = ("127.0.0.1:5000",)
    metrics_listen: str = ""
    store: StoreSettings | None = None
    workers: int = 0
    tls: tuple[Path, Path] | None = None
    htpasswd: Path | None = None
    realm: str = "corten registry"
    tokens: TokenSettings | None = None
    rights: Path | None = None
    read_only: bool = False
    no_delete: bool = False
    max_blob_bytes: int = 0
    quota_bytes: int = 0
    access_log: str = ""
    gc_every_s: float = 0.0
    grace_s: float = 3600.0
    delete_untagged: bool = False
    proxy: ProxySettings | None = None
