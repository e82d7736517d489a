"""Where Docker's tools keep a user's configuration: ``DOCKER_CONFIG``, or ``~/.docker``.  Cheap to import."""

from __future__ import annotations

import os


def config_directory() -> str:
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def has_config_file() -> bool:
    return os.path.exists(os.path.join(config_directory(), "config.json"))
