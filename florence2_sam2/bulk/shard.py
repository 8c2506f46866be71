"""The pictures of a shard, some at once, and the one file that they become."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from florence2_sam2.bulk import coco, rows
from florence2_sam2.bulk.calls import Calls, PictureFailed
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.plan import Plan, Question, same
from florence2_sam2.bulk.reading import Item
from florence2_sam2.client import Segmentation

T = TypeVar("T")

# Reading and writing files: how often it is tried, and the pauses, in seconds.
_FILE_TRIES, _FIRST_PAUSE, _FACTOR = 5, 0.5, 3.0


class OtherModels(BulkError):
    """A server answers with other models, or other settings of its own, than the plan's."""


@dataclass(frozen=True)
class Told:
    """How far a shard is."""

    shard: int
    pictures: int
    failed: int
    objects: int


async def results(
    items: Iterator[Item],
    calls: Calls,
    question: Question,
    ahead: int,
    told: Callable[[int, int, int], None],
) -> list[bytes]:
    """A row (JSON) for each picture, in order, whatever becomes of it.

    Args:
        ahead: pictures that are read or under way at once; no others are held.
        told: pictures, failed ones and objects so far.

    Raises:
        BulkError: nobody answers, or with other models, or the pictures cannot be read now.
    """
    found: list[bytes] = []
    room = asyncio.Semaphore(ahead)
    pictures = failed = objects = 0

    async def one(index: int, item: Item) -> None:
        nonlocal pictures, failed, objects
        try:
            picture = await tried_again(item.load, f"the picture {item.id} cannot be read")
            answer = await calls.ask(picture)
            require_same(question, answer)
            row = rows.of(item.id, answer)
            objects += len(row["objects"])
        except PictureFailed as failure:
            row = rows.of_failed(item.id, failure)
            failed += 1
        found[index] = json.dumps(row, ensure_ascii=False).encode()
        pictures += 1
        told(pictures, failed, objects)
        room.release()

    try:
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()
                item = await asyncio.to_thread(next, items, None)
                if item is None:
                    break
                found.append(b"")
                group.create_task(one(len(found) - 1, item))
    except BaseExceptionGroup as several:
        raise _first(several) from None
    return found


async def tried_again(
    act: Callable[[], T],
    complaint: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """`act()` in a thread, again after a while where a file system fails.

    Raises:
        BulkError: it fails for good; the complaint, and why.
        PictureFailed: as `act`.
    """
    for attempt in range(_FILE_TRIES):
        try:
            return await asyncio.to_thread(act)
        except (PictureFailed, BulkError):
            raise
        except Exception as error:  # drivers of object stores have errors of their own
            if attempt == _FILE_TRIES - 1:
                raise BulkError(f"{complaint}: {getattr(error, 'strerror', None) or error}") from None
        await sleep(_FIRST_PAUSE * _FACTOR**attempt * random.uniform(0.7, 1.3))
    raise AssertionError


def require_same(question: Question, answer: Segmentation) -> None:
    """Raises OtherModels where an answer is none to the plan's question."""
    for what, planned, used in (
        ("models", question.models, answer.models),
        ("settings", question.parameters, answer.parameters),
    ):
        if not same(planned, used):
            raise OtherModels(
                f"a server answers with other {what} than this run began with: {_other(planned, used)}"
            )


def _other(planned: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    name = next(
        name for name in dict.fromkeys([*planned, *used]) if not same(planned.get(name), used.get(name))
    )
    return f"{name} {json.dumps(used.get(name))} in place of {json.dumps(planned.get(name))}"


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error that matters of several at once."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, BulkError)), leaves[0])


def written(plan: Plan, shard: int, found: list[bytes]) -> tuple[bytes, rows.Summary]:
    """A shard's file, and what is in it."""
    summary = rows.counted(plan.id, shard, map(json.loads, found))
    write = rows.parquet if plan.question.form == "parquet" else coco.written
    return write(map(json.loads, found), summary), summary


def summary(folder: Folder, plan: Plan, shard: int) -> rows.Summary | None:
    """What is in a finished shard; None: it is not finished.

    Raises:
        BulkError: its file is none of this plan's.
    """
    name = plan.file(shard)
    try:
        if plan.question.form == "parquet":
            with folder.open(name) as file:
                found = rows.summary_of_parquet(file)
        else:
            text = folder.read(name)
            if text is None:
                return None
            found = coco.summary_of(text)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise BulkError(f"{name} in {folder.url} was not written by this command") from None
    if (found.plan, found.shard) != (plan.id, shard):
        raise BulkError(f"{name} in {folder.url} is of another run; take it away, or choose another OUTPUT")
    return found
