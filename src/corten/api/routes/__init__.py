"""One file per noun of the Engine API."""
