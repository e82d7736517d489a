"""WORKDIR makes its directory when the image has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corten.build.layer_tar import LayerTar, Wanted
from corten.build.owners import find_owner
from corten.build.tree import Tree
from corten.errors import InvalidParameter
from corten.image.pipes import iterated

if TYPE_CHECKING:
    from corten.image.intake import Intake
    from corten.image.layers import Staged
    from corten.image.metadata import Layer


def stage_directory(
    intake: Intake, parent: Layer | None, root: Tree | None, path: str, now_ns: int, *, user: str
) -> Staged | None:
    """A layer with the directory and those above it; None when it is there.

    user: whose they are, "user[:group]"; "" for root
    Errors: Conflict when something else is there.
    """
    tar = LayerTar(Wanted((), path, True, now_ns, owner=_owner(user, root)), root)
    made = tar.directory_only()
    if made is None:
        return None
    return intake.stage(iterated(made), parent)


def _owner(user: str, root: Tree | None) -> tuple[int, int] | None:
    try:
        return find_owner(user, root) if user else None
    except InvalidParameter:
        return None  # a user that is not there can do no harm before somebody runs as it
