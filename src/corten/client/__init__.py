"""The Python SDK: an Engine API client over a socket.

>>> import corten
>>> client = corten.connect()                              # doctest: +SKIP
>>> client.containers.run("host", ["echo", "hello"])       # doctest: +SKIP
b'hello\\n'
"""
