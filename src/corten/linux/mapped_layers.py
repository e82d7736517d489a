"""Layers of an overlay as others see them: the same directories through id-mapped mounts.

overlayfs takes mounts with mapped ids as its layers, upper one included (Linux 5.19); it cannot be mapped itself.  One
such mount of the directory that holds all layers is enough.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from corten.linux import mount as kernel


@contextlib.contextmanager
def mapped(
    lower: list[str], upper: str | None, work: str | None, namespace: int, *, detached: bool
) -> Iterator[tuple[list[str], str | None, str | None]]:
    """(lower, upper, work) with the ids of a user namespace, while the block runs; descriptors are taken as they are.

    detached: the kernel takes layers from mounts that are nowhere in sight (Linux 6.15)
    Errors: OSError.
    """
    with contextlib.ExitStack() as stack:
        own = [path for path in (*lower, upper, work) if path is not None and not path.startswith("/proc/")]
        base = os.path.commonpath(own)
        device = os.stat(base).st_dev
        views: dict[str, str] = {}

        def view(directory: str) -> str:
            if directory not in views:
                views[directory] = stack.enter_context(_view(directory, namespace, detached=detached))
            return views[directory]

        def place(path: str) -> str:
            if path.startswith("/proc/"):
                return path
            real = os.path.realpath(path)
            if real.startswith(f"{base.rstrip('/')}/") and os.stat(real).st_dev == device:
                return f"{view(base)}/{os.path.relpath(real, base)}"
            # a mount of its own, such as one with a quota: upper and work must come from the same view
            return f"{view(os.path.dirname(real))}/{os.path.basename(real)}"

        yield (
            [place(path) for path in lower],
            None if upper is None else place(upper),
            None if work is None else place(work),
        )


@contextlib.contextmanager
def _view(directory: str, namespace: int, *, detached: bool) -> Iterator[str]:
    copy = kernel.clone_tree(directory)
    try:
        kernel.mount_setattr(copy, propagation=kernel.MS_PRIVATE)
        kernel.map_ids(copy, namespace, directory)
        if detached:
            yield f"/proc/self/fd/{copy}"
            return
        with kernel.hidden_place("mapped") as place:
            kernel.attach(copy, place)
            yield place
    finally:
        os.close(copy)
