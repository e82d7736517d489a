"""The Engine API edge: HTTP, streams and hijacking; no decisions."""
