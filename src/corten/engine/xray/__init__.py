"""What a container is made of, as the live kernel shows it: processes, namespaces, groups, layers, mounts, network."""
