"""What an engine has done, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """`steps` of the decoder, the `rows` that they had together, and `seconds` in which the engine's thread has worked.

    One thread counts, others may look.
    """

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
