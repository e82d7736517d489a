"""The client of registries: images come and go over the OCI distribution API.

Synchronous and thread-safe; a transfer runs in threads of its caller.  Everything that a registry sends is untrusted:
documents are bounded, content is checked against its digest, credentials go to the host that they were given for.

Source: OCI distribution-spec v1.1; the token authentication that the distribution project documents.
"""
