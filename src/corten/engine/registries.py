"""Registries as the API sees them: pull, push, log in, ask, search."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from corten.config import Config
from corten.dockerapi.registry_auth import RegistryAuth, credentials_for
from corten.engine.events import Events
from corten.engine.filters import Filters, boolean, check_known
from corten.engine.transfers import Transfers
from corten.errors import InvalidParameter
from corten.image.check import Fetcher
from corten.image.store import ImageStore
from corten.oci import reference
from corten.oci.platform import parse_platform
from corten.oci.reference import Reference
from corten.registry.auth import Credentials
from corten.registry.progress import Report
from corten.registry.registry import Registry, Settings, Transport

if TYPE_CHECKING:
    from corten.registry.publishing import Publication

Document = dict[str, Any]
_MAX_RESULTS = 100


def settings_of(config: Config) -> Settings:
    """The registries' part of the daemon's configuration."""
    return Settings(
        mirrors=config.registry_mirrors,
        insecure=config.insecure_registries,
        downloads=config.max_concurrent_downloads,
        uploads=config.max_concurrent_uploads,
        attempts=config.max_download_attempts,
    )


def _credentials(auth: RegistryAuth) -> Credentials:
    return Credentials(auth.username, auth.password, auth.identity_token, auth.registry_token)


def _secret_key(auth: RegistryAuth) -> str:
    """What tells the same credentials from others, without holding them."""
    return hashlib.sha256(repr(astuple(auth)).encode()).hexdigest()


class Registries:
    """What moves between this daemon's images and registries."""

    def __init__(self, config: Config, store: ImageStore, events: Events) -> None:
        self._registry = Registry(settings_of(config))
        self._transfers = Transfers(self._registry)
        self._store = store
        self._events = events

    def reload(self, config: Config) -> None:
        """Mirrors, insecure registries and limits for transfers that begin from now on."""
        self._registry.reload(settings_of(config))

    async def close(self) -> None:
        await self._transfers.close()

    def describe(self) -> Document:
        """``RegistryConfig`` of ``info``."""
        settings = self._registry.settings
        ranges = [item for item in settings.insecure if "/" in item]
        hosts = [item for item in settings.insecure if "/" not in item]
        mirrors = [url.rstrip("/") + "/" for url in settings.mirrors]
        index = {
            "docker.io": {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True},
            **{host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False} for host in hosts},
        }
        return {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": sorted({*ranges, "127.0.0.0/8", "::1/128"}),
            "IndexConfigs": index,
            "Mirrors": mirrors,
        }

    @staticmethod
    def proxies() -> Document:
        """What ``info`` says of proxies."""
        from corten.registry.proxies import shown_proxies

        return dict(zip(("HttpProxy", "HttpsProxy", "NoProxy"), shown_proxies(), strict=True))

    # -- images -------------------------------------------------------------------------------------------------------

    async def pull(self, image: str, tag: str, platform: str, auth: RegistryAuth) -> AsyncGenerator[Document, None]:
        """Progress documents.  ``tag``: also a digest; without one in either place all tags are pulled.

        Errors: InvalidParameter (reference, platform), NotFound, Unavailable, DataLoss, SystemFailure.
        """
        name = _joined(image, tag)
        wanted = parse_platform(platform) if platform else None
        key = ("pull", name.canonical, str(wanted), _secret_key(auth))

        def work(transport: Transport, report: Any) -> None:
            from corten.registry.pulling import Pull, tags_of

            credentials = _credentials(auth)
            names = [name]
            if name.is_name_only:
                names = [name.with_tag(item) for item in tags_of(transport, name, credentials)]
            for one in names:
                Pull(self._registry, self._store, transport, one, credentials, report, platform=wanted).run()
                self._events.publish("image", "pull", one.familiar, {"name": one.familiar_repository})

        async with contextlib.aclosing(self._transfers.follow(key, work)) as documents:
            async for document in documents:
                yield document

    async def push(self, image: str, tag: str, auth: RegistryAuth) -> AsyncGenerator[Document, None]:
        """Progress documents.  Without a tag all tags of the repository are pushed.

        Errors: InvalidParameter, NotFound, Unauthorized, Unavailable, DataLoss.
        """
        name = _joined(image, tag)
        if name.digest:
            raise InvalidParameter("cannot push a digest reference")
        key = ("push", name.canonical, _secret_key(auth))

        def work(transport: Transport, report: Any) -> None:
            from corten.registry.pushing import Push

            for pushed in Push(self._registry, self._store, transport, name, _credentials(auth), report).run():
                one = pushed.name
                self._events.publish("image", "push", one.familiar, {"name": one.familiar_repository})

        async with contextlib.aclosing(self._transfers.follow(key, work)) as documents:
            async for document in documents:
                yield document

    async def publish(
        self, name: Reference, make: Callable[[Publication], Document], auth: RegistryAuth
    ) -> AsyncGenerator[Document, None]:
        """Put what ``make`` does into a repository; progress, and at the end what it gives as ``aux``.

        Errors: as ``push``, and those of ``make``.
        """

        def work(transport: Transport, report: Any) -> None:
            from corten.registry.publishing import Publication

            made = make(Publication(self._registry, self._store, transport, name, _credentials(auth), report))
            report({"progressDetail": {}, "aux": made})
            self._events.publish("image", "push", name.familiar, {"name": name.familiar_repository})

        async with contextlib.aclosing(self._transfers.follow(object(), work)) as documents:
            async for document in documents:
                yield document

    # -- questions ----------------------------------------------------------------------------------------------------

    async def login(self, auth: RegistryAuth) -> Document:
        """Whether a registry takes credentials.

        Errors: Unauthorized, Unavailable, InvalidParameter.
        """
        from corten.registry.asking import login

        token = await self._ask(lambda transport: login(transport, auth.server, _credentials(auth)))
        return {"Status": "Login Succeeded", "IdentityToken": token}

    async def distribution(self, image: str, auth: RegistryAuth) -> Document:
        """What a reference names at its registry: descriptor and platforms.  Errors: NotFound, Unavailable."""
        from corten.registry.asking import describe

        name = reference.parse(image).with_default_tag()
        document: Document = await self._ask(lambda transport: describe(transport, name, _credentials(auth)))
        return document

    async def members(self, name: Reference, auth: RegistryAuth, note: str) -> list[str]:
        """Of an index with an annotation of that name each image by its digest, else the reference alone.

        Errors: NotFound, Unavailable, Unauthorized.
        """
        from corten.registry.manifests import Lookup

        def look(transport: Transport) -> Document:
            return Lookup(self._registry, transport, str(name), _credentials(auth)).document()

        document: Document = await self._ask(look)
        if note not in (document.get("annotations") or {}):
            return [str(name)]
        return [f"{name.familiar_repository}@{item['digest']}" for item in document.get("manifests") or ()]

    async def search(self, term: str, limit: int, filters: Filters, auth: RegistryAuth) -> list[Document]:
        """Repositories whose name or description has ``term``.

        limit: at most so many, 1 to 100; 0 for 25
        Errors: InvalidParameter, Unavailable.
        """
        from corten.registry.searching import search

        check_known(filters, ("is-automated", "is-official", "stars"))
        if not 0 <= limit <= _MAX_RESULTS:
            raise InvalidParameter(f"Limit {limit} is outside the range of [1, {_MAX_RESULTS}]")
        automated = boolean(filters, "is-automated", default=False) if "is-automated" in filters else None
        official = boolean(filters, "is-official", default=False) if "is-official" in filters else None
        stars = 0
        for text in filters.get("stars", ()):
            if not (text.isascii() and text.isdigit()):
                raise InvalidParameter(f"Invalid filter 'stars={text}'")
            stars = max(stars, int(text))
        found = await self._ask(lambda transport: search(transport, term, limit or 25, _credentials(auth)))
        return [
            row
            for row in found
            if row["star_count"] >= stars
            and automated in (None, row["is_automated"])
            and official in (None, row["is_official"])
        ]

    async def repair(
        self, work: Callable[[Fetcher, Report], None], credentials: Mapping[str, RegistryAuth]
    ) -> AsyncGenerator[Document, None]:
        """What ``work`` reports; it runs in a thread, may fetch what was lost, and ends when nobody follows it."""

        def run(transport: Transport, report: Report) -> None:
            from corten.registry.refetching import Refetch

            def keys(domain: str) -> Credentials:
                return _credentials(credentials_for(credentials, domain))

            work(Refetch(self._registry, transport, keys), report)

        async with contextlib.aclosing(self._transfers.follow(object(), run)) as documents:
            async for document in documents:
                yield document

    async def _ask(self, work: Any) -> Any:
        """A question in a thread; it ends when its client leaves."""
        answer: list[Any] = []

        def run(transport: Transport, _report: Any) -> None:
            answer.append(work(transport))

        async with contextlib.aclosing(self._transfers.follow(object(), run)) as documents:
            async for _ in documents:
                pass
        return answer[0]


def _joined(image: str, tag: str) -> Reference:
    """The reference of a repository and a tag or digest that came apart.

    Errors: InvalidParameter.
    """
    if not tag:
        return reference.parse(image)
    name = reference.parse(image)
    whole = f"{name.repository}@{tag}" if ":" in tag else f"{name.repository}:{tag}"
    return reference.parse(whole)
