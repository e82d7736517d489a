"""Containers without root's rights: the namespaces of an ordinary user's daemon."""
