"""From a task and a caller's text to prompt ids, and from generated ids back to text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from florence2_sam2.postprocess.regions import AnswerTokens
from florence2_sam2.server import manifest
from florence2_sam2.server.errors import InvalidRequest

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_REGION = re.compile(r"(?:<loc_[0-9]{1,9}>)+")
_LOCATION = re.compile(r"<loc_([0-9]+)>")
_SENTENCE_END = re.compile(r"""[.!?…]+["')\]”’]*(?=\s)|[。！？]""")


@dataclass(frozen=True)
class Prompt:
    """`ids` INT64 [P], `<s>` and `</s>` included, and sentences about what was changed in the caller's text."""

    ids: NDArray[np.int64]
    warnings: list[str]


def decode_text(raw: bytes, field: str = "text") -> str:
    """A caller's bytes as text.

    Raises:
        InvalidRequest: they are not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(field, f"is not valid UTF-8 at byte {error.start}") from None


class Prompts:
    """The prompts of one checkpoint, in the ids that transformers' Florence2Processor gives them.

    A caller's text is text: what looks like a token in it (`</s>`, `<loc_0>`, `<OD>`) is spelt out in characters.
    This is done with a second tokenizer that has never heard of added tokens, special or not.
    """

    def __init__(self, folder: Path, florence2: manifest.Florence2) -> None:
        body = json.loads((folder / florence2.tokenizer).read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_str(json.dumps(body))
        self._plain = Tokenizer.from_str(json.dumps({**body, "added_tokens": []}))
        for tokenizer in (self._tokenizer, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._manifest = florence2
        self._room = florence2.decoder.encoder_positions - florence2.image_tokens - 2  # beside <s> and </s>
        self._frame = frozenset({florence2.tokens.bos, florence2.tokens.pad, florence2.tokens.eos})
        self._added = self._frame.union(self._tokenizer.get_added_tokens_decoder())

    def encode(self, task: str, text: str = "", phrases: Sequence[str] | None = None) -> Prompt:
        """The prompt of `task`.

        Control characters and line ends in the text become spaces; a text too long for the encoder's positions is
        cut after a sentence, else after a word, with a warning.

        Raises:
            InvalidRequest: unknown task; text or phrases missing, not allowed, blank or malformed.
        """
        template = self._template(task, text, phrases)
        head, _, tail = template.partition("{input}")
        warnings: list[str] = []
        if phrases is not None:
            ids = self._phrases_ids(head, phrases, tail)
        elif task in self._manifest.prompts:
            ids = self._plain_ids(template)
        elif task.startswith("<REGION_TO_"):
            ids = [*self._plain_ids(head), *self._region_ids(task, text), *self._plain_ids(tail)]
        else:
            cleaned = _cleaned(text, "text")
            kept = self._fitting(head, cleaned, tail)
            if kept != cleaned:
                warnings.append(
                    f"text: cut from {len(cleaned)} to {len(kept)} characters, since the prompt takes at most "
                    f"{self._room} tokens"
                )
            ids = self._plain_ids(head + kept + tail)
        if len(ids) > self._room:
            field = "text" if phrases is None else "options.phrases"
            raise InvalidRequest(field, f"makes a prompt of {len(ids)} tokens; {self._room} is the most")
        tokens = self._manifest.tokens
        return Prompt(np.array([tokens.bos, *ids, tokens.eos], np.int64), warnings)

    def answer_tokens(self) -> AnswerTokens:
        """What `parse_regions` needs to know of the tokenizer."""
        tokens = self._manifest.tokens
        return AnswerTokens(
            decode=self.decode,
            location_first=tokens.location_first,
            location_bins=tokens.location_bins,
            special=self._added,
            polygon_start=self._tokenizer.token_to_id("<poly>"),
            polygon_end=self._tokenizer.token_to_id("</poly>"),
            polygon_separator=self._tokenizer.token_to_id("<sep>"),
        )

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """An answer as text, location tokens and separators included."""
        return self.decode([token for token in ids if token not in self._frame]).strip()

    def words(self, ids: Sequence[int]) -> tuple[str, list[str]]:
        """An answer's words alone, and the tokens that were left out of it, other than `<s>`, `</s>` and `<pad>`."""
        words = self.decode([token for token in ids if token not in self._added]).strip()
        structure = self._added - self._frame
        return words, [self.decode([token]) for token in ids if token in structure]

    def _template(self, task: str, text: str, phrases: Sequence[str] | None) -> str:
        spec = self._manifest
        template = spec.prompts.get(task) or spec.prompts_with_text.get(task)
        if template is None:
            known = ", ".join([*spec.prompts, *spec.prompts_with_text])
            raise InvalidRequest("task", f"there is no task {task[:100]!r}; there are {known}")
        if phrases is not None:
            if task != GROUNDING:
                raise InvalidRequest("options.phrases", f"belongs to the task {GROUNDING}, not to {task}")
            if text.strip():
                raise InvalidRequest("options.phrases", "takes the place of `text`: give one of them")
        elif task in spec.prompts and text.strip():
            raise InvalidRequest("text", f"{task} takes none")
        elif task in spec.prompts_with_text and not text.strip():
            raise InvalidRequest("text", f"is needed for {task}")
        return template

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _phrases_ids(self, head: str, phrases: Sequence[str], tail: str) -> list[int]:
        separator = self._manifest.tokens.phrase_separator
        if separator is None and len(phrases) > 1:
            raise InvalidRequest(
                "options.phrases", "this checkpoint takes one phrase: its tokenizer has no <and>"
            )
        pieces = [_cleaned(phrase, f"options.phrases[{index}]") for index, phrase in enumerate(phrases)]
        pieces[0] = head + pieces[0]
        pieces[-1] += tail
        ids = self._plain_ids(pieces[0])
        for piece in pieces[1:]:
            assert separator is not None
            ids += [separator, *self._plain_ids(piece)]
        return ids

    def _region_ids(self, task: str, text: str) -> list[int]:
        """A box (4 locations) or a polygon (x and y of at least 3 points) as location tokens."""
        tokens = self._manifest.tokens
        region = text.strip()
        bins = [int(number) for number in _LOCATION.findall(region)] if _REGION.fullmatch(region) else []
        if len(bins) < 4 or len(bins) % 2:
            raise InvalidRequest(
                "text",
                f"{task} takes a box as four location tokens, <loc_x1><loc_y1><loc_x2><loc_y2>, or a polygon as two "
                "for each of its points, and nothing else",
            )
        if max(bins) >= tokens.location_bins:
            raise InvalidRequest("text", f"<loc_{max(bins)}> is beyond <loc_{tokens.location_bins - 1}>")
        return [tokens.location_first + number for number in bins]

    def _fitting(self, head: str, text: str, tail: str) -> str:
        """The text, or as much of its beginning as fits the encoder."""
        tail_length = len(self._plain_ids(tail))
        while text:
            encoding = self._plain.encode(head + text + tail, add_special_tokens=False)
            if len(encoding.ids) <= self._room:
                break
            # The last token that may stay ends here; cutting may change how the end is tokenized: look again.
            limit = encoding.offsets[self._room - tail_length - 1][1] - len(head)
            text = _cut(text, min(limit, len(text) - 1))
        return text


def _cleaned(text: str, field: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest(field, "holds half of a surrogate pair, which is no text") from None
    cleaned = _CONTROL.sub(" ", text).strip()
    if not cleaned:
        raise InvalidRequest(field, "holds control characters only")
    return cleaned


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters of `text`: whole sentences if those are half of it or more, else whole words."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= limit]
    if ends and 2 * ends[-1] >= limit:
        return text[: ends[-1]]
    space = text.rfind(" ", 0, limit + 1)
    return text[: space if space > 0 else limit].rstrip()
