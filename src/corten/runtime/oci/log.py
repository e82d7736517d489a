"""What ``corten-oci`` tells besides its answer: errors and warnings."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from corten.runtime.oci.times import now


class Log:
    """Messages on standard error and in the file of ``--log``, in runc's form so that its callers can read them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._file: str = options.log
        self._json: bool = options.log_format == "json"

    def tell(self, level: str, message: str) -> None:
        # a caller that keeps a log may have given us the container's standard error
        if level == "error" or not self._file:
            sys.stderr.write(f"corten-oci: {message}\n")
        if not self._file:
            return
        if self._json:
            line = json.dumps({"level": level, "msg": message, "time": now()})
        else:
            line = f"time={json.dumps(now())} level={level} msg={json.dumps(message)}"
        with contextlib.suppress(OSError), open(self._file, "a") as file:
            file.write(f"{line}\n")
