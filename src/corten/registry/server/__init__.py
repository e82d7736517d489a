"""A registry of one's own: the OCI distribution API over a directory or an object store, in several worker processes.

Complete in itself: no daemon is needed, and nothing of Corten but ``oci``, ``api.http`` (bytes of requests) and the
client of registries (for a cache of another registry) is used.  What is stored has the layout of the distribution
project's registry: either program can serve what the other has stored.

Source: OCI distribution-spec v1.1, with the headers and error texts that Docker's clients look for.
"""
