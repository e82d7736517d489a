"""Docker Engine API documents shared by client and daemon."""
