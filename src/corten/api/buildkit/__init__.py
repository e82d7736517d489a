"""The edge for BuildKit's clients: upgraded connections, and the services that they find there."""
