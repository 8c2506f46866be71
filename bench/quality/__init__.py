"""How well the small checkpoints see drawn scenes, measured through the server: `scripts/quality`."""
