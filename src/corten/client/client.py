"""``Client``: a daemon with its containers, images, networks and volumes."""

from __future__ import annotations

from corten.client import address
from corten.client.api import Api
from corten.client.containers import Containers
from corten.client.images import Images
from corten.client.networks import Networks
from corten.client.system import System
from corten.client.transport import is_listening
from corten.client.volumes import Volumes


class Client:
    """One daemon.  Nothing is kept open between calls: a client may be shared between threads and needs no closing.

    host: ``unix:///path`` or ``tcp://host:port``; without it ``CORTEN_HOST``, else this user's default socket
    tls:  of TCP; without it ``CORTEN_TLS_VERIFY``, ``CORTEN_TLS`` and ``CORTEN_CERT_PATH`` decide

    Errors: InvalidParameter for a bad host.  The first call raises Unavailable when nobody listens.

    >>> client = Client("unix:///run/corten/corten.sock")
    >>> client.containers.run("host", ["echo", "hello"])             # doctest: +SKIP
    b'hello\\n'
    >>> [image.tags for image in client.images.list()]               # doctest: +SKIP
    [('host:latest',)]
    """

    def __init__(self, host: str = "", tls: address.Tls | None = None) -> None:
        self.api = Api(host, tls)
        self.containers = Containers(self.api)
        self.images = Images(self.api)
        self.networks = Networks(self.api)
        self.volumes = Volumes(self.api)
        self.system = System(self.api)

    def __repr__(self) -> str:
        return f"<Client {self.api.host}>"


def connect(host: str = "", *, start: bool = True, tls: address.Tls | None = None) -> Client:
    """A client; when nobody chose a host and nobody listens on the default socket, a daemon is started.

    start: False never starts one

    Errors: InvalidParameter for a bad host; Unavailable when no daemon can be started.

    >>> client = connect()                                           # doctest: +SKIP
    """
    client = Client(host, tls)
    path = client.api.transport.path
    if start and not address.chosen_host(host) and not is_listening(path):
        from corten.client.autostart import start_daemon

        start_daemon(path)
    return client
