"""What the owner of a machine decides about registries, and the bounds of every transfer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CERTIFICATE_DIRECTORIES = (Path("/etc/corten/certs.d"), Path("/etc/docker/certs.d"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Immutable: a change makes another one.

    mirrors:      base URLs, tried in order before Docker Hub
    insecure:     "host[:port]" or "10.0.0.0/8": neither a certificate that can be checked nor TLS at all is needed
    certificates: directories with ``<host[:port]>/`` below: ``*.crt`` (authorities), ``*.cert`` with ``*.key`` (this
                  client), ``hosts.toml`` (containerd's description of mirrors)
    downloads, uploads: layers at a time, of all transfers together
    attempts:     how often one thing is tried in a row at one host
    backoff_s:    pause before the second attempt, doubled for each further one
    longest_pause_s: the most that a registry may ask for by Retry-After
    connect_s:    until a connection stands
    stall_s:      silence within a transfer
    document_s:   until a small answer (manifest, token, status) is complete
    slow_s, slow_bytes: a body that brings fewer bytes in so many seconds is cut
    """

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = CERTIFICATE_DIRECTORIES
    downloads: int = 3
    uploads: int = 5
    attempts: int = 5
    backoff_s: float = 1.0
    longest_pause_s: float = 60.0
    connect_s: float = 15.0
    stall_s: float = 30.0
    document_s: float = 30.0
    slow_s: float = 30.0
    slow_bytes: int = 32 << 10
