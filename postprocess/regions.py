"""What Florence-2 found, read from the generated token ids.

transformers' processor decodes to text and takes that apart with regular expressions, which loses accents, labels
with newlines, and takes separators for words. Location tokens are ids: here they are read as such, and well-formed
answers give the same labels and the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Form = Literal[
    "pure_text",
    "phrase_grounding",
    "description_with_bboxes",
    "bboxes",
    "ocr",
    "polygons",
    "description_with_polygons",
    "description_with_bboxes_or_polygons",
]
Dropped = Literal["banned_phrase", "degenerate_box", "degenerate_polygon", "no_label"]

_BOX_LOCATIONS = 4
_QUAD_LOCATIONS = 8
_POLYGON_POINTS = 3


@dataclass(frozen=True)
class AnswerTokens:
    """The ids that give an answer its structure, and how the others become text.

    `special`: ids that are no text; `<poly>`, `</poly>` and `<sep>` are None where the tokenizer has none.
    `decode` turns ids of plain text into that text.
    """

    decode: Callable[[Sequence[int]], str]
    location_first: int
    location_bins: int
    special: frozenset[int]
    polygon_start: int | None = None
    polygon_end: int | None = None
    polygon_separator: int | None = None

    def is_location(self, token: int) -> bool:
        return 0 <= token - self.location_first < self.location_bins


@dataclass(frozen=True)
class Region:
    """One region in pixels of the upright picture. It has a box, a quad or polygons.

    `box`: x1, y1, x2, y2. `quad`: x, y of four corners. `polygons`: each x, y of its points. `dropped`: why it
    should not be used; None when it should. `score`: see `parse_regions`; None of polygons.
    """

    label: str
    box: tuple[int, ...] | None = None
    quad: tuple[int, ...] | None = None
    polygons: tuple[tuple[int, ...], ...] = ()
    dropped: Dropped | None = None
    score: float | None = None

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"label": self.label, "dropped": self.dropped, "score": self.score}
        if self.box is not None:
            body["box"] = list(self.box)
        if self.quad is not None:
            body["quad"] = list(self.quad)
        if self.polygons:
            body["polygons"] = [list(polygon) for polygon in self.polygons]
        return body


@dataclass(frozen=True)
class Parsed:
    """The regions in the order of the answer, and sentences about what in it made no sense."""

    regions: list[Region]
    warnings: list[str]


@dataclass
class _Phrase:
    """Text, and the locations and polygon tokens that follow it; with where in the answer each stands."""

    text: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    text_at: list[int] = field(default_factory=list)
    places_at: list[int] = field(default_factory=list)


def parse_regions(
    token_ids: Sequence[int],
    form: str,
    tokens: AnswerTokens,
    width: int,
    height: int,
    banned: Collection[str] = (),
    log_probabilities: Sequence[float] | None = None,
) -> Parsed:
    """Read an answer of the given form, one of `Form`.

    A phrase is text followed by locations. Four of them are a box (eight a quad in `ocr`); several boxes share the
    phrase's label. `banned` phrases are compared without regard to case, and only in `phrase_grounding`.

    Args:
        token_ids: generated ids, with or without `<s>`, `</s>` and padding.
        width, height: size of the upright picture in pixels.
        log_probabilities: of each of `token_ids`, given those before. A region's score is the geometric mean of
            its tokens' probabilities, those of its label and of its own locations.

    Raises:
        ValueError: there is no such form.
    """
    parser = _Parser(
        tokens, width, height, frozenset(phrase.casefold() for phrase in banned), log_probabilities
    )
    phrases = parser.phrases(token_ids)
    if form == "pure_text":
        return Parsed([], [])
    if form == "phrase_grounding":
        regions = [region for phrase in phrases for region in parser.boxes(phrase, ban=True)]
    elif form == "description_with_bboxes":
        regions = [region for phrase in phrases for region in parser.boxes(phrase)]
    elif form == "bboxes":
        regions = [region for phrase in phrases for region in parser.boxes(phrase, needs_label=False)]
    elif form == "ocr":
        regions = [region for phrase in phrases for region in parser.quads(phrase)]
    elif form == "polygons":
        regions = [region for phrase in phrases for region in parser.polygons(phrase, needs_label=False)]
    elif form == "description_with_polygons" or (
        form == "description_with_bboxes_or_polygons" and tokens.polygon_start in token_ids
    ):
        regions = [region for phrase in phrases for region in parser.polygons(phrase)]
    elif form == "description_with_bboxes_or_polygons":
        regions = [region for phrase in phrases for region in parser.boxes(phrase)]
    else:
        raise ValueError(f"there is no answer form {form!r}")
    return Parsed(regions, parser.warnings())


class _Parser:
    """One answer's reading: what is malformed is counted on the way."""

    def __init__(
        self,
        tokens: AnswerTokens,
        width: int,
        height: int,
        banned: frozenset[str],
        log_probabilities: Sequence[float] | None,
    ) -> None:
        self._tokens = tokens
        self._log_probabilities = log_probabilities
        # float32 throughout, as in transformers' `dequantize`: the truncation to pixels must fall the same way.
        self._scale = (np.array([width, height], np.float64) / tokens.location_bins).astype(np.float32)
        self._banned = banned
        self._leftover_locations = 0
        self._unlocated: list[str] = []
        self._short_polygons = 0

    def phrases(self, token_ids: Sequence[int]) -> list[_Phrase]:
        """Split an answer into phrases.

        A special token (`<and>`, `<od>` …) ends a text: what stands before it has no locations of its own.
        """
        tokens = self._tokens
        polygon_tokens = {tokens.polygon_start, tokens.polygon_end, tokens.polygon_separator}
        found: list[_Phrase] = []
        current = _Phrase()
        for at, token in enumerate(token_ids):
            if tokens.is_location(token) or token in polygon_tokens:
                current.places.append(token)
                current.places_at.append(at)
                continue
            special = token in tokens.special
            if current.places or (special and current.text):
                found.append(current)
                current = _Phrase()
            if not special:
                current.text.append(token)
                current.text_at.append(at)
        found.append(current)
        located = [phrase for phrase in found if phrase.places]
        self._unlocated = [label for phrase in found if not phrase.places and (label := self._label(phrase))]
        return located

    def boxes(self, phrase: _Phrase, ban: bool = False, needs_label: bool = True) -> list[Region]:
        label = self._label(phrase)
        regions = []
        for points, score in self._groups(phrase, _BOX_LOCATIONS):
            dropped: Dropped | None = None
            x1, y1, x2, y2 = points
            if ban and label.casefold() in self._banned:
                dropped = "banned_phrase"
            elif needs_label and not label:
                dropped = "no_label"
            elif x2 <= x1 or y2 <= y1:
                dropped = "degenerate_box"
            regions.append(Region(label, box=points, dropped=dropped, score=score))
        return regions

    def quads(self, phrase: _Phrase) -> list[Region]:
        label = self._label(phrase)
        dropped: Dropped | None = None if label else "no_label"
        return [
            Region(label, quad=points, dropped=dropped, score=score)
            for points, score in self._groups(phrase, _QUAD_LOCATIONS)
        ]

    def polygons(self, phrase: _Phrase, needs_label: bool = True) -> list[Region]:
        """One region per `<poly>…</poly>`, or one for all locations where there are no such pairs.

        `<sep>` divides a region's polygons; an odd last coordinate is dropped, as in transformers.
        """
        label = self._label(phrase)
        regions = []
        for instance in self._instances(phrase.places):
            polygons = []
            for run in _split(instance, self._tokens.polygon_separator):
                bins = [token for token in run if self._tokens.is_location(token)]
                self._leftover_locations += len(bins) % 2
                points = self._pixels(bins[: len(bins) // 2 * 2])
                if len(points) >= 2 * _POLYGON_POINTS:
                    polygons.append(points)
                elif points:
                    self._short_polygons += 1
            dropped: Dropped | None = None
            if not polygons:
                dropped = "degenerate_polygon"
            elif needs_label and not label:
                dropped = "no_label"
            regions.append(Region(label, polygons=tuple(polygons), dropped=dropped))
        return regions

    def warnings(self) -> list[str]:
        sentences = []
        if self._leftover_locations:
            sentences.append(f"location tokens in no complete region: {self._leftover_locations}")
        if self._short_polygons:
            sentences.append(f"polygons of fewer than {_POLYGON_POINTS} points: {self._short_polygons}")
        if self._unlocated:
            sentences.append(f"phrases without a location: {', '.join(self._unlocated)}")
        return sentences

    def _label(self, phrase: _Phrase) -> str:
        return " ".join(self._tokens.decode(phrase.text).splitlines()).strip()

    def _groups(self, phrase: _Phrase, size: int) -> list[tuple[tuple[int, ...], float | None]]:
        """Pixels and score of each complete group of `size` locations; what remains is counted."""
        found = zip(phrase.places, phrase.places_at, strict=True)
        bins = [(token, at) for token, at in found if self._tokens.is_location(token)]
        complete = len(bins) // size * size
        self._leftover_locations += len(bins) - complete
        groups = [bins[start : start + size] for start in range(0, complete, size)]
        return [
            (
                self._pixels([token for token, _ in group]),
                self._score([*phrase.text_at, *(at for _, at in group)]),
            )
            for group in groups
        ]

    def _score(self, places: list[int]) -> float | None:
        """Geometric mean of the probabilities of the tokens that stand there."""
        if self._log_probabilities is None:
            return None
        return math.exp(math.fsum(self._log_probabilities[at] for at in places) / len(places))

    def _instances(self, places: list[int]) -> list[list[int]]:
        start, end = self._tokens.polygon_start, self._tokens.polygon_end
        if start is None or end is None or start not in places or end not in places:
            return [places]
        instances = []
        for run in _split(places, start):
            if end in run:
                instances.append(run[: run.index(end)])
                run = run[run.index(end) + 1 :]
            self._leftover_locations += sum(map(self._tokens.is_location, run))
        return instances

    def _pixels(self, locations: Sequence[int]) -> tuple[int, ...]:
        """x, y, x, y … in pixels: the middle of each bin, truncated."""
        bins = np.asarray(locations, np.float32).reshape(-1, 2) - np.float32(self._tokens.location_first)
        return tuple(int(value) for value in ((bins + np.float32(0.5)) * self._scale).ravel())


def _split(tokens: list[int], separator: int | None) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for token in tokens:
        if token == separator:
            runs.append([])
        else:
            runs[-1].append(token)
    return runs
