"""What the API itself costs, beside Debian's dockerd in the same run.

usage: bench/api.py [--containers N] [--running N] [--streams N] [--no-docker]

Memory of many followers of logs and of idle attaches; containers/json with N containers of which some run; _ping from 8
connections, and the slowest hundredth of its answers while others make and remove containers and send what is broken;
one byte there and back through an attached terminal.  Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import threading
import time

from engines import IMPORT_BUSYBOX, Connection, Engine, busybox_tar, describe_machine, memory, print_table, running

PING_S = 2.0
PINGERS = 8


def listing(engine: Engine, runs: int) -> float:
    """Median milliseconds of containers/json?all=1."""
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        engine.call("GET", "/containers/json?all=1")
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def pings(engine: Engine) -> float:
    """Answers a second over kept connections."""
    counts = [0] * PINGERS
    end = time.monotonic() + PING_S

    def ask(number: int) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(engine.socket))
        while time.monotonic() < end:
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"OK"):
                answer += sock.recv(4096)
            counts[number] += 1
        sock.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(PINGERS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - begun)


BROKEN = (
    ("POST", "/containers/create", b'{"Image":'),
    ("POST", "/containers/create", b'{"Image": 5, "HostConfig": []}'),
    ("POST", "/volumes/create", b"[" * 100_000),
    ("GET", "/containers/..%2f..%2fetc/json", None),
    ("GET", "/containers/json?filters=%7B", None),
    ("GET", "/v99.9/info", None),
)


def disturb(engine: Engine, stopping: threading.Event) -> None:
    """Make and remove containers, and send what is refused, until told to stop."""
    while not stopping.is_set():
        container = engine.create(["true"])
        engine.call("POST", f"/containers/{container}/start")
        for method, path, body in BROKEN:
            connection = Connection(str(engine.socket))
            connection.request(method, path, body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            connection.close()
        engine.call("DELETE", f"/containers/{container}?force=1")


def slowest_pings(engine: Engine, count: int = 500) -> float:
    """Milliseconds that the slowest hundredth of _ping takes at least, beside four clients that disturb."""
    stopping = threading.Event()
    others = [threading.Thread(target=disturb, args=(engine, stopping)) for _ in range(4)]
    for other in others:
        other.start()
    times = []
    try:
        for _ in range(count):
            begun = time.perf_counter()
            engine.call("GET", "/_ping")
            times.append(time.perf_counter() - begun)
            time.sleep(0.01)
    finally:
        stopping.set()
        for other in others:
            other.join()
    return statistics.quantiles(times, n=100)[98] * 1000


def open_stream(engine: Engine, method: str, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(engine.socket))
    upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if method == "POST" else ""
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}Content-Length: 0\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(1)
    if int(answer.split()[1]) not in (101, 200):
        raise RuntimeError(answer.decode())
    return sock


def streams(engine: Engine, container: str, count: int) -> float:
    """MB that the daemon's own process grows by with so many followers and so many idle attaches."""
    before = memory([engine.processes[-1].pid], "Pss")
    opened = []
    for _ in range(count):
        opened.append(open_stream(engine, "GET", f"/containers/{container}/logs?follow=1&stdout=1"))
        opened.append(open_stream(engine, "POST", f"/containers/{container}/attach?stream=1&stdout=1"))
    time.sleep(1)
    grown = memory([engine.processes[-1].pid], "Pss") - before
    for sock in opened:
        sock.close()
    return grown


def round_trip(engine: Engine, runs: int = 200) -> float:
    """Median milliseconds from a byte written to the program's input to the byte that it writes."""
    body = {
        "Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "AttachStdin": True,
        "HostConfig": {"NetworkMode": "none"},
    }  # fmt: skip
    container = json.loads(engine.call("POST", "/containers/create", body))["Id"]
    sock = open_stream(engine, "POST", f"/containers/{container}/attach?stream=1&stdin=1&stdout=1")
    engine.call("POST", f"/containers/{container}/start")
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        sock.sendall(b"x\n")
        answer = b""
        while len(answer) < 10:  # a frame's head of 8 bytes and the line
            answer += sock.recv(64)
        times.append(time.perf_counter() - begun)
    sock.close()
    engine.call("DELETE", f"/containers/{container}?force=1")
    return statistics.median(times) * 1000


def measure(engine: Engine, wanted: argparse.Namespace) -> dict[str, str]:
    made = [engine.create(["sleep", "3600"])]
    try:
        engine.call("POST", f"/containers/{made[0]}/start")
        # first: later the memory of other work is free for it
        grown = streams(engine, made[0], wanted.streams)
        for _ in range(wanted.containers - 1):
            made.append(engine.create(["sleep", "3600"]))
        for container in made[1 : wanted.running]:
            engine.call("POST", f"/containers/{container}/start")
        return {
            f"containers/json, {wanted.containers} of which {wanted.running} run": f"{listing(engine, 20):.1f} ms",
            f"_ping from {PINGERS} clients": f"{pings(engine):.0f} /s",
            "slowest hundredth of _ping beside other work": f"{slowest_pings(engine):.0f} ms",
            f"memory for {wanted.streams} followers and {wanted.streams} attaches": f"{grown:.1f} MB",
            "a byte there and back": f"{round_trip(engine):.2f} ms",
        }
    finally:
        for container in made:
            engine.call("DELETE", f"/containers/{container}?force=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--no-docker", action="store_true")
    wanted = parser.parse_args()
    with running(docker=not wanted.no_docker) as engines:
        table: dict[str, dict[str, str]] = {}
        for engine in engines:
            engine.call("POST", IMPORT_BUSYBOX, raw=busybox_tar())
            for what, figure in measure(engine, wanted).items():
                table.setdefault(what, {})[engine.name] = figure
        print(describe_machine())
        print()
        print_table([engine.name for engine in engines], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
