"""Random messages to a real server, well formed and not: see `scripts/fuzz --help`."""
