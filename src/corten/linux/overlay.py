"""Overlay mounts, detached or attached.

One ``lowerdir+`` at a time where the kernel takes it (Linux 6.8), so that neither the number of layers nor the length
of their paths is bound by a page of options; before that one ``lowerdir`` string.
Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from corten.linux import mapped_layers, root_pieces, user_namespace
from corten.linux import mount as kernel

MAXIMUM_LAYERS = 500  # OVL_MAX_STACK
_VALUE = 255  # of one fsconfig string
_PAGE = 4095  # of all options of mount(2)


def _release() -> tuple[int, ...]:
    numbers = os.uname().release.split("-", 1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


class _Support:
    """What this kernel's overlay takes; learnt at the first mount, but for what an older kernel writes to its log."""

    appended_layers = _release() >= (6, 5)
    detached_layers = True


def overlay_fd(
    lower: list[str],
    upper: str | None,
    work: str | None,
    options: list[str],
    *,
    read_only: bool = False,
    ids: int = -1,
) -> int:
    """A detached overlay mount.

    lower: topmost first; without upper the mount is read-only
    ids:   a user namespace whose ids the files are to have; -1 for those that they have
    """
    if len(lower) > 1 and root_pieces.needed(lower[-1]):
        return _root_fd(lower[:-1], upper, work, options, read_only=read_only)
    if len(lower) > 1 and _contains_others(lower, upper):
        with _apart(lower[-1], ids) as base:
            return overlay_fd([*lower[:-1], base], upper, work, options, read_only=read_only, ids=ids)
    if ids >= 0:
        return _mapped_fd(lower, upper, work, options, read_only=read_only, ids=ids)
    if len(lower) > MAXIMUM_LAYERS:
        raise OSError(errno.EINVAL, f"overlay: {len(lower)} layers, the kernel takes {MAXIMUM_LAYERS}")
    attributes = kernel.MOUNT_ATTR_RDONLY if read_only or upper is None else 0
    if upper is None and len(lower) == 1:
        descriptor = kernel.clone_tree(lower[0])
        kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_RDONLY)
        return descriptor
    if _Support.appended_layers:
        try:
            return _mount(lower, upper, work, options, attributes, appended=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            descriptor = _mount(lower, upper, work, options, attributes, appended=False)
            _Support.appended_layers = False
            return descriptor
    return _mount(lower, upper, work, options, attributes, appended=False)


def _root_fd(layers: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool) -> int:
    """The overlay on the machine's root, its pieces included."""
    parts = root_pieces.plan()
    descriptor = _skeleton_fd(parts, layers, upper, work, options, read_only=read_only)
    try:
        if _Support.detached_layers:
            _attach_pieces(descriptor, parts, layers, upper, work, options, read_only=read_only)
            return descriptor
        # only an attached mount takes others on kernels before 6.15
        with kernel.hidden_place("root") as place:
            kernel.attach(descriptor, place)
            _attach_pieces(descriptor, parts, layers, upper, work, options, read_only=read_only)
            whole = kernel.clone_tree(place, recursive=True)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return whole


def _skeleton_fd(
    parts: root_pieces.Plan,
    layers: list[str],
    upper: str | None,
    work: str | None,
    options: list[str],
    *,
    read_only: bool,
) -> int:
    """The overlay on the machine's root without its pieces."""
    skeleton = root_pieces.make_skeleton(parts)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, skeleton)
        if _Support.detached_layers:
            try:
                return overlay_fd([*layers, f"/proc/self/fd/{skeleton}"], upper, work, options, read_only=read_only)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _Support.detached_layers = False
        # before Linux 6.15 a layer must be mounted somewhere in sight; once the overlay holds it, it may go
        place = stack.enter_context(kernel.hidden_place("skeleton"))
        kernel.attach(skeleton, place)
        return overlay_fd([*layers, place], upper, work, options, read_only=read_only)


def _attach_pieces(
    root: int,
    parts: root_pieces.Plan,
    layers: list[str],
    upper: str | None,
    work: str | None,
    options: list[str],
    *,
    read_only: bool,
) -> None:
    above = [*layers] if upper is None else [upper, *layers]
    for path in parts.pieces:
        if root_pieces.visible(above, path) is None:
            continue
        shown = root_pieces.visible(layers, path) or []
        part, scratch = None, None
        if upper is not None and work is not None:
            part = root_pieces.make_upper(upper, path, layers)
            scratch = f"{work}.{path.replace('/', '.')}"
            os.makedirs(scratch, 0o700, exist_ok=True)
        piece = overlay_fd([*shown, f"/{path}"], part, scratch, options, read_only=read_only)
        try:
            place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            try:
                kernel.move_mount(piece, place)
            finally:
                os.close(place)
        finally:
            os.close(piece)


def _mapped_fd(
    lower: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool, ids: int
) -> int:
    for _ in range(2):
        try:
            with mapped_layers.mapped(lower, upper, work, ids, detached=_Support.detached_layers) as places:
                return overlay_fd(*places, options, read_only=read_only)
        except OSError as error:
            if error.errno != errno.EINVAL or not _Support.detached_layers:
                raise
            _Support.detached_layers = False
    raise AssertionError


def _contains_others(lower: list[str], upper: str | None) -> bool:
    """Whether the bottom layer is a directory above the others, such as "/"."""
    if lower[-1].startswith("/proc/"):
        return False
    base = os.path.realpath(lower[-1]).rstrip("/") + "/"
    return any(path.startswith(base) for path in [*lower[:-1], upper or ""])


@contextlib.contextmanager
def _apart(directory: str, ids: int) -> Iterator[str]:
    """A path that shows ``directory`` as a file system of its own, while the block runs.

    overlayfs refuses a layer below another layer of the same file system ("overlapping lowerdir path", ELOOP).  Seen
    through an overlay of its own, with an empty directory, the outer one is another file system.
    """
    empty = kernel.new_filesystem("tmpfs", "corten", ["size=4k", "mode=755"])
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, empty)
        if _Support.detached_layers:
            try:
                view = overlay_fd([directory, f"/proc/self/fd/{empty}"], None, None, [], ids=ids)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _Support.detached_layers = False
            else:
                stack.callback(os.close, view)
                yield f"/proc/self/fd/{view}"
                return
        # before Linux 6.15 a layer must be mounted somewhere in sight; once the outer overlay holds it, it may go
        place = stack.enter_context(kernel.hidden_place("base"))
        kernel.attach(empty, place)
        os.mkdir(f"{place}/empty")
        os.mkdir(f"{place}/view")
        view = overlay_fd([directory, f"{place}/empty"], None, None, [], ids=ids)
        stack.callback(os.close, view)
        kernel.attach(view, f"{place}/view")
        yield f"{place}/view"


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount(
    lower: list[str], upper: str | None, work: str | None, options: list[str], attributes: int, *, appended: bool
) -> int:
    settings = [f"lowerdir+={path}" for path in lower] if appended else [f"lowerdir={':'.join(map(_escape, lower))}"]
    if upper is not None and work is not None:
        settings += [f"upperdir={upper}", f"workdir={work}"]
    if not user_namespace.is_initial():
        # only the machine's root has trusted attributes; of the options that redirect, none works with users' own
        settings.append("userxattr")
    settings += options
    if not appended and any(len(os.fsencode(setting.partition("=")[2])) > _VALUE for setting in settings):
        return _mount_by_page(lower, settings[1:], attributes)
    return kernel.new_filesystem("overlay", "overlay", settings, attributes)


def _mount_by_page(lower: list[str], settings: list[str], attributes: int) -> int:
    """For long lists on kernels that take them as one string: only mount(2) takes more than 255 bytes of it.

    It needs a place in sight, for a moment.  A list that is longer than a page is told by descriptors.
    """
    with contextlib.ExitStack() as stack:
        layers = list(map(_escape, lower))
        # a label has commas in it, for which SELinux wants quotes
        settings = [f'context="{item[8:]}"' if item.startswith("context=") else item for item in settings]
        options = ",".join([f"lowerdir={':'.join(layers)}", *settings])
        if len(os.fsencode(options)) > _PAGE:
            for position, path in enumerate(lower):
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                layers[position] = f"/proc/self/fd/{descriptor}"
            options = ",".join([f"lowerdir={':'.join(layers)}", *settings])
        place = stack.enter_context(kernel.hidden_place("layers"))
        kernel.mount("overlay", place, "overlay", 0, options)
        descriptor = kernel.clone_tree(place)
        try:
            kernel.mount_setattr(descriptor, set_=attributes)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def overlay_mount(
    target: str,
    lower: list[str],
    upper: str | None,
    work: str | None,
    options: list[str],
    *,
    read_only: bool = False,
    ids: int = -1,
) -> None:
    """Attach an overlay at ``target``."""
    if len(lower) > 1 and root_pieces.needed(lower[-1]):
        parts = root_pieces.plan()
        descriptor = _skeleton_fd(parts, lower[:-1], upper, work, options, read_only=read_only)
        try:
            # only an attached mount takes others on kernels before 6.15
            kernel.attach(descriptor, target)
            _attach_pieces(descriptor, parts, lower[:-1], upper, work, options, read_only=read_only)
        except BaseException:
            with contextlib.suppress(OSError):
                kernel.umount2(target, kernel.MNT_DETACH)
            raise
        finally:
            os.close(descriptor)
        return
    descriptor = overlay_fd(lower, upper, work, options, read_only=read_only, ids=ids)
    try:
        kernel.attach(descriptor, target)
    finally:
        os.close(descriptor)
