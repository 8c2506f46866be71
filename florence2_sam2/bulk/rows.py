"""Results as rows: of one picture as plain values, of a shard as a Parquet file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence2_sam2.bulk.calls import PictureFailed
from florence2_sam2.client import Segmentation

Row = dict[str, Any]

_POINTS = pa.list_(pa.list_(pa.float64()))  # [[x, y], …]
_POLYGON = pa.struct([("exterior", _POINTS), ("holes", pa.list_(_POINTS))])
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_FOUND = [
    ("label", pa.string()),
    ("box", pa.list_(pa.float64())),  # x1, y1, x2, y2
    ("area_ratio", pa.float64()),
    ("grounding_score", pa.float64()),
    ("score", pa.float64()),
]
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("caption_source", pa.string()),
        (
            "objects",
            pa.list_(
                pa.struct(
                    [*_FOUND, ("mask_area", pa.int64()), ("polygons", pa.list_(_POLYGON)), ("rle", _RLE)]
                )
            ),
        ),
        (
            "filtered",
            pa.list_(pa.struct([*_FOUND, ("reason", pa.string()), ("suppressed_by", pa.int32())])),
        ),
        ("warnings", pa.list_(pa.string())),
        ("models", pa.string()),  # JSON, the same in all rows
        ("error_code", pa.string()),
        ("error", pa.string()),
    ]
)
METADATA = b"florence2_sam2.bulk"
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Summary:
    """What is in a finished shard. `failed`: pictures that have an error in place of a result."""

    plan: str
    shard: int
    pictures: int
    failed: int
    objects: int


def of(key: str, answer: Segmentation) -> Row:
    """The row of a picture that was answered: the server's own values, but for its times and what all rows share."""
    raw = answer.raw
    shared = {
        name: raw.get(name) for name in ("caption", "caption_source", "objects", "filtered", "warnings")
    }
    return {
        "id": key,
        "width": answer.width,
        "height": answer.height,
        **shared,
        "models": json.dumps(raw["models"], sort_keys=True),
        "error_code": None,
        "error": None,
    }


def of_failed(key: str, failure: PictureFailed) -> Row:
    """The row of a picture without a result."""
    return {"id": key, "error_code": failure.code, "error": failure.message}


def counted(plan: str, shard: int, rows: Iterable[Mapping[str, Any]]) -> Summary:
    """What a shard's rows come to."""
    pictures = failed = objects = 0
    for row in rows:
        pictures += 1
        failed += row.get("error") is not None
        objects += len(row.get("objects") or ())
    return Summary(plan, shard, pictures, failed, objects)


def parquet(rows: Iterable[Row], summary: Summary) -> bytes:
    """A shard's Parquet file, its summary in the footer."""
    schema = SCHEMA.with_metadata({METADATA: json.dumps(asdict(summary)).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        waiting = iter(rows)
        while some := list(islice(waiting, _ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema))
    return buffer.getvalue()


def summary_of_parquet(file: Any) -> Summary:
    """What a shard's file says of itself.

    Raises:
        ValueError, KeyError, TypeError: it is none of this command's.
    """
    metadata = pq.read_metadata(file).metadata or {}
    return Summary(**json.loads(metadata[METADATA]))
