"""Who serves a repository's content: mirrors in order, then the origin.

Everything that is asked for by digest may come from any of them; what one cannot give, or gives wrong, the next is
asked for.  So a mirror never fails a pull that the origin can serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from corten.errors import CortenError
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.failures import Cancelled, Refused, RegistryFailure, Unreachable
from corten.registry.remote import Remote
from corten.registry.transport import Transport

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Sources:
    """The remotes of one repository; thread-safe."""

    def __init__(self, transport: Transport, name: Reference, credentials: Credentials) -> None:
        endpoints = transport.hosts.endpoints(name.domain, "pull")
        self._remotes = [Remote(transport, endpoint, name.path, credentials) for endpoint in endpoints]

    def ask(self, work: Callable[[Remote], T], *, capability: str = "pull") -> T:
        """``work`` with the first remote that can do it.

        Errors: the origin's when all fail.
        """
        last: CortenError | None = None
        for remote in list(self._remotes):
            if capability not in remote.endpoint.capabilities:
                continue
            try:
                result = work(remote)
            except Cancelled:
                raise
            except CortenError as error:
                last = error
                self._failed(remote, error)
                if self._is_final(remote, error):
                    raise
                continue
            if remote.endpoint.is_origin:
                self._settle(remote)
            return result
        raise last or Unreachable("nobody serves this repository", passing=False)

    @staticmethod
    def _is_final(remote: Remote, error: CortenError) -> bool:
        """The origin's word counts; only where it cannot be reached its other address is tried."""
        return remote.endpoint.is_origin and (not isinstance(error, Unreachable) or error.is_tls)

    def _failed(self, remote: Remote, error: CortenError) -> None:
        if remote.endpoint.is_origin:
            return
        logger.warning("mirror %s: %s: asking the next", remote.endpoint.netloc, error)
        if isinstance(error, Unreachable) or not isinstance(error, Refused):
            # silent, failing or lying: not asked first again during this pull
            remotes = [item for item in self._remotes if item is not remote]
            self._remotes = remotes

    def _settle(self, chosen: Remote) -> None:
        """The origin answers here: its other addresses are not needed."""
        self._remotes = [item for item in self._remotes if item is chosen or not item.endpoint.is_origin]


__all__ = ["RegistryFailure", "Sources"]
