"""Runs in the guest what the tests outside ask for, one command at a time, and says how it went.

The wire is a port of virtio-serial.  In and out go lines of JSON:

    in:   {"run": [...], "cwd": "/", "env": {...}, "timeout": seconds, "input": text}
          {"end": true}
    out:  {"ready": {"kernel": …, "init": …}}
          {"output": text}, {"report": {...}} (a line that the command wrote to descriptor $CORTEN_REPORT_FD)
          {"exit": code, "timed_out": bool}
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

PORT = "corten.agent"


def open_port() -> BinaryIO:
    for place in Path("/sys/class/virtio-ports").iterdir():
        if (place / "name").read_text().strip() == PORT:
            return open(f"/dev/{place.name}", "r+b", buffering=0)
    raise SystemExit(f"there is no port named {PORT}")


class Agent:
    def __init__(self, port: BinaryIO) -> None:
        self._port = port
        self._pending = b""

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[self._port.write(data) :]

    def listen(self) -> dict[str, Any]:
        while b"\n" not in self._pending:
            piece = self._port.read(65536)
            if not piece:
                return {"end": True}
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def serve(self) -> None:
        init = Path("/proc/1/comm").read_text().strip()
        self.say(ready={"kernel": os.uname().release, "init": init})
        while not (order := self.listen()).get("end"):
            self.run(order)

    def run(self, order: dict[str, Any]) -> None:
        reports_in, reports_out = os.pipe()
        environment = {**os.environ, "CORTEN_REPORT_FD": str(reports_out), **order.get("env", {})}
        try:
            process = subprocess.Popen(
                order["run"],
                cwd=order.get("cwd", "/"),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[reports_out],
                start_new_session=True,
            )
        except OSError as error:
            self.say(output=f"{error}\n")
            self.say(exit=127, timed_out=False)
            os.close(reports_in)
            return
        finally:
            os.close(reports_out)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(order.get("input", "").encode())
        process.stdin.close()
        timed_out = self._pump(process, reports_in, time.monotonic() + order.get("timeout", 60))
        self.say(exit=process.wait(), timed_out=timed_out)
        process.stdout.close()
        os.close(reports_in)

    def _pump(self, process: subprocess.Popen[bytes], reports: int, deadline: float) -> bool:
        """Pass on what it writes until it has ended; True when its time was up.

        A daemon that it started may hold the descriptors on: what counts is the end of the command itself.
        """
        assert process.stdout is not None
        pidfd = os.pidfd_open(process.pid)
        timed_out = ended = False
        unfinished = b""
        with selectors.DefaultSelector() as selector:
            for descriptor in (process.stdout.fileno(), reports, pidfd):
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                events = selector.select(0 if ended else max(deadline - time.monotonic(), 0))
                if not events:
                    if ended:
                        break
                    timed_out = ended = True
                    os.killpg(process.pid, signal.SIGKILL)
                    continue
                for key, _ in events:
                    if key.fd == pidfd:
                        ended = True
                        selector.unregister(pidfd)
                        continue
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fd)
                    elif key.fd == reports:
                        *lines, unfinished = (unfinished + piece).split(b"\n")
                        for line in lines:
                            self.say(report=json.loads(line))
                    else:
                        self.say(output=piece.decode(errors="replace"))
        os.close(pidfd)
        return timed_out


if __name__ == "__main__":
    Agent(open_port()).serve()
