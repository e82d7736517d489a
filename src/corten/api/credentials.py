"""Registries' credentials that come with a request; what cannot be read means none, as with dockerd."""

from __future__ import annotations

import logging

from corten.api.http.messages import Request
from corten.dockerapi.registry_auth import CONFIG_HEADER, HEADER, RegistryAuth, decode_config_header, decode_header
from corten.errors import InvalidParameter

logger = logging.getLogger(__name__)


def one_of(request: Request) -> RegistryAuth:
    """For the registry that the request is about; clients send placeholders for none."""
    try:
        return decode_header(request.headers.get(HEADER.lower(), ""))
    except InvalidParameter as error:
        logger.debug("%s", error)
        return RegistryAuth()


def all_of(request: Request) -> dict[str, RegistryAuth]:
    """By server, of a request that may need several registries."""
    try:
        return decode_config_header(request.headers.get(CONFIG_HEADER.lower(), ""))
    except InvalidParameter as error:
        logger.debug("%s", error)
        return {}
