"""Container logs: writers (used by the shim) and readers (used by the engine)."""
