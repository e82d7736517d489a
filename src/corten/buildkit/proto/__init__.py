"""Messages of BuildKit's protocol: our subset of its .proto files, and what tools/make-protobuf makes of them."""
