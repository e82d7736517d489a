"""Control groups v1, v2 and hybrid by one table of knobs."""
