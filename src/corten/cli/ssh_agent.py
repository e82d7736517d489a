"""A small ssh agent: it lists keys of files and signs with them, while the command runs that has read them.

Source: draft-miller-ssh-agent.  Whatever else is asked of it (adding, removing, locking, extensions) it refuses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence

from corten.cli.ssh_keys import Key, string

FAILURE, REQUEST_IDENTITIES, IDENTITIES_ANSWER, SIGN_REQUEST, SIGN_RESPONSE = 5, 11, 12, 13, 14
_MAX_MESSAGE = 256 << 10  # as OpenSSH's agent
_CONNECTIONS = 64


def answer(keys: Sequence[Key], message: bytes) -> bytes:
    """To one message, without its length."""
    kind, rest = message[:1], message[1:]
    if kind == bytes([REQUEST_IDENTITIES]) and not rest:
        listed = b"".join(string(key.blob) + string(key.comment.encode("utf-8", "surrogateescape")) for key in keys)
        return bytes([IDENTITIES_ANSWER]) + len(keys).to_bytes(4, "big") + listed
    if kind == bytes([SIGN_REQUEST]):
        fields = _sign_request(rest)
        key = next((key for key in keys if fields and key.blob == fields[0]), None)
        signature = key.sign(fields[1], fields[2]) if key is not None and fields is not None else None
        if signature is not None:
            return bytes([SIGN_RESPONSE]) + string(signature)
    return bytes([FAILURE])


def _sign_request(rest: bytes) -> tuple[bytes, bytes, int] | None:
    """(public key, what to sign, flags)"""
    found = []
    for _ in range(2):
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size:
            return None
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return (found[0], found[1], int.from_bytes(rest, "big")) if len(rest) == 4 else None


@contextlib.contextmanager
def serving(keys: Sequence[Key]) -> Iterator[str]:
    """The path of a socket of an agent with these keys, in a directory of this user alone, within the block."""
    directory = tempfile.mkdtemp(prefix="corten-ssh-")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listener.bind(f"/proc/self/fd/{place}/agent")  # the kernel takes 108 bytes of a path
            finally:
                os.close(place)
            listener.listen(16)
            threading.Thread(target=_accept, args=(listener, keys), name="ssh-agent", daemon=True).start()
            try:
                yield f"{directory}/agent"
            finally:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for the next one
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _accept(listener: socket.socket, keys: Sequence[Key]) -> None:
    free = threading.Semaphore(_CONNECTIONS)
    while True:
        free.acquire()
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, keys, free), name="ssh-agent-client", daemon=True).start()


def _serve(client: socket.socket, keys: Sequence[Key], free: threading.Semaphore) -> None:
    try:
        with client, client.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                size = int.from_bytes(head, "big")
                if not 0 < size <= _MAX_MESSAGE:
                    return
                message = stream.read(size)
                if len(message) < size:
                    return
                client.sendall(string(answer(keys, message)))
    except OSError:
        pass  # the client has gone
    finally:
        free.release()
