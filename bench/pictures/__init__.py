"""The pictures of the documentation, made by asking a server: `scripts/pictures`."""
