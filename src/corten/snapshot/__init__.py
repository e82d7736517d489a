"""Layer and container file systems behind one Protocol: overlay and vfs."""
