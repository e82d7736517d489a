"""The language of Dockerfiles: text in, typed instructions out.  No I/O, nothing is executed.

Source: the Dockerfile reference (docs.docker.com/reference/dockerfile); where it is silent, what
dockerd's builder does.
"""
