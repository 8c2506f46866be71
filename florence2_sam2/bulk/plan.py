"""What a run has to do, written into the output folder once: whoever goes on has the same shards and the same question.

`_plan.json` says what is asked, of which pictures, and which models answer; `_pictures.parquet` lists the pictures, a
row group for each shard.
"""

from __future__ import annotations

import datetime
import json
import math
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from florence2_sam2 import __version__
from florence2_sam2.bulk import listing
from florence2_sam2.bulk.errors import BulkError, WrongUsage
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.source import Entry, Source

Form = Literal["parquet", "coco"]
FORMS: tuple[Form, ...] = get_args(Form)

PLAN, PICTURES = "_plan.json", "_pictures.parquet"
FORMAT = 1
_ENDINGS: dict[Form, str] = {"parquet": ".parquet", "coco": ".coco.json"}
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("where", pa.string()),
        ("group", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Question:
    """What decides the results. A run goes on with the same one only.

    Args:
        settings: those of the call that are not the server's defaults.
        parameters: all that are in force, as the server says.
        models: the models that answer, as the server says.
    """

    source: Source
    form: Form
    settings: Mapping[str, Any]
    parameters: Mapping[str, Any]
    models: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The question, and the shards: `pictures` is None where only the tar files will tell how many there are."""

    id: str
    question: Question
    shard_size: int
    shards: int
    pictures: int | None
    created: str
    version: str

    @classmethod
    def load(cls, folder: Folder) -> Self | None:
        """The plan of an earlier run; None: there is none.

        Raises:
            BulkError: it is of another version of this command.
        """
        text = folder.read(PLAN)
        if text is None:
            return None
        try:
            body = json.loads(text)
            if body.pop("format") != FORMAT:
                raise ValueError
            question = body.pop("question")
            return cls(question=Question(Source(**question.pop("source")), **question), **body)
        except (ValueError, TypeError, KeyError):
            raise BulkError(
                f"{folder.url}: {PLAN} is not of this version of the command; choose another output"
            ) from None

    def save(self, folder: Folder) -> None:
        """Once, after the list of pictures.

        Raises:
            OSError: it cannot be written.
            BulkError: another run was faster.
        """
        body = {"format": FORMAT, **asdict(self)}
        if not folder.create(PLAN, (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode()):
            raise BulkError(f"{folder.url}: another run has just begun here")

    def file(self, shard: int) -> str:
        """The name of a shard's file. No `_` in front: what reads a folder of Parquet leaves such files out."""
        return f"shard-{shard:06}{_ENDINGS[self.question.form]}"

    def finished(self, names: Iterable[str]) -> set[int]:
        """The shards whose files are among `names`."""
        there = set(names)
        return {shard for shard in range(self.shards) if self.file(shard) in there}


def make(folder: Folder, question: Question, lots: Iterable[list[Entry]], shard_size: int) -> Plan:
    """List the pictures of `lots`, one a shard, and save the plan.

    Raises:
        OSError, WrongUsage, BulkError: as the listing and `Plan.save`.
    """
    shards = pictures = 0
    with tempfile.TemporaryDirectory(prefix="florence2-sam2-") as passing:
        path = Path(passing) / PICTURES
        with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for lot in lots:
                writer.write_table(
                    pa.Table.from_pylist([asdict(entry) for entry in lot], _SCHEMA), row_group_size=len(lot)
                )
                shards += 1
                pictures += listing.count(lot)
        if not shards:
            raise WrongUsage(f"INPUT: there is no picture in {question.source.url}")
        folder.replace(PICTURES, path)
    known = None if question.source.kind == "webdataset" else pictures
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    plan = Plan(uuid.uuid4().hex, question, shard_size, shards, known, now, __version__)
    plan.save(folder)
    return plan


class Pictures:
    """The list that `make` has written, shard by shard."""

    def __init__(self, folder: Folder) -> None:
        self._file = pq.ParquetFile(folder.open(PICTURES))

    def of(self, shard: int) -> list[Entry]:
        """The entries of a shard, in order."""
        return [Entry(**row) for row in self._file.read_row_group(shard).to_pylist()]

    def close(self) -> None:
        self._file.close(force=True)


def require_same(before: Question, now: Question, url: str) -> None:
    """Raises WrongUsage where a run would go on with another question than its output was begun with."""
    for name, one, other in _differences(before, now):
        raise WrongUsage(
            f"{url} was begun with {name} {_shown(one)}, not {_shown(other)}; choose another OUTPUT for that"
        )


def _differences(before: Question, now: Question) -> Iterable[tuple[str, Any, Any]]:
    for name, one in asdict(before.source).items():
        yield from _different(_FLAGS.get(name, name), one, getattr(now.source, name))
    yield from _different("--form", before.form, now.form)
    for kind in ("settings", "parameters", "models"):
        one, other = getattr(before, kind), getattr(now, kind)
        for name in dict.fromkeys([*one, *other]):
            yield from _different(name, one.get(name), other.get(name))


_FLAGS = {
    "url": "INPUT",
    "kind": "--input",
    "picture_column": "--picture-column",
    "id_column": "--id-column",
    "root": "--root",
    "max_bytes": "--max-image-bytes",
}


def _different(name: str, one: Any, other: Any) -> Iterable[tuple[str, Any, Any]]:
    if not same(one, other):
        yield name, one, other


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal; numbers may have been float32 on their way."""
    if isinstance(one, float) or isinstance(other, float):
        both = isinstance(one, (int, float)) and isinstance(other, (int, float))
        return both and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return json.dumps(one) == json.dumps(other)


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
