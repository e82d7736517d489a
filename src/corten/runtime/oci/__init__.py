"""The commands of ``corten-oci``."""
