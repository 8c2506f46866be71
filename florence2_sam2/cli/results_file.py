"""The results of many pictures in one file, which a run that was stopped goes on with.

Each answer is a line of JSON, written as it comes: the file itself where it is `.jsonl`, else a journal beside it,
`FILE.part`, of which the file is made at the end. A line that a crash cut off is taken away; its picture is asked about
again. The journal stays while pictures have failed, so that they can be tried again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from florence2_sam2.client import Segmentation
from florence2_sam2.client.formats import coco, geojson

Form = Literal["jsonl", "coco", "geojson"]
ENDINGS: dict[str, Form] = {".jsonl": "jsonl", ".coco.json": "coco", ".geojson": "geojson"}


class ResultsError(Exception):
    """A results file cannot be gone on with. The message is one line for the user."""


def form_of(path: Path) -> Form:
    """By the ending: `.jsonl` answers, `.coco.json` one COCO document, `.geojson` one FeatureCollection.

    Raises:
        ResultsError: it is another one.
    """
    for ending, form in ENDINGS.items():
        if path.name.lower().endswith(ending):
            return form
    raise ResultsError(f"{path}: FILE must end in {', '.join(ENDINGS)}")


class ResultsFile:
    """A context manager; `done` are the pictures that the file has answers for, an earlier run's among them.

    Args:
        path: its ending decides the form.
        settings: what the call is made with. An earlier run's must have been the same.
        restart: begin anew, whatever is there.

    Raises:
        ResultsError: another form or other settings than an earlier run's, or a finished file of another's.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.path, self.form = path, form_of(path)
        self.journal = path if self.form == "jsonl" else path.with_name(path.name + ".part")
        if restart:
            self.journal.unlink(missing_ok=True)
        elif self.journal != path and path.exists() and not self.journal.exists():
            raise ResultsError(f"{path} is finished; --restart makes it anew")
        self.done: set[str] = set()
        self._file = self.journal.open("a", encoding="utf-8")
        try:
            _lock(self._file, self.path)
            self._last = self._recover()
            if self._last is not None:
                _require_same(self.path, settings, _used(self._last))
        except BaseException:
            self._file.close()
            raise

    def add(self, picture: str, result: Segmentation) -> None:
        """One more answer. It is in the file when this returns.

        Raises:
            ResultsError: it was made with other settings than an earlier run's answers, which this run has left out.
        """
        if self._last is not None:
            _require_same(self.path, _used(result.raw), _used(self._last))
            self._last = None
        self._file.write(json.dumps({"picture": picture, **result.raw}, ensure_ascii=False) + "\n")
        self._file.flush()
        self.done.add(picture)

    def answers(self) -> Iterator[tuple[str, Segmentation]]:
        """All that is in the file, in its order."""
        with self.journal.open(encoding="utf-8") as lines:
            for line in lines:
                body = json.loads(line)
                yield body.pop("picture"), Segmentation.from_json(body)

    def finish(self, whole: bool = True) -> None:
        """Make the file of the journal, which goes if that is the `whole`: no picture has failed."""
        self._file.flush()
        if self.form == "jsonl":
            return
        unfinished = self.path.with_name(self.path.name + ".new")
        document = self._coco() if self.form == "coco" else self._geojson()
        unfinished.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(self.path)
        if whole:
            self._file.close()
            self.journal.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _recover(self) -> dict[str, Any] | None:
        """Read what is there, cut off what is no whole line; the last answer."""
        if not self.journal.exists():
            return None
        good, last = 0, None
        with self.journal.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    last = json.loads(line) if line.endswith(b"\n") else None
                    self.done.add(last["picture"])  # type: ignore[index]  # caught as well
                except (ValueError, TypeError, KeyError):
                    if lines.read(1):
                        raise ResultsError(
                            f"{self.journal}, line {number}: not written by this command; choose another file"
                        ) from None
                    break
                good += len(line)
        os.truncate(self.journal, good)
        return last

    def _coco(self) -> dict[str, Any]:
        found = list(self.answers())
        return coco([result for _, result in found], file_names=[picture for picture, _ in found])

    def _geojson(self) -> dict[str, Any]:
        features = []
        for picture, result in self.answers():
            for feature in geojson(result)["features"]:
                feature["properties"]["picture"] = picture
                features.append(feature)
        return {"type": "FeatureCollection", "features": features}


def _lock(file: TextIO, path: Path) -> None:
    """Keep it from other runs until it is closed, where the system can.

    Raises:
        ResultsError: another run has it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ResultsError(f"{path}: another run is writing to it") from None


def _used(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer was made with; a caption only where it was the caller's."""
    caption = answer.get("caption") if answer.get("caption_source") == "caller" else None
    return {**answer.get("parameters", {}), "caption": caption}


def _require_same(path: Path, settings: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        before = used.get(name, value)
        if not _equal(before, value):
            raise ResultsError(
                f"{path} was begun with {name} {json.dumps(before)}, not {json.dumps(value)}; --restart begins anew"
            )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):  # numbers have been float32 on their way
        return isinstance(one, (int, float)) and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return json.dumps(one) == json.dumps(other)
