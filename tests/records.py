"""Records of containers, for tests that need one and care for few of its fields."""

from __future__ import annotations

from typing import Any

from corten.dockerapi.container import ContainerConfig, HostConfig
from corten.engine.container import Container


def record(**fields: Any) -> Container:
    """A container that was created and never ran, but for these fields."""
    plain: dict[str, Any] = {
        "id": "a" * 64,
        "name": "box",
        "created_ns": 0,
        "image_id": "i",
        "config": ContainerConfig(),
        "host_config": HostConfig(),
        "driver": "overlay2",
    }
    return Container(**{**plain, **fields})
