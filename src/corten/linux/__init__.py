"""The kernel and nothing else: every privileged call in one place."""
