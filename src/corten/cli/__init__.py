"""The `corten` command: reaches the daemon only over its socket."""
