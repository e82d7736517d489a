"""OCI documents without I/O: digest, reference, manifest, config, platform."""
