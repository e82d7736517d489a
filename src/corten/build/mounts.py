"""``RUN --mount``: files of the context, of stages and images, caches, scratch space and secrets while a step runs.

None of it becomes part of the layer: also the places where they were mounted go again, unless the image had them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from corten.build.cache import key_of
from corten.build.contexts import narrowed
from corten.build.layer_tar import LayerTar, Wanted
from corten.build.selection import Source, digest_of, inside
from corten.build.ssh_agent import forwarded
from corten.build.tree import RootTree, Tree, resolve
from corten.build.workshop import StepMount
from corten.dockerfile import instructions as ins
from corten.dockerfile.ignore import Ignore
from corten.errors import InvalidParameter, NotFound
from corten.image import run_config
from corten.image.archive import untar_into
from corten.image.pipes import iterated
from corten.linux import paths

if TYPE_CHECKING:
    from corten.build.stage import StageRun

NEW_CACHE = ".new-"  # a directory of a cache mount that is not complete
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}
_KNOWN = {
    "bind": {"target", "dst", "destination", "source", "src", "from", "rw", "readwrite", "ro", "readonly"},
    "cache": {
        *("id", "target", "dst", "destination", "ro", "readonly", "sharing", "from", "source", "src"),
        *("mode", "uid", "gid", "rw", "readwrite"),
    },
    "tmpfs": {"target", "dst", "destination", "size"},
    "secret": {"id", "target", "dst", "destination", "required", "mode", "uid", "gid", "src", "source", "env"},
    "ssh": {"id", "target", "dst", "destination", "required", "mode", "uid", "gid"},
}


class RunMounts:
    """The mounts of one RUN.

    inputs: what the cache's key needs of them: contents of binds, places of the others
    has_files: there are binds
    environment: "NAME=value" of secrets and agents, known after ``prepare``
    """

    def __init__(self, run: StageRun, instruction: ins.Run) -> None:
        """Errors: InvalidParameter, NotFound (source, secret)."""
        self._run = run
        self._build = run.build
        self._mounts = [self._read(mount, instruction) for mount in instruction.mounts]
        self.has_files = any(mount["type"] == "bind" for mount in self._mounts)
        self._missing: list[str] = []
        self.environment: list[str] = []
        self._script: tuple[str, bytes] | None = None
        self.inputs: dict[str, str] = {}
        for mount in self._mounts:
            self.inputs[f"mount {mount['target'] or mount['env']}"] = self._input(mount)

    def _read(self, mount: ins.Mount, instruction: ins.Run) -> dict[str, str]:
        """The options under one name each, variables replaced; "type" and "target" are always there."""
        found = {"type": mount.type}
        for name, text in mount.options.items():
            if name not in _KNOWN[mount.type]:
                raise instruction.line.error(f"unexpected key '{name}' in '{mount.type}' mount", name)
            value = text if name == "from" else self._run.word(text)
            name = {"dst": "target", "destination": "target", "src": "source"}.get(name, name)
            name = {"readonly": "ro", "readwrite": "rw"}.get(name, name)
            if name in ("ro", "rw", "required"):
                if value.lower() not in ("", "true", "false", "1", "0"):
                    raise instruction.line.error(f"invalid value for {name}: {value}", name)
                value = "true" if value.lower() in ("", "true", "1") else "false"
            found[name] = value
        if mount.type in ("bind", "cache") and found.get("source"):
            found["source"] = inside(f"/{found['source']}")
        if mount.type == "secret":
            found.setdefault(
                "id", os.path.basename(found.get("target") or found.get("source") or "") or found.get("env", "")
            )
            if found.get("env") and "target" not in found:
                return {**found, "target": ""}  # the variable alone
            found.setdefault("target", f"/run/secrets/{found['id']}")
        if mount.type == "ssh":
            found.setdefault("target", "/run/buildkit/ssh_agent.0")
        if not found.get("target"):
            raise instruction.line.error(f"{mount.type} mount needs a target", "--mount")
        found["target"] = run_config.joined(self._run.state.run, found["target"])
        if found["target"] == "/":
            raise instruction.line.error(f"invalid mount target: {found['target']}", "--mount")
        return found

    def _input(self, mount: dict[str, str]) -> str:
        kind = mount["type"]
        if kind != "bind":
            return key_of(kind, mount.get("id", ""), mount["target"], mount.get("size", ""), mount.get("env", ""))
        image = self._origin(mount)
        options = repr((mount.get("source", ""), mount.get("rw", "")))
        if image is not None:
            return key_of("image", image, options)
        source = self._context_source(mount)
        return key_of("context", digest_of(source, Ignore(())), options)

    def _origin(self, mount: dict[str, str]) -> str | None:
        """The image id that ``from`` means; None for the context, and for one with a name."""
        name = mount.get("from", "")
        if not name or self._build.named.tree(name) is not None:
            return None
        number = self._build.graph.stage_of(name, self._run.stage.number)
        if number is not None:
            return self._build.result_of(number).image
        return self._build.images.other_image(name, self._run.tell).id

    def _context_source(self, mount: dict[str, str]) -> Source:
        path = mount.get("source", "")
        tree = narrowed(self._build.named.tree(mount.get("from", "")) or self._build.context, [path])
        found = resolve(tree, path)
        if found is None:
            raise NotFound(f"failed to compute cache key: {path!r} of --mount is not in the build context")
        return Source(tree, found[0], found[1], found[0].rpartition("/")[2] or "context")

    def add_script(self, name: str, content: bytes) -> None:
        self._script = (name, content)

    # -- for the time of the step -------------------------------------------------------------------------------------

    def prepare(self, stack: contextlib.ExitStack) -> tuple[StepMount, ...]:
        """What to mount; what was made for it goes with the stack.

        Errors: InvalidParameter, NotFound (a required secret), OSError.
        """
        self._lock_caches(stack)
        listed = [made for mount in self._mounts if (made := self._prepare(mount, stack)) is not None]
        if self._script is not None:
            name, content = self._script
            place = stack.enter_context(self._build.scratch_directory())
            self._write(place, name, content, 0o755, (0, 0))
            listed.append(StepMount(type="bind", target="/dev/pipes", source=place))
        if listed:
            with self._run.root() as root:
                self._missing = [place for mount in listed if (place := _missing(root, mount.target))]
        return tuple(listed)

    def _prepare(self, mount: dict[str, str], stack: contextlib.ExitStack) -> StepMount | None:
        target = mount["target"]
        kind = mount["type"]
        if kind == "tmpfs":
            return StepMount(type="tmpfs", target=target, size=_size(mount.get("size", "")), read_only=False)
        if kind == "cache":
            return self._cache(mount, stack)
        if kind == "secret":
            return self._secret(mount, stack)
        if kind == "ssh":
            return self._agent(mount, stack)
        return self._bind(mount, stack)

    def _agent(self, mount: dict[str, str], stack: contextlib.ExitStack) -> StepMount | None:
        name = mount.get("id") or "default"
        agent = self._build.options.agents.get(name)
        if agent is None:
            if mount.get("required") == "true":
                raise NotFound(f"RUN --mount=type=ssh: the client forwards no agent {name} (build with --ssh {name})")
            return None
        place = stack.enter_context(self._build.secret_directory())
        owner = (_number(mount, "uid", 0), _number(mount, "gid", 0))
        socket = stack.enter_context(forwarded(agent, place, _octal(mount, 0o600), owner))
        if not any(item.startswith("SSH_AUTH_SOCK=") for item in self.environment):
            self.environment.append(f"SSH_AUTH_SOCK={mount['target']}")
        return StepMount(type="bind", target=mount["target"], source=socket, read_only=False)

    def _bind(self, mount: dict[str, str], stack: contextlib.ExitStack) -> StepMount:
        target = mount["target"]
        writable = mount.get("rw") == "true" or mount.get("ro") == "false"
        image = self._origin(mount)
        if image is None:
            source = self._context_source(mount)
            place = stack.enter_context(self._copied(source))
            return StepMount(type="bind", target=target, source=place, read_only=not writable)
        if not writable:
            return StepMount(type="image", target=target, source=image, subpath=mount.get("source", ""))
        place = stack.enter_context(self._copied(self._source(mount, stack)))
        return StepMount(type="bind", target=target, source=place, read_only=False)

    def _source(self, mount: dict[str, str], stack: contextlib.ExitStack) -> Source:
        """What ``source`` means in what ``from`` names; valid as long as the stack."""
        image = self._origin(mount)
        if image is None:
            return self._context_source(mount)
        layers = self._build.store.get(image).layers if image else ()
        if not layers:
            raise NotFound(f"--mount=from={mount['from']}: the image has no files")
        tree = RootTree(stack.enter_context(self._build.store.snapshotter.open_layer(layers[-1])))
        stack.callback(tree.close)
        found = resolve(tree, mount.get("source", ""))
        if found is None:
            raise NotFound(f"--mount: {mount.get('source')} is not in {mount['from']}")
        return Source(tree, found[0], found[1], found[0].rpartition("/")[2] or "root")

    @contextlib.contextmanager
    def _copied(self, source: Source) -> Iterator[str]:
        """A directory or file of the host with the source's content, of this step alone."""
        with self._build.scratch_directory() as place:
            self._unpack(source, place)
            yield place if source.node.is_directory else f"{place}/{source.name}"

    def _unpack(self, source: Source, place: str | Path) -> None:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        tar = LayerTar(Wanted([source], "/", True, self._build.now_ns()), None)
        try:
            with contextlib.closing(tar.chunks()) as chunks:
                untar_into(descriptor, _Stream(self._watched(chunks)))
        finally:
            os.close(descriptor)

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._build.cancellation.check()
            yield chunk

    def _cache_name(self, mount: dict[str, str]) -> str:
        namespace = filter(None, (self._build.options.cache_namespace,))
        return key_of("cache", *namespace, mount.get("id") or mount["target"])[:32]

    def _lock_caches(self, stack: contextlib.ExitStack) -> None:
        """Each once, and in the same order for all steps: two that want the same caches cannot wait for each other."""
        locked = [item for item in self._mounts if item["type"] == "cache" and item.get("sharing") == "locked"]
        for name in sorted({self._cache_name(mount) for mount in locked}):
            stack.enter_context(self._build.locks.locked(name, self._build.cancellation))

    def _cache(self, mount: dict[str, str], stack: contextlib.ExitStack) -> StepMount:
        build = self._build
        if mount.get("source") and not mount.get("from"):
            raise InvalidParameter("--mount=type=cache: source is a place in what from names")
        sharing = mount.get("sharing") or "shared"
        name = self._cache_name(mount)
        if sharing == "private":
            name = stack.enter_context(build.locks.private(name))
        elif sharing == "shared":
            stack.enter_context(build.locks.shared(name))
        elif sharing != "locked":
            raise InvalidParameter(f"invalid sharing mode of a cache mount: {sharing}")
        place = build.cache_directory / name
        if not place.is_dir():
            self._begin_cache(mount, place, stack)
        build.cache.use_mount(name, f"mount / from cache {mount.get('id') or mount['target']}")
        return StepMount(
            type="bind", target=mount["target"], source=str(place / "data"), read_only=mount.get("ro") == "true"
        )

    def _begin_cache(self, mount: dict[str, str], place: Path, stack: contextlib.ExitStack) -> None:
        """A new cache is empty, or what ``from`` and ``source`` have; of two that begin at once one is taken."""
        fresh = place.with_name(f"{NEW_CACHE}{secrets.token_hex(8)}")
        inside = fresh / "data"
        try:
            fresh.mkdir(mode=0o700, parents=True)
            inside.mkdir()
            if mount.get("from"):
                source = self._source(mount, stack)
                if not source.node.is_directory:
                    raise InvalidParameter(f"--mount=type=cache: {mount.get('source')} is no directory")
                self._unpack(source, inside)
            os.chown(inside, _number(mount, "uid", 0), _number(mount, "gid", 0))
            inside.chmod(_octal(mount, 0o755))
            fresh.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _secret(self, mount: dict[str, str], stack: contextlib.ExitStack) -> StepMount | None:
        content = self._build.options.secrets.get(mount["id"])
        if content is None:
            if mount.get("required") == "true":
                raise NotFound(f"secret {mount['id']}: not found")
            return None
        if mount.get("env"):
            self.environment.append(f"{mount['env']}={content.decode('utf-8', 'surrogateescape')}")
            if not mount["target"]:
                return None
        place = stack.enter_context(self._build.secret_directory())
        owner = (_number(mount, "uid", 0), _number(mount, "gid", 0))
        self._write(place, "secret", content, _octal(mount, 0o400), owner)
        return StepMount(type="bind", target=mount["target"], source=f"{place}/secret")

    @staticmethod
    def _write(place: str, name: str, content: bytes, mode: int, owner: tuple[int, int]) -> None:
        path = os.path.join(place, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def clean(self, container_id: str) -> None:
        """Take the places of mounts out of what the container changed: only empty ones that the image did not have."""
        if not self._missing:
            return
        upper = os.open(
            self._build.store.snapshotter.upper_path(container_id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        )
        try:
            for place in sorted(self._missing, key=len, reverse=True):
                _remove_empty(upper, place)
        finally:
            os.close(upper)


class _Stream:
    """An iterator as the file that archives are read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._next = iterated(chunks)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        data = self._rest or self._next()
        if 0 <= size < len(data):
            data, self._rest = data[:size], data[size:]
        else:
            self._rest = b""
        return data


def _missing(root: Tree | None, target: str) -> str:
    """What is there of a place, a NUL byte, and what is not; "" when all of it is there."""
    parts = [part for part in target.split("/") if part]
    real = ""
    for position, part in enumerate(parts):
        found = resolve(root, f"{real}/{part}") if root is not None else None
        if found is None:
            return f"{real}\0{'/'.join(parts[position:])}"
        real = found[0]
    return ""


def _remove_empty(upper: int, place: str) -> None:
    above, _, rest = place.partition("\0")
    parts = rest.split("/")
    for count in range(len(parts), 0, -1):
        directory = "/".join(filter(None, [above, *parts[: count - 1]]))
        try:
            parent = paths.openat2(
                upper,
                directory or ".",
                os.O_RDONLY | os.O_DIRECTORY,
                resolve=paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS,
            )
        except OSError:
            return
        try:
            name = parts[count - 1]
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=parent)
            elif stat.S_ISREG(status.st_mode) and not status.st_size:
                os.unlink(name, dir_fd=parent)
            else:
                return
        except OSError:
            return  # the program has put something there: then it belongs to the layer
        finally:
            os.close(parent)


def _size(text: str) -> int:
    digits = text.rstrip("kKmMgGbB")
    unit = text[len(digits) :].lower()
    if not text:
        return 0
    if not (digits.isascii() and digits.isdigit()) or unit not in _SIZES:
        raise InvalidParameter(f"invalid value for size: {text}")
    return int(digits) * _SIZES[unit]


def _number(mount: dict[str, str], name: str, default: int) -> int:
    text = mount.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) > (1 << 32) - 2:
        raise InvalidParameter(f"invalid value for {name}: {text}")
    return int(text)


def _octal(mount: dict[str, str], default: int) -> int:
    text = mount.get("mode", "")
    if not text:
        return default
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o7777:
        raise InvalidParameter(f"invalid value {text} for mode")
    return value
