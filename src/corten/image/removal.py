"""``rmi``: which names and images go, and what stands against it.  Pure decisions over a picture of the store.

The rules are dockerd's: removing one of several names only takes the name; removing the last name, or an id,
removes the image and, when asked, its untagged parents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from corten.errors import Conflict
from corten.image.metadata import ImageRecord
from corten.oci import reference
from corten.oci.reference import Reference

# (container id, whether it runs) of the containers of an image
InUse = Callable[[str], list[tuple[str, bool]]]


@dataclass(slots=True)
class Removal:
    """What to do, in order, and what the API answers.  names: canonical; images: ids"""

    answer: list[dict[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def untag(self, name: str) -> None:
        self.names.append(name)
        self.answer.append({"Untagged": reference.parse(name).familiar})

    def delete(self, image_id: str) -> None:
        self.images.append(image_id)
        self.answer.append({"Deleted": image_id})


def short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def plan(
    image: ImageRecord,
    asked: str,
    name: Reference | None,
    images: dict[str, ImageRecord],
    in_use: InUse,
    *,
    force: bool,
    prune: bool,
) -> Removal:
    """asked: as the user wrote it; name: the reference it is, None when it is an id.

    Errors: Conflict, Docker's wording.
    """
    removal = Removal()
    left = [*image.tags, *image.digests]
    if name is not None:
        users = in_use(image.id)
        if not force and _is_single(left) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{asked}" (must force) -'
                f" container {short(users[0][0])} is using its referenced image {short(image.id)}"
            )
        removal.untag(name.canonical)
        left.remove(name.canonical)
        repository = name.repository
        if not name.digest and not any(item.startswith(repository + ":") for item in left):
            for item in [item for item in left if item.startswith(repository + "@")]:
                removal.untag(item)
                left.remove(item)
        if left:
            return removal
    elif _is_single(left):
        _check(image.id, [], images, in_use, soft=not force)
        for item in left:
            removal.untag(item)
        left = []
    _delete(removal, image, left, images, in_use, force=force, prune=prune)
    return removal


def _is_single(names: list[str]) -> bool:
    """At most one tag, and everything in one repository."""
    if len(names) <= 1:
        return True
    repositories = {reference.parse(name).repository for name in names}
    return len(repositories) == 1 and sum("@" not in name for name in names) <= 1


def _delete(
    removal: Removal,
    image: ImageRecord,
    left: list[str],
    images: dict[str, ImageRecord],
    in_use: InUse,
    *,
    force: bool,
    prune: bool,
) -> None:
    _check(
        image.id, left, {key: item for key, item in images.items() if key not in removal.images}, in_use, soft=not force
    )
    for name in left:
        removal.untag(name)
    removal.delete(image.id)
    parent = images.get(image.parent)
    while prune and parent is not None:
        if parent.tags or parent.digests or in_use(parent.id):
            return
        if any(item.parent == parent.id and key not in removal.images for key, item in images.items()):
            return
        removal.delete(parent.id)
        parent = images.get(parent.parent)


def _check(image_id: str, names: list[str], images: dict[str, ImageRecord], in_use: InUse, *, soft: bool) -> None:
    """Raise what stands against removing the image; what force overrides counts only when ``soft``."""
    if any(item.parent == image_id for item in images.values()):
        raise _conflict(image_id, "cannot be forced", "image has dependent child images")
    users = in_use(image_id)
    for container, running in users:
        if running:
            raise _conflict(
                image_id, "cannot be forced", f"image is being used by running container {short(container)}"
            )
    if soft and names:
        raise _conflict(image_id, "must be forced", "image is referenced in multiple repositories")
    if soft and users:
        raise _conflict(image_id, "must be forced", f"image is being used by stopped container {short(users[0][0])}")


def _conflict(image_id: str, how: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short(image_id)} ({how}) - {why}")
