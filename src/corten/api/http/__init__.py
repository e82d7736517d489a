"""HTTP/1.1 as the Engine API needs it: requests in, responses, streams and hijacked connections out.

``httptools`` parses heads; framing of bodies is ours, so that the bytes which follow a request are known exactly and
can be handed to a hijacked stream.  Nothing here knows what a container is.
"""
