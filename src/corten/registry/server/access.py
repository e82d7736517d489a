"""Who asks, and what they may do.

An ``Authenticator`` makes a ``Principal`` of the header ``Authorization``; the guard compares what a request needs
with what the principal may, and tells a client how to ask again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from corten.registry.server.failures import Refusal
from corten.registry.server.rights import EVERYTHING, Rights

PULL, PUSH, DELETE = "pull", "push", "delete"


@dataclass(frozen=True, slots=True)
class Principal:
    """may: whether an action on a repository is allowed; until: when that must be found out again (``time.time``)

    lists: which repositories its catalog shows; None when it may not ask for one
    """

    name: str
    may: Callable[[str, str], bool]
    until: float = float("inf")
    is_anonymous: bool = False
    lists: Callable[[str], bool] | None = None


def named(name: str, rights: Rights, *, until: float = float("inf"), is_anonymous: bool = False) -> Principal:
    """Somebody whose rights are in a file; the catalog shows what may be pulled."""
    may = rights.of(name, is_anonymous=is_anonymous)
    return Principal(name, may, until, is_anonymous, lambda repository: may(PULL, repository))


class Authenticator(Protocol):
    """One way to tell who asks."""

    async def principal(self, authorization: str) -> Principal:
        """authorization: the header's value, "" when there is none.

        Errors: Refusal(UNAUTHORIZED) for what is wrong or expired.
        """

    def challenge(self, scope: str, error: str) -> str:
        """The value of ``WWW-Authenticate``.  scope: "repository:name:pull,push", or nothing."""

    def generation(self) -> object:
        """Changes when what was decided before may be wrong."""


class Open:
    """Nobody has to say who they are."""

    def __init__(self, rights: Rights = EVERYTHING) -> None:
        self._rights = rights

    async def principal(self, authorization: str) -> Principal:
        return named("", self._rights, is_anonymous=True)

    def challenge(self, scope: str, error: str) -> str:
        return ""

    def generation(self) -> object:
        return self._rights.generation()


@dataclass(slots=True)
class Guard:
    """What every request passes."""

    authenticator: Authenticator = field(default_factory=Open)

    async def principal(self, authorization: str) -> Principal:
        """Errors: Refusal(UNAUTHORIZED) with a challenge."""
        try:
            return await self.authenticator.principal(authorization)
        except Refusal as refusal:
            if refusal.code == "UNAUTHORIZED":
                refusal.headers = self._challenge("", "invalid_token")
            raise

    def check(self, principal: Principal, repository: str, *actions: str) -> None:
        """Errors: Refusal(UNAUTHORIZED) where other credentials may help, else Refusal(DENIED)."""
        if all(principal.may(action, repository) for action in actions):
            return
        scope = f"repository:{repository}:{','.join(actions)}"
        self._refuse(principal, scope)

    def check_catalog(self, principal: Principal) -> Callable[[str], bool]:
        """Which repositories a catalog shows.  Errors: Refusal."""
        if principal.lists is None:
            self._refuse(principal, "registry:catalog:*")
        return principal.lists

    def check_known(self, principal: Principal) -> None:
        """For ``/v2/``, by which clients find out how to log in: anybody, unless logging in is what is asked for.

        Errors: Refusal(UNAUTHORIZED) with a challenge.
        """
        challenge = self._challenge("", "")
        if principal.is_anonymous and challenge:
            raise Refusal("UNAUTHORIZED", headers=challenge)

    def _refuse(self, principal: Principal, scope: str) -> NoReturn:
        headers = self._challenge(scope, "" if principal.is_anonymous else "insufficient_scope")
        bearer = any(value.startswith("Bearer") for _, value in headers)
        if headers and (principal.is_anonymous or bearer):
            raise Refusal("UNAUTHORIZED", headers=headers)
        raise Refusal("DENIED")

    def _challenge(self, scope: str, error: str) -> tuple[tuple[str, str], ...]:
        value = self.authenticator.challenge(scope, error)
        return (("WWW-Authenticate", value),) if value else ()

    def generation(self) -> object:
        """Of the rights, for ``still``: to be asked for before the principal."""
        return self.authenticator.generation()

    def still(self, principal: Principal, generation: object) -> Callable[[], bool]:
        """Tells later whether what ``principal`` may is still the same as at that generation."""
        until, current = principal.until, self.authenticator.generation
        if until == float("inf"):
            return lambda: current() == generation
        return lambda: current() == generation and time.time() < until
