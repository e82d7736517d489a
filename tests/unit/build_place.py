"""A place to build in without an engine: a real store, and a workshop whose programs are a few words."""

from __future__ import annotations

import io
import itertools
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corten.build.build import Build, Place
from corten.build.cache import StepCache
from corten.build.cache_locks import CacheLocks
from corten.build.context import Context
from corten.build.options import BuildOptions
from corten.build.workshop import Cancellation, Report, Step
from corten.cdi.catalogue import Found
from corten.errors import NotFound
from corten.image.pipes import iterated
from corten.image.store import ImageStore
from corten.snapshot.vfs import VfsSnapshotter


def archive(files: dict[str, Any], *, mtime: int = 1_600_000_000) -> bytes:
    """A tar.  Values: content, (content, mode), None for a directory, "-> x" for a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, value in files.items():
            content, mode = value if isinstance(value, tuple) else (value, 0o644)
            entry = tarfile.TarInfo(name)
            entry.mtime = mtime
            entry.mode = mode
            entry.uid = entry.gid = 1000
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, mode if isinstance(value, tuple) else 0o755
                content = b""
            elif isinstance(content, str) and content.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, content[3:]
                content = b""
            data = content.encode() if isinstance(content, str) else content
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


class FakeWorkshop:
    """Programs: "write PATH TEXT", "remove PATH", "say TEXT", "fail CODE", "hang", joined by ";".

    ran: the commands in the order they began; at_once: the most that ran side by side
    meet: programs "meet" wait here for each other
    """

    def __init__(self, snapshotter: VfsSnapshotter, store: Callable[[], ImageStore]) -> None:
        self._snapshotter = snapshotter
        self._store = store
        self._names = (f"{number:064x}" for number in itertools.count(1))
        self._lock = threading.Lock()
        self.ran: list[str] = []
        self.steps: list[Step] = []
        self.containers: set[str] = set()
        self.removed: list[str] = []
        self.meet = threading.Barrier(2)
        self.started = threading.Event()
        self.pulled: list[tuple[str, str]] = []
        self.registry: dict[str, bytes] = {}
        self.found = Found()

    def run(
        self,
        step: Step,
        started: Callable[[str], None],
        output: Callable[[bool, bytes], None],
        cancellation: Cancellation,
    ) -> tuple[str, int]:
        words = step.command[-1]
        with self._lock:
            name = next(self._names)
            self.ran.append(words)
            self.steps.append(step)
            self.containers.add(name)
        layers = self._store().get(step.image).layers
        self._snapshotter.create(name, layers[-1] if layers else None)
        started(name)
        self.started.set()
        code = 0
        for part in words.split(";"):
            action, _, rest = part.strip().partition(" ")
            code = code or self._act(self._snapshotter.upper_path(name), action, rest, output, cancellation)
        return name, code

    def _act(self, root: Path, action: str, rest: str, output: Any, cancellation: Cancellation) -> int:
        if action == "write":
            path, _, text = rest.partition(" ")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        elif action == "remove":
            (root / rest).unlink()
        elif action == "say":
            output(False, rest.encode() + b"\n")
        elif action == "complain":
            output(True, rest.encode() + b"\n")
        elif action == "meet":
            self.meet.wait(10)
        elif action == "hang":
            stopped = threading.Event()
            with cancellation.calling(stopped.set):
                assert stopped.wait(10)
            cancellation.check()
        elif action == "fail":
            return int(rest)
        return 0

    def devices(self) -> Found:
        return self.found

    def remove(self, container_id: str) -> None:
        self.containers.discard(container_id)
        self.removed.append(container_id)
        self._snapshotter.remove(container_id)

    def pull(self, reference: str, platform: str, report: Report, cancellation: Cancellation) -> None:
        self.pulled.append((reference, platform))
        if reference not in self.registry:
            raise NotFound(f"pull access denied for {reference}")
        report({"status": f"Pulling from {reference}"})
        self._store().archives.import_tar(io.BytesIO(self.registry[reference]), reference=reference)


class Workplace:
    """A store with an image "base", a cache, a workshop; ``again`` is what a new daemon finds."""

    def __init__(self, directory: Path) -> None:
        self.data_root = directory / "data"
        self.data_root.mkdir()
        self.host_root = directory / "host"
        self.host_root.mkdir()
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self.open()
        base = archive({
            "bin": None, "bin/sh": ("#!", 0o755), "etc": None, "lib": "-> usr/lib", "usr": None, "usr/lib": None,
            "etc/passwd": "root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n", "srv": (None, 0o700),
            "etc/group": "root:x:0:\nbob:x:1001:\nextra:x:50:\n", "loop": "-> loop", "out": "-> ../../../etc",
        })  # fmt: skip
        self.store.archives.import_tar(io.BytesIO(base), reference="base:latest", changes=["ENV PATH=/bin", "CMD sh"])

    def open(self) -> None:
        self.snapshotter = VfsSnapshotter(self.data_root)
        self.store = ImageStore(
            self.data_root, self.snapshotter, exec_root=self.data_root / "run", host_root=str(self.host_root)
        )
        self.cache = StepCache(self.data_root / "build.db", self._has)
        self.workshop = FakeWorkshop(self.snapshotter, lambda: self.store)
        caches = self.data_root / "mounts"
        caches.mkdir(exist_ok=True)
        secrets = self.scratch.parent / "secrets"
        self.place = Place(
            self.store, self.cache, self.workshop, self.scratch, secrets, caches, CacheLocks(), threading.Semaphore(4)
        )

    def close(self) -> None:
        self.cache.close()
        self.store.close()

    def again(self) -> None:
        self.close()
        self.open()

    def _has(self, image: str) -> bool:
        try:
            self.store.get(image)
        except NotFound:
            return False
        return True

    def context(self, files: dict[str, Any], mtime: int = 1_600_000_000) -> Context:
        context = Context(self.scratch)
        context.read_tar(iterated([archive(files, mtime=mtime)]))
        context.ignore("Dockerfile")
        return context

    def start(self, dockerfile: str, files: dict[str, Any] | None = None, **options: Any) -> Run:
        return Run(self, dockerfile, files or {}, options)

    def build(self, dockerfile: str, files: dict[str, Any] | None = None, **options: Any) -> Run:
        """Build to the end; errors are raised."""
        run = self.start(dockerfile, files, **options)
        run.finish()
        return run

    def tree(self, image: str) -> dict[str, Any]:
        """path -> content, "-> link" or (mode, uid, gid) of a directory."""
        layers = self.store.get(image).layers
        top = self.snapshotter.diff_path(layers[-1])
        found: dict[str, Any] = {}
        for path in sorted(top.rglob("*")):
            name = str(path.relative_to(top))
            status = path.lstat()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[name] = (status.st_mode & 0o7777, status.st_uid, status.st_gid)
            else:
                found[name] = path.read_bytes().decode()
        return found

    def stat(self, image: str, name: str) -> tuple[int, int, int, int]:
        """(mode, uid, gid, mtime in seconds)"""
        status = (self.snapshotter.diff_path(self.store.get(image).layers[-1]) / name).lstat()
        return status.st_mode & 0o7777, status.st_uid, status.st_gid, int(status.st_mtime)


class Run:
    """One build.  documents: what clients are told; image: the result's id"""

    def __init__(self, workplace: Workplace, dockerfile: str, files: dict[str, Any], options: dict[str, Any]) -> None:
        self.cancellation = Cancellation()
        mtime = options.pop("mtime", 1_600_000_000)
        named = options.pop("named", None)
        self.context = workplace.context({"Dockerfile": dockerfile, **files}, mtime)
        self.documents: list[dict[str, Any]] = []
        self.build = Build(workplace.place, BuildOptions(**options), self.context, self.cancellation, named=named)
        self.image = ""

    def finish(self) -> None:
        try:
            for document in self.build.documents():
                self.documents.append(document)
        finally:
            self.context.close()
        self.image = self.build.image

    @property
    def text(self) -> str:
        return "".join(document.get("stream", "") for document in self.documents)

    @property
    def cached(self) -> int:
        return self.text.count("---> Using cache")
