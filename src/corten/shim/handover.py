"""What the maker of a container hands over to its shim: descriptors, a few numbers, how to log.

Marshalled rather than JSON: both are forks of one interpreter, and the shim keeps every page that it touches.  The
request itself comes along unread, for the few occasions that need it.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corten.shim.protocol import Packet
    from corten.shim.streams import Streams

RUNNING = b"running"
FAILED = b"failed"
READY = b"ready"

TTY, STDIN, STDIN_ONCE, DROP_SLOW, LOGGED, ORPHANS, FOREIGN = 1, 2, 4, 8, 16, 32, 64
WITH_STDIN, WITH_STDOUT, WITH_STDERR = 1, 2, 4

# a stream that is attached from the start: (WITH_… flags, detach keys)
Client = tuple[int, bytes]
# (driver, path, fields of LogOptions, attributes)
LogPlan = tuple[str, str, tuple[Any, ...], dict[str, str]]
# (pid, start time in ns, flags, clients, log, request as JSON); descriptors beside it: listener, memfd of the spec,
# then console or stdout, stderr and perhaps stdin, then one for each client
Handover = tuple[int, int, int, list[Client], LogPlan, bytes]


def pack(handover: Handover) -> bytes:
    return marshal.dumps(handover)


def unpack(packet: bytes) -> Handover:
    handover: Handover = marshal.loads(packet)
    return handover


def wants(description: dict[str, Any]) -> int:
    """Of "stdin", "stdout" and "stderr" as the daemon describes a client."""
    return (
        (WITH_STDIN if description["stdin"] else 0)
        | (WITH_STDOUT if description["stdout"] else 0)
        | (WITH_STDERR if description["stderr"] else 0)
    )


def attach(streams: Streams, packet: Packet) -> None:
    """The client that a packet describes, to what its program writes and reads; its socket comes with the packet."""
    header = packet.header
    streams.attach(packet.descriptors.pop(0), wants(header), bytes.fromhex(header["detach_keys"]))
