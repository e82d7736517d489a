"""One file per noun of the `corten` command."""
