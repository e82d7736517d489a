"""The kernel's side of networks: bridges, sandboxes, firewall, ports."""
