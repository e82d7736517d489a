"""How errors are worded on standard error."""

from __future__ import annotations

from corten.client.failures import is_from_daemon
from corten.errors import CortenError


def describe(error: CortenError) -> str:
    """An error as it is printed: what the daemon said is marked as such."""
    return f"Error response from daemon: {error}" if is_from_daemon(error) else str(error)
