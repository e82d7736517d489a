"""The Python SDK: an Engine API client over a socket.

>>> import corten
>>> client = corten.connect()                              # doctest: +SKIP
>>> client.containers.run("host", ["echo", "hello"])       # doctest: +SKIP
b'hello\\n'

Names are imported when they are used: the ``corten`` command needs only a part of this package.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.client.client import Client as Client
    from corten.client.client import connect as connect
    from corten.client.containers import Container as Container
    from corten.client.containers import ExecResult as ExecResult
    from corten.client.containers import ProgramFailed as ProgramFailed
    from corten.client.images import Image as Image
    from corten.client.networks import Network as Network
    from corten.client.volumes import Volume as Volume

_HOMES = {
    "Client": "client",
    "connect": "client",
    "Container": "containers",
    "ExecResult": "containers",
    "ProgramFailed": "containers",
    "Image": "images",
    "Network": "networks",
    "Volume": "volumes",
}
__all__ = ["Client", "Container", "ExecResult", "Image", "Network", "ProgramFailed", "Volume", "connect"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
