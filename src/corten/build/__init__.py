"""Builds: contexts, steps and their cache.

Synchronous; what needs containers or registries comes through ``Workshop``, which the engine implements.
"""
