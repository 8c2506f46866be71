"""What the tests of `florence2-sam2 bulk` share: plans, and a picture."""

from __future__ import annotations

import io
from typing import Any

from kserve_peer import ANSWER
from PIL import Image

from florence2_sam2.bulk.plan import Form, Plan, Question
from florence2_sam2.bulk.source import Source


def question(url: str = "/pictures", form: Form = "parquet", **settings: Any) -> Question:
    """Asked of the peer of `kserve_peer`."""
    settings = {"formats": [], "priority": "bulk", **settings}
    return Question(Source(url, "pictures"), form, settings, ANSWER["parameters"], ANSWER["models"])


def plan(form: Form = "parquet", shards: int = 3, size: int = 4, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "id": "a plan",
        "question": question(form=form),
        "shard_size": size,
        "shards": shards,
        "pictures": shards * size,
        "created": "2026-01-01T00:00:00+00:00",
        "version": "0",
    }
    return Plan(**{**fields, **changes})


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (12, 8), shade).save(file, "PNG")
    return file.getvalue()
