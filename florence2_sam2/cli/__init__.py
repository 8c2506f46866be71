"""The command line: `florence2-sam2 segment | serve | health | …`. Each command imports only what it needs."""

from florence2_sam2.cli.main import main

__all__ = ["main"]
