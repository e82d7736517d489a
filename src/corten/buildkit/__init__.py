"""BuildKit's sessions: a client serves its files, secrets, agents and credentials, and takes results.

Source: moby/buildkit, ``session/``; tonistiigi/fsutil.  Only who has such a client imports these modules.
"""
