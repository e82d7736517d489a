"""The routes of the Engine API, one file per noun: decode, call the engine, encode.  They decide nothing."""

from __future__ import annotations

from corten.api.routes import (
    absent,
    build,
    container_streams,
    containers,
    corten,
    distribution,
    execs,
    images,
    networks,
    system,
    volumes,
)
from corten.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *system.ROUTES,
    *containers.ROUTES,
    *container_streams.ROUTES,
    *execs.ROUTES,
    *distribution.ROUTES,
    *images.ROUTES,
    *build.ROUTES,
    *volumes.ROUTES,
    *networks.ROUTES,
    *corten.ROUTES,
    *absent.ROUTES,
)
