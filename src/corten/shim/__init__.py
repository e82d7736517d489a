"""The processes between daemon and container: spawner and one shim per container."""
