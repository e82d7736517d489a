"""Images: content, tags, layers, archives."""
