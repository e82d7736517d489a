"""Work inside network namespaces, done by short-lived threads: a namespace belongs to a thread (setns(2))."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from corten.linux import process

T = TypeVar("T")


def run_in_new(work: Callable[[], T]) -> T:
    """Do something in a network namespace that is made for it.  Errors: OSError, those of ``work``."""
    return _in_thread(lambda: process.unshare(process.CLONE_NEWNET), work)


def run_in(namespace: int, work: Callable[[], T]) -> T:
    """Do something in the network namespace of a descriptor.  Errors: OSError, those of ``work``."""
    return _in_thread(lambda: process.setns(namespace, process.CLONE_NEWNET), work)


def _in_thread(enter: Callable[[], None], work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            enter()
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="corten-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def current() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def write_sysctl(name: str, value: str) -> None:
    """Set a value of the calling thread's namespace, "net.ipv4.ip_forward".  Errors: OSError."""
    with open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
        file.write(value)
