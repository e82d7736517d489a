"""Corten: a container engine for Linux.

>>> import corten
>>> client = corten.connect()                              # doctest: +SKIP
>>> client.containers.run("host", ["echo", "hello"])       # doctest: +SKIP
b'hello\\n'

Nothing heavy is imported here, so that ``import corten`` and the shim stay cheap: the SDK comes with its first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.client import Client as Client
    from corten.client import connect as connect


def __getattr__(name: str) -> object:
    if name in ("Client", "connect"):
        from corten.client import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
