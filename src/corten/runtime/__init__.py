"""The OCI runtime, usable alone as `corten-oci`."""
