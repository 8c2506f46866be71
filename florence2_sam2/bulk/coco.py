"""Results as COCO: a document for each shard, and all of them as one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder, opened
from florence2_sam2.bulk.plan import Plan
from florence2_sam2.bulk.rows import Row, Summary

Document = dict[str, Any]


def document(rows: Iterable[Row], summary: Summary) -> Document:
    """The COCO detection document of a shard, as `florence2_sam2.client.formats.coco` makes it: exact run lengths,
    boxes as [x, y, width, height], one category a label. Ids count from 1, in the order of the pictures.

    `file_name` is a picture's id. Pictures without a result are in `failed`, `info` has the summary.
    """
    images: list[Document] = []
    annotations: list[Document] = []
    failed: list[Document] = []
    categories: dict[str, int] = {}
    for row in rows:
        if row.get("error") is not None:
            failed.append({"file_name": row["id"], "code": row["error_code"], "error": row["error"]})
            continue
        image = {
            "id": len(images) + 1,
            "width": row["width"],
            "height": row["height"],
            "file_name": row["id"],
        }
        images.append(image)
        for thing in row["objects"]:
            x1, y1, x2, y2 = thing["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": categories.setdefault(thing["label"], len(categories) + 1),
                    "segmentation": thing["rle"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": thing["mask_area"],
                    "iscrowd": 0,
                    "grounding_score": thing["grounding_score"],
                    "score": thing["score"],
                }
            )
    return {
        "info": asdict(summary),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        "failed": failed,
    }


def written(rows: Iterable[Row], summary: Summary) -> bytes:
    """The document as a file's content."""
    return json.dumps(document(rows, summary), ensure_ascii=False, separators=(",", ":")).encode()


def summary_of(text: bytes) -> Summary:
    """What a shard's document says of itself.

    Raises:
        ValueError, KeyError, TypeError: it is none of this command's.
    """
    return Summary(**json.loads(text)["info"])


def merge(folder: Folder, plan: Plan, target: str) -> None:
    """All shards of a finished run as one document at `target`, a path or fsspec URL; one shard is in memory at a time.

    Ids count from 1 in the order of the plan: the same results give the same document.

    Raises:
        BulkError: a shard is not there, or is none.
        OSError: it cannot be written.
    """
    fs, path = opened(target, "--merge")
    with tempfile.TemporaryDirectory(prefix="florence2-sam2-") as passing:
        whole = Path(passing) / "merged"
        with whole.open("w", encoding="utf-8") as file:
            _write(file, folder, plan)
        unfinished = path + ".new"
        fs.put_file(str(whole), unfinished)
        fs.mv(unfinished, path)


def _write(file: TextIO, folder: Folder, plan: Plan) -> None:
    about = {"plan": plan.id, "models": plan.question.models, "parameters": plan.question.parameters}
    file.write(f'{{"info": {json.dumps(about, ensure_ascii=False)}')
    firsts: list[int] = []  # what is added to a shard's image ids
    images = 0

    def numbered() -> Iterator[Document]:
        nonlocal images
        for shard in _shards(folder, plan):
            firsts.append(images)
            for image in shard["images"]:
                yield {**image, "id": image["id"] + firsts[-1]}
            images += len(shard["images"])

    _list(file, "images", numbered())
    categories: dict[str, int] = {}
    _list(file, "annotations", _annotations(folder, plan, firsts, categories))
    _list(file, "categories", ({"id": number, "name": name} for name, number in categories.items()))
    _list(file, "failed", (one for shard in _shards(folder, plan) for one in shard["failed"]))
    file.write("}\n")


def _annotations(
    folder: Folder, plan: Plan, firsts: list[int], categories: dict[str, int]
) -> Iterator[Document]:
    count = 0
    for shard, first in zip(_shards(folder, plan), firsts, strict=True):
        names = {category["id"]: category["name"] for category in shard["categories"]}
        for annotation in shard["annotations"]:
            count += 1
            label = names[annotation["category_id"]]
            yield {
                **annotation,
                "id": count,
                "image_id": annotation["image_id"] + first,
                "category_id": categories.setdefault(label, len(categories) + 1),
            }


def _list(file: TextIO, name: str, items: Iterable[Mapping[str, Any]]) -> None:
    file.write(f', "{name}": [')
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + json.dumps(item, ensure_ascii=False))
    file.write("]")


def _shards(folder: Folder, plan: Plan) -> Iterator[Document]:
    for shard in range(plan.shards):
        name = plan.file(shard)
        text = folder.read(name)
        if text is None:
            raise BulkError(f"--merge: {folder.url} has no {name} yet")
        try:
            body = json.loads(text)
            if body["info"]["plan"] != plan.id:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise BulkError(f"--merge: {name} in {folder.url} is not of this run") from None
        yield body
