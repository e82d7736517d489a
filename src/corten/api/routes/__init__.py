"""The routes of the Engine API, one file per noun: decode, call the engine, encode.  They decide nothing."""

from __future__ import annotations

from corten.api.routes import absent, container_streams, containers, execs, images, networks, system, volumes
from corten.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *system.ROUTES,
    *containers.ROUTES,
    *container_streams.ROUTES,
    *execs.ROUTES,
    *images.ROUTES,
    *volumes.ROUTES,
    *networks.ROUTES,
    *absent.ROUTES,
)
