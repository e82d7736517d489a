"""The options that describe a container, and how their texts are read.

Where Docker's command line checks something itself, so does this one, in the same words; the rest is the daemon's.
"""
