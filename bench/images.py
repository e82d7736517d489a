"""Speed of images in and out: load, save, unpacking of small files and large ones.

    python bench/images.py [--mb 200] [--runs 5] [--directory /var/tmp]

Prints the median of the runs.  Bytes are those of the archive as it comes in; entries are members of a layer tar.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from corten.image.layer_apply import apply_layer
from corten.image.pipes import chunks_of
from corten.image.store import ImageStore
from corten.linux.user_namespace import Rights
from corten.snapshot import open_snapshotter


def layer_tar(files: int, size: int, seed: int) -> bytes:
    """A layer of ``files`` files of ``size`` bytes, half of it compressible, twenty to a directory."""
    random.seed(seed)
    buffer = io.BytesIO()
    block = random.randbytes(min(size, 1 << 20))
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(files):
            if number % 20 == 0:
                directory = tarfile.TarInfo(f"usr/share/part{seed}/group{number // 20}")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(directory)
            half = (block * (size // len(block) + 1))[: size // 2] if size else b""
            content = half + b"the quick brown fox " * ((size - len(half)) // 20 + 1)
            entry = tarfile.TarInfo(f"usr/share/part{seed}/group{number // 20}/file{number}")
            entry.size, entry.mtime = size, 1_700_000_000 + number
            archive.addfile(entry, io.BytesIO(content[:size]))
    return buffer.getvalue()


def docker_archive(layers: list[bytes], *, compressed: bool) -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        names = [f"layer{number}/layer.tar" for number in range(len(layers))]
        for name, layer in zip(names, layers, strict=True):
            add(name, gzip.compress(layer, 6) if compressed else layer)
        add("config.json", config)
        add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": names}]).encode())
    return buffer.getvalue()


def timed(runs: int, place: Path, work: Callable[[Path], None]) -> float:
    """Median seconds of ``work``, each time in an empty directory.

    Nothing is removed in between: ext4 without a journal is slow to give out inodes that were freed minutes ago.
    """
    times = []
    for number in range(runs):
        directory = Path(tempfile.mkdtemp(prefix=f"bench{number}-", dir=place))
        start = time.perf_counter()
        work(directory)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def store(directory: Path) -> ImageStore:
    return ImageStore(directory, open_snapshotter(directory), exec_root=directory / "exec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="corten-bench-", dir=options.directory) as name:
        measure(Path(name), options.mb, options.runs)


def measure(place: Path, mb: int, runs: int) -> None:
    small = layer_tar(20_000, 1500, 1)
    large = layer_tar(2, mb << 19, 2)
    for what, tar in (("20,000 files of 1.5 kB", small), ("2 large files", large)):

        def unpack(directory: Path, tar: bytes = tar) -> None:
            (directory / "diff").mkdir()
            apply_layer(chunks_of(io.BytesIO(tar)), directory / "diff", directory, overlay=True, rights=Rights.here())

        seconds = timed(runs, place, unpack)
        print(f"unpack {what}: {20_000 / seconds:,.0f} entries/s, {len(tar) / seconds / 1e6:,.0f} MB/s")
    # like a real image: a base of a few thousand files, a runtime of large ones
    mixed = [
        layer_tar(4000, 8 << 10, 3),
        layer_tar(40, (mb - 64) * (1 << 20) // 80, 4),
        layer_tar(40, (mb - 64) * (1 << 20) // 80, 5),
    ]
    for what, compressed in (("plain layers", False), ("gzip layers", True)):
        archive = docker_archive(mixed, compressed=compressed)
        plain = sum(map(len, mixed))
        loaded = timed(runs, place, lambda directory, archive=archive: load(directory, archive))
        print(
            f"load, {what}: {len(archive) / 1e6:.0f} MB in {loaded:.2f} s, {plain / loaded / 1e6:,.0f} MB/s of content"
        )
    directory = place / "save"
    directory.mkdir()
    images = store(directory)
    images.load(io.BytesIO(docker_archive(mixed, compressed=False)))
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        size = sum(map(len, images.save(["bench:1"])))
        times.append(time.perf_counter() - start)
    print(f"save: {size / statistics.median(times) / 1e6:,.0f} MB/s")
    images.close()


def load(directory: Path, archive: bytes) -> None:
    images = store(directory)
    images.load(io.BytesIO(archive))
    images.close()


if __name__ == "__main__":
    main()
