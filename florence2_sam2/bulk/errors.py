"""What a run fails with. Messages are one line for the user."""

from __future__ import annotations


class BulkError(Exception):
    """The run cannot go on; the same command goes on from there, once what is wrong is mended."""


class WrongUsage(BulkError):
    """The command is wrong: nothing was written or sent."""
