"""The client of a solve: its sessions, seen as what a build needs of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from corten.api.buildkit import layouts
from corten.build.loops import on_loop
from corten.buildkit.auth import credentials, registry_token
from corten.buildkit.context import SessionContext, read_files
from corten.buildkit.filesend import send_file, send_tree
from corten.buildkit.filesync import Wanted
from corten.buildkit.narrow import NarrowContext
from corten.buildkit.proto.session_pb2 import BytesMessage
from corten.buildkit.wire import parsed
from corten.dockerapi.registry_auth import RegistryAuth, credentials_for
from corten.engine.streams import feed_thread
from corten.errors import InvalidParameter
from corten.grpc.status import GrpcError
from corten.oci import reference

if TYPE_CHECKING:
    from pathlib import Path

    from corten.api.buildkit.jobs import Job
    from corten.build.contexts import BuildContext
    from corten.build.workshop import Cancellation
    from corten.buildkit.sessions import Session, Sessions
    from corten.engine.build_contexts import Contexts
    from corten.engine.engine import Engine
    from corten.oci.platform import Platform

_PULL = "/moby.upload.v1.Upload/Pull"


class Client:
    """session_id: of the solve, "" for a client without one; known: credentials that did not come through a session"""

    def __init__(self, sessions: Sessions, session_id: str, known: Mapping[str, RegistryAuth]) -> None:
        self._sessions = sessions
        self._session_id = session_id
        self._known = known
        self._loop = asyncio.get_running_loop()

    async def session(self, session_id: str = "") -> Session | None:
        """Errors: NotFound when it does not come."""
        wanted = session_id or self._session_id
        return await self._sessions.get(wanted) if wanted else None

    async def _required(self, session_id: str = "") -> Session:
        found = await self.session(session_id)
        if found is None:
            raise InvalidParameter("files of the client are needed, and it has no session")
        return found

    async def closed(self) -> asyncio.Future[None]:
        """Done when the client's session has ended.  Errors: NotFound."""
        return (await self._required()).closed

    # -- files that come ----------------------------------------------------------------------------------------------

    async def read_files(self, session_id: str, name: str, paths: Sequence[str], scratch: Path) -> dict[str, bytes]:
        """Small files of a directory of the client; what is not there is left out.  Errors: those of the session."""
        session = await self._required(session_id)
        return await read_files(session, Wanted(name=name, follow=paths), paths, scratch)

    def directory(
        self, session_id: str, name: str, excluded: Sequence[str], contexts: Contexts, job: Job, title: str
    ) -> BuildContext:
        """A directory of the client, of which it lists what an instruction needs; closed with ``contexts``.

        title: of the vertex that tells of it
        """

        async def load(follow: Sequence[str]) -> SessionContext:
            with job.vertex(title) as task:
                session = await self._required(session_id)
                wanted = Wanted(name=name, exclude=excluded, follow=follow)
                found = await SessionContext.open(session, wanted, contexts.scratch)
                job.tell(task.part("transferring context:", current=found.transferred, done=True))
                # contents come later, when the cache does not know them
                found.report_to(lambda size: job.tell(task.part("transferring context:", current=size, done=True)))
                return found

        context = NarrowContext(self._loop, load, job.cancellation)
        contexts.hold(context)
        return context

    async def uploaded(self, address: str) -> AsyncIterator[bytes]:
        """What the client gives under an address of the session.  Errors: NotFound, Unavailable."""
        session = await self._required()
        session.require(_PULL, "gives no archive")
        try:
            async with await session.stream(_PULL, {"urlpath": [address.rpartition("/")[2]]}) as call:
                while (message := await call.receive()) is not None:
                    yield parsed(BytesMessage, message).data
        except GrpcError as error:
            raise error.as_kind("the client's archive") from None

    # -- files that go ------------------------------------------------------------------------------------------------

    async def send_file(self, number: int, chunks: AsyncIterator[bytes], about: Mapping[str, str]) -> None:
        """Errors: those of ``filesend.send_file``."""
        await send_file(await self._required(), number, chunks, about)

    async def send_directory(
        self, number: int, chunks: AsyncIterator[bytes], contexts: Contexts, *, mirror: bool
    ) -> None:
        """chunks: a tar.  Errors: those of ``filesend.send_tree``."""
        session = await self._required()
        tree = await feed_thread(chunks, contexts.unpacked)
        await send_tree(session, number, tree, mirror=mirror)

    # -- credentials --------------------------------------------------------------------------------------------------

    async def credentials(self, host: str) -> RegistryAuth:
        """Of a registry; anonymous without any.  Errors: those of the session."""
        known = credentials_for(self._known, host)
        session = await self.session()
        if known != RegistryAuth() or session is None:
            return known
        user, secret = await credentials(session, host)
        if not user and not secret:
            return RegistryAuth(registry_token=await registry_token(session, host), server=host)
        if not user:
            return RegistryAuth(identity_token=secret, server=host)
        return RegistryAuth(username=user, password=secret, server=host)

    def credentials_in_thread(self, host: str, cancellation: Cancellation) -> RegistryAuth:
        """Errors: as ``credentials``; Cancelled."""
        return on_loop(self._loop, self.credentials(host), cancellation)

    # -- images -------------------------------------------------------------------------------------------------------

    async def layout_image(self, engine: Engine, text: str, platform: Platform | None) -> str:
        """The id of an image of a layout of the client.  Errors: those of ``layouts.layout_image``."""
        return await layouts.layout_image(engine, await self._required(), text, platform)

    async def cached_layout(self, engine: Engine, directory: str, digest: str) -> list[str]:
        """Ids of the images of a cache that the client has.  Errors: those of ``layouts.cached_images``."""
        return await layouts.cached_images(engine, await self._required(), directory, digest)

    async def write_layout(self, directory: str, chunks: AsyncIterator[bytes], cancellation: Cancellation) -> None:
        """Errors: those of ``layouts.write_layout``."""
        await layouts.write_layout(await self._required(), directory, chunks, cancellation)

    async def cached_images(self, engine: Engine, name: str) -> list[str]:
        """Images here that a cache's reference names.  Errors: NotFound, Unavailable, Unauthorized."""
        parsed = reference.parse(name).with_default_tag()
        return await engine.builds.cached_images(parsed, await self.credentials(parsed.domain))
