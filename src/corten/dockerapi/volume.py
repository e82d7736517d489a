"""Volume documents of the Docker Engine API."""

from __future__ import annotations

from typing import Any

from msgspec import field

from corten.dockerapi.container import Document


class VolumeCreate(Document):
    """Body of ``POST /volumes/create``.  An empty name asks for an anonymous volume."""

    name: str = ""
    driver: str = "local"
    driver_opts: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    cluster_volume_spec: dict[str, Any] | None = None
