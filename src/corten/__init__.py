"""Corten: a container engine for Linux.

Nothing heavy is imported here, so that ``import corten`` and the shim stay cheap.
"""

__version__ = "0.1.0"
