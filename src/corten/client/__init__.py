"""The Python SDK: an Engine API client over a socket."""
