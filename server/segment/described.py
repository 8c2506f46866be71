"""What a server says of itself before the first call: what it runs, what bounds it, and what it has not counted yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence2_sam2 import __version__
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.segment.admission import QUEUE_FULL, QUEUE_TIMEOUT, RANKS
from florence2_sam2.server.segment.fetches import FETCHES_FULL
from florence2_sam2.server.segment.outcome import STAGES
from florence2_sam2.server.settings import Settings

# Those that are told, since one number or another of the page stays below them.
LIMITS = ("max_in_flight", "max_queue", "max_fetches", "decoder_rows", "memory_bytes")
STORED, FAILED = "stored", "failed"
_HASH_DIGITS = 12


def describe(metrics: Metrics, settings: Settings, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Set `info` and `limit`, and show counts that begin at 0: what appears with its first count is not seen to rise.

    Args:
        identities: what an answer says of `florence2` and `sam2`.
    """
    florence2, sam2 = identities["florence2"], identities["sam2"]
    metrics.set(
        "info",
        1,
        version=__version__,
        florence2=florence2["checkpoint"],
        florence2_sha256=florence2["sha256"][:_HASH_DIGITS],
        sam2=sam2["checkpoint"],
        sam2_sha256=sam2["sha256"][:_HASH_DIGITS],
        precision=florence2["precision"],
        sam2_precision=sam2["precision"],
        decoder_weights=florence2["decoder_weights"],
    )
    for name in LIMITS:
        metrics.set("limit", getattr(settings, name), setting=name)
    for reason in (QUEUE_FULL, QUEUE_TIMEOUT, FETCHES_FULL):
        metrics.add("segment_refused_total", 0, reason=reason)
    for priority in RANKS:
        metrics.observe("segment_duration_seconds", priority=priority)
    for stage in STAGES:
        metrics.add("segment_stage_seconds_total", 0, stage=stage)
    metrics.add("segment_objects_total", 0)
    if settings.store_url is not None:
        for how in (STORED, FAILED):
            metrics.add("masks_stored_total", 0, how=how)
