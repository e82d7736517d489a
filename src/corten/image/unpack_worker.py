"""A process that unpacks layers for a daemon: one after the other, as they are asked for on its standard input.

Several layers that are unpacked by threads of one process wait for each other at every system call; processes do not.

Standard input is a stream socket.  A request is one line of JSON with the reading end of a pipe beside it: the blob's
bytes.  The answer is one line: what was made of them, or the error's kind and words.  The end of the input is the end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
from pathlib import Path
from typing import Any

from corten.errors import CortenError, SystemFailure
from corten.image.compression import Limits, decompressed
from corten.image.layer_apply import apply_layer
from corten.image.pipes import CHUNK, Hashed, read_ahead
from corten.linux import landlock
from corten.linux.user_namespace import Rights

_MAX_REQUEST = 64 << 10


def unpack(request: dict[str, Any], data: int) -> dict[str, Any]:
    """Unpack the blob that comes from a descriptor.  Errors: as ``apply_layer``."""
    blob = Hashed(lambda: os.read(data, CHUNK))
    compression, plain = decompressed(blob, Limits(*request["limits"]))
    content = Hashed(plain) if compression else None
    with read_ahead(content or plain) as chunks:
        stats = apply_layer(
            chunks,
            Path(request["target"]),
            Path(request["directory"]),
            overlay=request["overlay"],
            rights=Rights(*request["rights"]),
        )
    return {
        "diff_id": content.digest if content else blob.digest,
        "blob": blob.digest,
        "blob_size": blob.size,
        "compression": compression,
        "size": stats.size,
        "tar_size": stats.tar_size,
        "entries": stats.entries,
        "implied": [os.fsdecode(path) for path in stats.implied],
        "opaque_root": stats.opaque_root,
    }


def _answered(request: dict[str, Any], data: int) -> dict[str, Any]:
    try:
        return unpack(request, data)
    except SystemFailure as error:
        return {"error": "SystemFailure", "message": str(error), "step": error.step, "errno": error.errno}
    except CortenError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        return {"error": "OSError", "message": error.strerror or str(error), "errno": error.errno or 0}
    except Exception as error:
        return {"error": "SystemFailure", "message": f"unpacking failed: {type(error).__name__}: {error}", "errno": 0}
    finally:
        os.close(data)


def _confine(request: dict[str, Any]) -> None:
    """Nothing is written but layers, and nothing executed, whatever an archive might make of this process.

    All requests are of one snapshotter, whose layers lie beside each other.
    """
    with contextlib.suppress(OSError):
        landlock.confine_writes({str(Path(request[name]).parent) for name in ("target", "directory")})


def main() -> None:
    os.umask(0o022)
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of the time
    connection = socket.socket(fileno=0)
    confined = False
    while True:
        line, descriptors, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 1)
        if not line or not descriptors:
            return
        request = json.loads(line)
        if not confined:
            _confine(request)
            confined = True
        answer = json.dumps(_answered(request, descriptors[0]))
        connection.sendall(answer.encode() + b"\n")
