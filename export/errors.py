"""The one error that `export` reports in a line instead of a traceback."""

from __future__ import annotations


class ExportError(Exception):
    """The export cannot go on, or its result failed a check. The message is written for the person who ran it."""
