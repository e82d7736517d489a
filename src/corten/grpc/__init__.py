"""gRPC over one connected byte stream, both roles: messages are bytes, nothing here knows what is in them.

Source: "gRPC over HTTP2", doc/PROTOCOL-HTTP2.md of the gRPC project; RFC 9113.  Only who speaks gRPC imports these
modules: h2 costs a daemon that nobody builds with neither time nor memory.
"""
