"""Images as the API sees them: documents, progress and events around the synchronous ``ImageStore``."""

from __future__ import annotations

import contextlib
import fnmatch
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from corten.dockerapi.codec import to_builtins
from corten.dockerapi.container import ContainerConfig
from corten.dockerapi.queries import CommitQuery, ImportQuery
from corten.dockerapi.timestamps import format_ns, parse_moment, parse_rfc3339
from corten.engine import filters as filtering
from corten.engine.container import Status
from corten.engine.events import Events
from corten.engine.streams import iterate_in_thread, progress_in_thread, run_blocking
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.image.store import Image, ImageStore

if TYPE_CHECKING:
    from corten.engine.containers import Containers

_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")


def created_s(image: Image) -> int:
    """Seconds since the epoch; 0 when the image does not say."""
    text = image.config.get("created")
    try:
        return parse_rfc3339(text) // 10**9 if text else 0
    except (CortenError, ValueError):
        return 0


def labels_of(image: Image) -> dict[str, str]:
    return (image.config.get("config") or {}).get("Labels") or {}


class Images:
    """The images of this daemon."""

    def __init__(self, store: ImageStore, events: Events, containers: Containers) -> None:
        self._store = store
        self._events = events
        self._containers = containers

    def _publish(self, action: str, image: Image | None, actor: str, name: str = "") -> None:
        attributes = dict(labels_of(image)) if image is not None else {}
        if name:
            attributes["name"] = name
        self._events.publish("image", action, actor, attributes)

    def count(self) -> int:
        return len(self._store.all())

    # -- list and describe --------------------------------------------------------------------------------------------

    async def list(
        self, *, all: bool = False, digests: bool = False, filters: dict[str, list[str]] | None = None
    ) -> list[dict[str, Any]]:
        """Newest first.  Errors: InvalidParameter for an unknown filter."""
        matches = self._matcher(filters or {})
        rows = []
        parents = {image.parent for image in self._store.all() if image.parent}
        for image in self._store.all():
            if not image.tags and not image.digests and image.id in parents and not all:
                continue  # an untagged step below another image
            kept = matches(image)
            if kept is None:
                continue
            rows.append(self._row(image, kept))
        rows.sort(key=lambda row: row["Created"], reverse=True)
        return rows

    @staticmethod
    def _row(image: Image, tags: list[str]) -> dict[str, Any]:
        return {
            "Id": image.id,
            "ParentId": image.parent,
            "RepoTags": tags,
            "RepoDigests": list(image.digests),
            "Created": created_s(image),
            "Size": image.size,
            "SharedSize": -1,
            "Labels": labels_of(image) or None,
            "Containers": -1,
        }

    def _matcher(self, wanted: dict[str, list[str]]) -> Callable[[Image], list[str] | None]:
        """A function that gives the tags to show, or None for an image that is not wanted."""
        filtering.check_known(wanted, _FILTERS)
        before = [created_s(self._store.get(value)) for value in wanted.get("before", ())]
        since = [created_s(self._store.get(value)) for value in wanted.get("since", ())]
        until = [parse_moment(value, time.time_ns()) // 10**9 for value in wanted.get("until", ())]
        dangling = {filtering.parse_boolean("dangling", value) for value in wanted.get("dangling", ())}

        def matches(image: Image) -> list[str] | None:
            made = created_s(image)
            if any(made >= moment for moment in before) or any(made <= moment for moment in since):
                return None
            if any(made > moment for moment in until):
                return None
            if dangling and (not image.tags) not in dangling:
                return None
            if not filtering.labels_match(labels_of(image), wanted):
                return None
            tags = list(image.tags)
            if wanted.get("reference"):
                tags = [tag for tag in tags if any(_reference_matches(tag, pattern) for pattern in wanted["reference"])]
                if not tags:
                    return None
            return tags

        return matches

    async def inspect(self, reference: str) -> dict[str, Any]:
        image = self._store.get(reference)
        config = image.config
        own = config.get("config") or {}
        described = to_builtins(ContainerConfig())
        shown = {key: own.get(key, described[key]) for key in described if key in own or key in ("Cmd", "Entrypoint", "Env", "Labels", "User", "Volumes", "WorkingDir")}
        for key in ("Volumes", "Labels", "OnBuild", "Entrypoint", "Cmd", "ExposedPorts"):
            if key in shown:
                shown[key] = shown[key] or None
        created = config.get("created") or ""
        return {
            "Id": image.id,
            "RepoTags": list(image.tags),
            "RepoDigests": list(image.digests),
            "Parent": image.parent,
            "Comment": next((item["comment"] for item in reversed(config.get("history") or []) if item.get("comment")), ""),
            "Created": created,
            "DockerVersion": config.get("docker_version", ""),
            "Author": config.get("author", ""),
            "Config": shown,
            "Architecture": config.get("architecture", ""),
            **({"Variant": config["variant"]} if config.get("variant") else {}),
            "Os": config.get("os", "linux"),
            "Size": image.size,
            "GraphDriver": {"Name": self._store.snapshotter.name, "Data": self._graph_data(image) or None},
            "RootFS": {"Type": "layers", "Layers": list((config.get("rootfs") or {}).get("diff_ids") or [])},
            "Metadata": {"LastTagTime": format_ns(self._store.tagged_ns(image.id))},
        }

    def _graph_data(self, image: Image) -> dict[str, str]:
        return self._store.snapshotter.layer_data(image.layers[-1]) if image.layers else {}

    async def history(self, reference: str) -> list[dict[str, Any]]:
        return await run_blocking(self._store.history, reference)

    async def usage(self) -> list[dict[str, Any]]:
        """Rows with ``SharedSize`` and ``Containers``, for ``system df``."""
        users: dict[str, int] = {}
        for container in self._containers.all():
            users[container.image_id] = users.get(container.image_id, 0) + 1
        count: dict[str, int] = {}
        for image in self._store.all():
            for layer in set(image.layers):
                count[layer] = count.get(layer, 0) + 1
        rows = []
        for image in self._store.all():
            row = self._row(image, list(image.tags))
            sizes = zip(image.layers, image.layer_sizes, strict=False)
            row["SharedSize"] = sum(size for layer, size in sizes if count[layer] > 1)
            row["Containers"] = users.get(image.id, 0)
            rows.append(row)
        return rows

    def layers_size(self) -> int:
        """Bytes of all layers, each once."""
        sizes: dict[str, int] = {}
        for image in self._store.all():
            sizes.update(zip(image.layers, image.layer_sizes, strict=False))
        return sum(sizes.values())

    # -- change -------------------------------------------------------------------------------------------------------

    async def tag(self, reference: str, repo: str, tag: str) -> None:
        """Errors: NotFound, InvalidParameter (reference)."""
        target = f"{repo}:{tag}" if tag else repo
        await run_blocking(self._store.tag, reference, target)
        image = self._store.get(target)
        self._publish("tag", image, image.id, target if tag else next(iter(image.tags), target))

    def _in_use(self, image_id: str) -> list[tuple[str, bool]]:
        """(container id, whether it runs) of the containers of an image."""
        return [
            (container.id, container.is_running)
            for container in self._containers.all()
            if container.image_id == image_id and container.status is not Status.DEAD
        ]

    async def remove(self, reference: str, force: bool = False, no_prune: bool = False) -> list[dict[str, str]]:
        """Errors: NotFound, Conflict (in use, children, several repositories)."""
        image = None
        with contextlib.suppress(NotFound):  # an image whose config was lost cannot be shown, but removed
            image = self._store.get(reference)
        removed = await run_blocking(lambda: self._store.remove(reference, force=force, prune=not no_prune, in_use=self._in_use))
        for item in removed:
            if "Untagged" in item:
                actor = image.id if image is not None else item["Untagged"]
                self._publish("untag", image, actor, actor)
            else:
                self._publish("delete", None, item["Deleted"], item["Deleted"])
        return removed

    async def prune(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        """Remove unused images: dangling ones, with ``dangling=false`` all."""
        filtering.check_known(wanted, ("dangling", "label", "label!", "until"))
        everything = any(not filtering.parse_boolean("dangling", value) for value in wanted.get("dangling", ()))
        matches = self._matcher({key: value for key, value in wanted.items() if key != "dangling"})
        deleted: list[dict[str, str]] = []
        before = self.layers_size()
        for image in sorted(self._store.all(), key=created_s, reverse=True):
            if self._store.is_builtin(image.id) or self._in_use(image.id) or (image.tags and not everything):
                continue
            if matches(image) is None:
                continue
            for reference in image.tags or (image.id,):
                try:
                    deleted += await self.remove(reference)
                except CortenError:
                    break  # a child holds it; it goes with the child
        reclaimed = before - self.layers_size()
        self._events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ImagesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    # -- in and out ---------------------------------------------------------------------------------------------------

    async def load(self, body: AsyncIterator[bytes], quiet: bool = True) -> AsyncIterator[dict[str, Any]]:
        """Progress documents, then "Loaded image: x" for each."""

        def work(stream: Any, report: Callable[[dict[str, Any]], None]) -> None:
            loaded = self._store.load(stream, report if not quiet else lambda document: None)
            for name in loaded:
                report({"loaded": name})

        async for document in progress_in_thread(body, work):
            name = document.get("loaded")
            if name is None:
                yield document
                continue
            image = self._store.get(name)
            self._publish("load", image, image.id, name)
            what = "Loaded image ID" if name.startswith("sha256:") else "Loaded image"
            yield {"stream": f"{what}: {name}\n"}

    async def save(self, references: list[str], format: str = "docker") -> AsyncIterator[bytes]:
        """A tar of images.  Errors: NotFound before the first byte."""
        for reference in references:
            image = self._store.get(reference)
            self._publish("save", image, image.id, reference)
        async for chunk in iterate_in_thread(lambda: self._store.save(references, format=format)):
            yield chunk

    async def import_(self, body: AsyncIterator[bytes], query: ImportQuery) -> AsyncIterator[dict[str, Any]]:
        """An image of one layer from a tar of a file system."""
        reference = f"{query.repo}:{query.tag}" if query.repo and query.tag else query.repo

        def work(stream: Any, report: Callable[[dict[str, Any]], None]) -> None:
            image_id = self._store.import_tar(
                stream,
                reference=reference,
                changes=list(query.changes),
                message=query.message,
                platform=query.platform,
                progress=lambda document: None,
            )
            report({"imported": image_id})

        async for document in progress_in_thread(body, work):
            if "imported" in document:
                self._publish("import", None, document["imported"], reference or document["imported"])
                yield {"status": document["imported"]}
            else:
                yield document

    async def commit(self, query: CommitQuery, config: ContainerConfig | None) -> dict[str, Any]:
        """A new image of a container's changes.

        Errors: NotFound, InvalidParameter (reference, changes), Conflict (being removed).
        """
        if not query.container:
            raise InvalidParameter("container name is required")
        live = self._containers.find(query.container)
        container = live.container
        if live.removing:
            raise InvalidParameter(f"You cannot commit container {container.id} which is being removed")
        reference = f"{query.repo}:{query.tag}" if query.repo and query.tag else query.repo
        wanted = _committed_config(container.config, config)
        async with self._containers.paused(live, wanted=query.pause):
            image_id = await run_blocking(
                lambda: self._store.commit(
                    container.id,
                    container.image_id,
                    wanted,
                    command=container.command,
                    author=query.author,
                    comment=query.comment,
                    reference=reference,
                    changes=list(query.changes),
                )
            )
        self._containers.note_commit(live, image_id, reference, query.comment)
        return {"Id": image_id}


def _committed_config(container: ContainerConfig, given: ContainerConfig | None) -> dict[str, Any]:
    """The container's configuration, overridden by what the client sent along."""
    config = to_builtins(container)
    if given is not None:
        for key, value in to_builtins(given).items():
            if value not in (None, "", [], {}, False, 0):
                config[key] = value
    kept = (
        "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "Healthcheck",
        "OnBuild", "Shell", "StopTimeout", "Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty",
        "OpenStdin", "StdinOnce", "Image",
    )  # fmt: skip
    return {key: config[key] for key in kept if config.get(key) not in (None, "", [], {}, False)}


def _reference_matches(tag: str, pattern: str) -> bool:
    name = tag.rpartition(":")[0]
    return fnmatch.fnmatchcase(tag, pattern) or fnmatch.fnmatchcase(name, pattern)

