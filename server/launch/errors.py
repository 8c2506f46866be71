"""What the launcher tells the operator."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot start, or has ended. One line that says what is wrong and what to do."""
