"""Container logs: how fast a program's output is written through its shim, and read back as frames.

    sudo python bench/logs.py [--megabytes 300] [--driver json-file] [--line 80]

Writing is timed from the start of a container that copies a file of short lines to its standard output until its exit
is known, so that it includes everything: pipe, shim, encoding, file.  Figures are megabytes (10**6) of the program's
output for writing, and of the log file for reading.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from shim_support import World, end

from corten.engine.shims import Shims
from corten.logdriver.reader import open_reader
from corten.logdriver.reading import ReadRequest

MEGABYTE = 10**6


def make_root(directory: Path, output: bytes) -> Path:
    """busybox and the file that will be copied."""
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "bin" / "cat").symlink_to("busybox")
    for name in ("proc", "dev", "etc"):
        (root / name).mkdir()
    (root / "output").write_bytes(output)
    return root


async def write_once(world: World, shims: Shims, driver: str, options: dict[str, str]) -> tuple[float, str]:
    """(seconds, where the log is)"""
    bundle = world.bundle()
    began = time.perf_counter()
    shim = await shims.start(bundle.start(bundle.spec("cat", "/output"), driver=driver, options=options))
    status = await shim.exited
    seconds = time.perf_counter() - began
    assert status.code == 0, status
    await end(shims, shim)
    return seconds, bundle.log_path


def size_of_text(driver: str, path: str) -> int:
    """Bytes of all files, compressed ones as they were before."""
    total = 0
    for name in Path(path).parent.glob(f"{Path(path).name}*"):
        if name.suffix == ".gz":
            with gzip.open(name) as packed:
                total += packed.seek(0, os.SEEK_END)
        else:
            total += name.stat().st_size
    return total


def read_once(driver: str, path: str, **request: object) -> float:
    began = time.perf_counter()
    reader = open_reader(driver, path, ReadRequest(**request))
    for _ in reader.chunks():
        pass
    reader.close()
    return time.perf_counter() - began


async def measure(arguments: argparse.Namespace, directory: Path) -> None:
    line = b"x" * (arguments.line - 1) + b"\n"
    if arguments.special:
        line = b'"<\xc3\xa9>\t'.ljust(arguments.line - 1, b"x") + b"\n"
    output = line * (arguments.megabytes * MEGABYTE // len(line))
    size = len(output) / MEGABYTE
    world = World(directory, make_root(directory, output))
    options = dict(item.split("=", 1) for item in arguments.log_opt)
    path = ""
    async with world.shims() as shims:
        seconds = []
        for _ in range(arguments.rounds):
            took, path = await write_once(world, shims, arguments.driver, options)
            seconds.append(took)
            if len(seconds) < arguments.rounds and path:
                shutil.rmtree(Path(path).parent, ignore_errors=True)
        rate = size / statistics.median(seconds)
        print(f"write {arguments.driver} {options or ''} {arguments.line}-byte lines: {rate:.0f} MB/s")
        if arguments.driver != "none":
            length = size_of_text(arguments.driver, path) / MEGABYTE
            for name, request in (
                ("frames", {}),
                ("one stream, raw", {"stderr": False, "framed": False}),
                ("timestamps", {"timestamps": True}),
                ("tail 1000", {"tail": 1000}),
            ):
                took = statistics.median(read_once(arguments.driver, path, **request) for _ in range(3))
                rate = f"{length / took:.0f} MB/s" if "tail" not in request else f"{took * 1000:.1f} ms"
                print(f"read {arguments.driver} {name}: {rate}")
            since = read_once(arguments.driver, path, since=time.time_ns())
            print(f"read {arguments.driver} --since now: {since * 1000:.1f} ms of {length:.0f} MB")
    world.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--line", type=int, default=80)
    parser.add_argument("--driver", default="json-file")
    parser.add_argument("--log-opt", action="append", default=[])
    parser.add_argument("--special", action="store_true", help="lines with quotes, tabs and letters that are not ASCII")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None, help="where the log is written")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="corten-bench-logs-", dir=arguments.directory))
    try:
        asyncio.run(measure(arguments, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
