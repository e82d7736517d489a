"""Moments as the documents and logs of an OCI runtime write them."""

from __future__ import annotations

import time


def now() -> str:
    """RFC 3339 in UTC, with microseconds."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"
