"""Images as the API sees them: documents, progress and events around the synchronous ``ImageStore``."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.queries import CommitQuery, ImportQuery
from corten.engine import filters as filtering
from corten.engine.container import Status, as_list
from corten.engine.events import Events
from corten.engine.image_documents import ImageFilter, committed_config, inspected, labels_of, row
from corten.engine.metrics import Metrics, timed
from corten.engine.streams import iterate_in_thread, progress_in_thread, run_blocking
from corten.errors import Conflict, InvalidParameter, NotFound
from corten.image.store import Image, ImageStore
from corten.oci import reference
from corten.oci.platform import from_document, parse_platform

if TYPE_CHECKING:
    from corten.engine.containers import Containers

Documents = list[dict[str, Any]]
Names = list[str]
Users = list[tuple[str, bool]]
Report = Callable[[dict[str, Any]], None]


class Images:
    """The images of this daemon."""

    def __init__(self, store: ImageStore, events: Events, containers: Containers) -> None:
        self._store = store
        self._events = events
        self._containers = containers

    def _publish(self, action: str, image: Image | None, actor: str, name: str) -> None:
        attributes = dict(labels_of(image)) if image is not None else {}
        self._events.publish("image", action, actor, {**attributes, "name": name})

    def count(self) -> int:
        return len(self._store.all())

    # -- list and describe --------------------------------------------------------------------------------------------

    async def list(
        self,
        *,
        all: bool = False,
        digests: bool = False,
        filters: filtering.Filters | None = None,
        shared_size: bool = False,
    ) -> Documents:
        """Newest first.  ``digests`` changes nothing: they are always in the rows.

        all: also untagged images that others are made from
        shared_size: with the bytes that an image shares with others
        Errors: InvalidParameter for an unknown filter, NotFound for an image that a filter names.
        """
        wanted = ImageFilter(filters or {}, self._store.get)
        images = self._store.all()
        parents = {image.parent for image in images if image.parent}
        users = self._users()
        shared = self._shared_sizes(images) if shared_size else {}
        rows = []
        for image in images:
            if not all and image.id in parents and not image.tags and not image.digests:
                continue
            tags = wanted.tags(image)
            if tags is not None:
                rows.append(row(image, tags, shared_size=shared.get(image.id, -1), containers=users[image.id]))
        rows.sort(key=lambda item: (item["Created"], item["Id"]), reverse=True)
        return rows

    async def inspect(self, name: str) -> dict[str, Any]:
        """Errors: NotFound."""
        image = self._store.get(name)
        snapshotter = self._store.snapshotter
        graph = snapshotter.layer_data(image.layers[-1]) if image.layers else {}
        return inspected(image, driver=snapshotter.name, graph=graph, tagged_ns=self._store.tagged_ns(image.id))

    async def history(self, name: str) -> Documents:
        """Errors: NotFound."""
        return await run_blocking(self._store.history, name)

    async def usage(self) -> Documents:
        """Rows with ``SharedSize`` and ``Containers``, for ``system df``."""
        images = self._store.all()
        users, shared = self._users(), self._shared_sizes(images)
        return [row(image, image.tags, shared_size=shared[image.id], containers=users[image.id]) for image in images]

    def _users(self) -> Counter[str]:
        """How many containers each image has."""
        return Counter(container.image_id for container in self._containers.all())

    @staticmethod
    def _shared_sizes(images: Sequence[Image]) -> dict[str, int]:
        """Bytes of each image that others have too."""
        layers = Counter(layer for image in images for layer in set(image.layers))
        return {
            image.id: sum(
                size for layer, size in zip(image.layers, image.layer_sizes, strict=True) if layers[layer] > 1
            )
            for image in images
        }

    def check_platform(self, name: str, wanted: str) -> None:
        """wanted: "os/architecture[/variant]".  Errors: NotFound (no such image, or for another platform)."""
        actual = from_document(self._store.get(name).config)
        if actual.rank(parse_platform(wanted)) not in (0, 1):
            raise NotFound(
                f"image with reference {name} was found but does not provide the specified platform ({wanted})"
            )

    def layers_size(self) -> int:
        """Bytes of all layers, each once."""
        sizes: dict[str, int] = {}
        for image in self._store.all():
            sizes.update(zip(image.layers, image.layer_sizes, strict=True))
        return sum(sizes.values())

    # -- change -------------------------------------------------------------------------------------------------------

    async def tag(self, source: str, repo: str, tag: str) -> None:
        """Errors: NotFound, InvalidParameter (reference), Conflict (a built-in name)."""
        target = reference.parse(_joined(repo, tag)).with_default_tag()
        await run_blocking(self._store.tag, source, str(target))
        self._publish_tag(self._store.get(str(target)), str(target))

    def _publish_tag(self, image: Image, name: str) -> None:
        self._publish("tag", image, image.id, reference.parse(name).with_default_tag().familiar)

    def in_use(self, image_id: str) -> Users:
        """(container id, whether it runs) of the containers of an image."""
        return [
            (container.id, container.is_running)
            for container in self._containers.all()
            if container.status is not Status.DEAD and image_id in container.image_ids
        ]

    async def remove(self, name: str, force: bool = False, no_prune: bool = False) -> Documents:
        """Errors: NotFound, Conflict (in use, children, several repositories)."""
        before = self._store.all()
        removed = await run_blocking(
            lambda: self._store.remove(name, force=force, prune=not no_prune, in_use=self.in_use)
        )
        self._publish_removed(removed, before)
        return removed

    def _publish_removed(self, removed: Documents, images: Sequence[Image]) -> None:
        """images: all, as they were before; layers go without an event"""
        known = {image.id for image in images}
        named = {name: image for image in images for name in (*image.tags, *image.digests)}
        for item in removed:
            if "Untagged" in item:
                image = named.get(item["Untagged"])
                actor = image.id if image is not None else item["Untagged"]
                self._publish("untag", image, actor, actor)
            elif item["Deleted"] in known:
                self._publish("delete", None, item["Deleted"], item["Deleted"])

    async def prune(self, wanted: filtering.Filters) -> dict[str, Any]:
        """Remove unused images: those without a name, with ``dangling=false`` all.

        Errors: InvalidParameter for an unknown filter.
        """
        filtering.check_known(wanted, ("dangling", "label", "label!", "until"))
        filtering.parse_until(wanted)
        every = not filtering.boolean(wanted, "dangling", default=True)
        chosen = ImageFilter({key: values for key, values in wanted.items() if key != "dangling"}, self._store.get)
        before = self._store.all()
        deleted, reclaimed = await run_blocking(
            lambda: self._store.prune(
                in_use=self.in_use, every=every, wanted=lambda image: chosen.tags(image) is not None
            )
        )
        self._publish_removed(deleted, before)
        self._events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ImagesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    # -- in and out ---------------------------------------------------------------------------------------------------

    async def load(
        self, body: AsyncIterator[bytes], quiet: bool = True, platform: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Progress documents, then "Loaded image: x" for each.

        platform: which of an archive's images for several platforms; none: this machine's, else the first

        Errors: InvalidParameter, DataLoss (bad archive), SystemFailure (no space).  Nothing stays when it fails.
        """

        chosen = parse_platform(platform) if platform else None

        def work(stream: BinaryIO, report: Report) -> None:
            loaded = self._store.archives.load(stream, _ignored if quiet else report, platform=chosen)
            report({"loaded": loaded})

        async with contextlib.aclosing(progress_in_thread(body, work)) as documents:
            async for document in documents:
                if "loaded" not in document:
                    yield document
                    continue
                for name in document["loaded"]:
                    image = self._store.get(name)
                    self._publish("load", image, image.id, name)
                    what = "Loaded image ID" if name.startswith("sha256:") else "Loaded image"
                    yield {"stream": f"{what}: {name}\n"}

    async def save(self, names: Names, format: str = "docker") -> AsyncIterator[bytes]:
        """A tar of images.  Errors: NotFound, InvalidParameter before the first byte."""
        for name in names:
            image = self._store.get(name)
            self._publish("save", image, image.id, name)
        async with contextlib.aclosing(
            iterate_in_thread(lambda: self._store.archives.save(names, format=format))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def import_(self, body: AsyncIterator[bytes], query: ImportQuery) -> AsyncIterator[dict[str, Any]]:
        """An image of one layer from a tar of a file system.

        Errors: InvalidParameter (reference, changes, platform, archive), DataLoss, SystemFailure.
        """
        name = _joined(query.repo, query.tag) if query.repo else ""

        def work(stream: BinaryIO, report: Report) -> None:
            image_id = self._store.archives.import_tar(
                stream,
                reference=name,
                changes=query.changes,
                message=query.message,
                platform=query.platform,
                progress=report,
            )
            report({"imported": image_id})

        async with contextlib.aclosing(progress_in_thread(body, work)) as documents:
            async for document in documents:
                if "imported" in document:
                    image_id = document["imported"]
                    if name:
                        self._publish_tag(self._store.get(image_id), name)
                    self._publish("import", None, image_id, image_id)
                    yield {"status": image_id}
                else:
                    yield document

    @property
    def metrics(self) -> Metrics:
        """Where ``timed`` methods are counted."""
        return self._containers.metrics

    @timed("commit")
    async def commit(self, query: CommitQuery, config: ContainerConfig | None) -> dict[str, Any]:
        """A new image of a container's changes.

        Errors: NotFound, InvalidParameter (reference, changes), Conflict (being removed).
        """
        if not query.container:
            raise InvalidParameter("container name is required")
        live = self._containers.find(query.container)
        container = live.container
        name = _joined(query.repo, query.tag) if query.repo else ""

        def work() -> str:
            return self._store.commit(
                container.id,
                container.image_id,
                committed_config(container.config, config),
                command=" ".join(as_list(container.config.cmd)),
                author=query.author,
                comment=query.comment,
                reference=name,
                changes=query.changes,
            )

        async with contextlib.AsyncExitStack() as stack:
            if container.is_running:
                await stack.enter_async_context(self._containers.paused(live, wanted=query.pause))
            else:
                await stack.enter_async_context(live.lock)  # nothing starts or goes away meanwhile
            if live.removing or container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(f"You cannot commit container {container.id} which is being removed")
            image_id = await run_blocking(work)
        if name:
            self._publish_tag(self._store.get(image_id), name)
        self._containers.note_commit(live, image_id, name, query.comment)
        return {"Id": image_id}


def _ignored(_: dict[str, Any]) -> None:
    """Progress that the client does not want."""


def _joined(repo: str, tag: str) -> str:
    """The reference of a repository and a tag, or a digest, that came apart."""
    if not tag:
        return repo
    return f"{repo}@{tag}" if tag.startswith("sha256:") else f"{repo}:{tag}"
