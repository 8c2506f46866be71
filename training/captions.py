"""Sentences about scenes, and the prompts and answers that Florence-2 is trained on.

A caption must be one that generation with `no_repeat_ngram_size=3` can write: a different word joins each
thing to the ones before it, and no two things share article, size and colour unless nothing precedes them
that repeats. `repeated_trigram` checks the words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence2_sam2.training.vocabulary import COLOURS, KINDS, TABLE_PHRASE, TRAINING_COLOURS, phrase_for

CAPTION_PROMPT = "Describe with a paragraph what is shown in the image."
GROUNDING_PROMPT = "Locate the phrases in the caption: "
DETECTION_PROMPT = "Locate the objects with category name in the image."
OPEN_VOCABULARY_PROMPT = "Locate {} in the image."

_JOINING = ("The image shows", "next to", "and", "with", "beside", "near", "by", "plus")
BINS = 1000


@dataclass(frozen=True)
class Mention:
    """A noun phrase and the boxes it stands for, float [K, 4] xyxy as fractions of the picture's sides.

    A phrase without boxes (K = 0) is said but stands for nothing.
    """

    phrase: str
    boxes: np.ndarray
    kind: str = ""

    @property
    def colour(self) -> str:
        """The colour that a caption's phrase names: "red" of "two red apples"; empty if it names none."""
        words = self.phrase.split()
        return words[-2] if len(words) > 2 and words[-2] in COLOURS else ""


def sentence(mentions: Sequence[Mention], opening: str = _JOINING[0]) -> str:
    """ "The image shows a red apple next to two blue cups on a wooden table." The table, if any, comes last."""
    joining = iter((opening, *_JOINING[1:]))
    words: list[str] = []
    for mention in mentions:
        if mention.phrase == TABLE_PHRASE:
            words.append("on" if words else opening)
        else:
            words.append(next(joining))
        words.append(mention.phrase)
    text = " ".join(w for w in words if w)
    return text[0].upper() + text[1:] + "."


def caption(mentions: Sequence[Mention], background: str) -> str:
    """The full description of a scene; `background` is like "a green meadow"."""
    return f"{sentence(mentions)} The background is {background}."


def repeated_trigram(text: str) -> tuple[str, ...] | None:
    """The first three words in a row that occur twice in the text, or None."""
    words = text.replace(".", " .").split()
    seen = set()
    for trigram in zip(words, words[1:], words[2:], strict=False):
        if trigram in seen:
            return trigram
        seen.add(trigram)
    return None


def locations(boxes: np.ndarray) -> str:
    """Boxes as location tokens. Bin k covers [k, k+1) thousandths of the side, as in the released model."""
    bins = np.clip(np.floor(np.asarray(boxes) * BINS), 0, BINS - 1).astype(int)
    return "".join(f"<loc_{b}>" for b in bins.ravel())


def answer(mentions: Sequence[Mention]) -> str:
    """What grounding should say: each phrase followed by its boxes, without those that stand for nothing."""
    return "".join(m.phrase + locations(m.boxes) for m in mentions if len(m.boxes))


def shortened(rng: np.random.Generator, mentions: Sequence[Mention]) -> list[Mention]:
    """A random subset in random order, the table last: the model must read the prompt to know what to find."""
    count = int(rng.integers(1, len(mentions) + 1))
    chosen = [mentions[i] for i in rng.permutation(len(mentions))[:count]]
    return sorted(chosen, key=lambda m: m.phrase == TABLE_PHRASE)


def without_colours(mentions: Sequence[Mention]) -> list[Mention]:
    """The same mentions, single ones of a kind that occurs once named without colour: "a cup", "an apple"."""
    kinds = [m.kind for m in mentions]
    plain = []
    for m in mentions:
        if len(m.boxes) == 1 and kinds.count(m.kind) == 1 and m.phrase != TABLE_PHRASE:
            article = "an" if m.kind[0] in "aeiou" else "a"
            m = Mention(f"{article} {m.kind}", m.boxes, m.kind)
        plain.append(m)
    return plain


def miscounted(rng: np.random.Generator, mention: Mention, several: float, single: float) -> Mention:
    """The same things under a wrong number, "a blue cup" for two or the reverse, with a probability.

    It is `several` for more than one thing, `single` for one.
    """
    true = len(mention.boxes)
    if not mention.colour or rng.random() >= (several if true > 1 else single):
        return mention
    others = [n for n in (1, 1, 1, 2, 3) if n != true]
    said = others[int(rng.integers(len(others)))]
    return replace(mention, phrase=phrase_for(mention.kind, mention.colour, said))


def absent(rng: np.random.Generator, mentions: Sequence[Mention]) -> Mention:
    """A phrase for what no mention names; mostly it shares its colour or its kind with something that one does."""
    near = mentions[int(rng.integers(len(mentions)))]
    choice = rng.random()
    named = {(m.kind, m.colour) for m in mentions}
    free = [(k, c) for k in KINDS for c in TRAINING_COLOURS[k] if (k, c) not in named]
    like = [(k, c) for k, c in free if (c == near.colour if choice < 0.6 else k == near.kind)]
    pairs = like if like and choice > 0.2 else free  # nothing is like a table
    kind, colour = pairs[int(rng.integers(len(pairs)))]
    return Mention(phrase_for(kind, colour), np.zeros((0, 4)), kind)


def misquoted(rng: np.random.Generator, mentions: Sequence[Mention]) -> list[Mention]:
    """The mentions as a fallible caption has them: numbers are wrong, and things are named that are not there.

    Grounding that learns from these finds all the birds where a caption says "a bird", as the released models
    do, one where it says "two birds" of one, and leaves out what the caption made up.
    """
    said = [miscounted(rng, m, 0.5, 0.3) for m in mentions]
    for _ in range(int(rng.choice((0, 1, 2), p=(0.45, 0.4, 0.15)))):
        said.insert(int(rng.integers(len(said) + 1)), absent(rng, said))
    return sorted(said, key=lambda m: m.phrase == TABLE_PHRASE)


def caption_example(
    rng: np.random.Generator, mentions: Sequence[Mention], background: str
) -> tuple[str, list[bool]]:
    """The caption as an answer to learn, and for each mention in it whether its number is right.

    Some numbers are wrong, and not to be learnt: who has written "a blue cup" for two of them is to go on to
    the next thing, and not to call the second cup something else. One for several is by far the most common
    mistake of a caption.
    """
    told = [miscounted(rng, m, 0.3, 0.05) for m in mentions]
    return caption(told, background), [a is b for a, b in zip(told, mentions, strict=True)]


def grounding_example(
    rng: np.random.Generator, mentions: Sequence[Mention], background: str
) -> tuple[str, str]:
    """A (prompt, answer) pair of phrase grounding: the true caption in half of the cases, else a variant of it."""
    choice = rng.random()
    if choice < 0.5:
        return GROUNDING_PROMPT + caption(mentions, background), answer(mentions)
    chosen = shortened(rng, mentions)
    if choice < 0.72:
        return GROUNDING_PROMPT + caption(chosen, background), answer(chosen)
    if rng.random() < 0.5 and len({m.kind for m in mentions}) == len(mentions):
        chosen = without_colours(chosen)
    if choice < 0.88:
        opening = str(rng.choice(["", "A photo of", "There is", "A picture of"]))
        return GROUNDING_PROMPT + sentence(chosen, opening), answer(chosen)
    return GROUNDING_PROMPT + "<and>".join(m.phrase for m in chosen), answer(chosen)


def detection_example(rng: np.random.Generator, mentions: Sequence[Mention]) -> tuple[str, str]:
    """A (prompt, answer) pair of detection: all categories, or the one thing that is asked for."""
    if rng.random() < 0.5:
        m = mentions[int(rng.integers(len(mentions)))]
        return OPEN_VOCABULARY_PROMPT.format(m.phrase), answer([m])
    by_kind: dict[str, list[np.ndarray]] = {}
    for m in mentions:
        by_kind.setdefault(m.kind, []).append(m.boxes)
    return DETECTION_PROMPT, answer([Mention(k, np.concatenate(b)) for k, b in by_kind.items()])


def parse_answer(text: str) -> list[Mention]:
    """The inverse of `answer`; a phrase with fewer than four locations is dropped, and so is a remainder of four."""
    mentions = []
    for phrase, run in re.findall(r"([^<>]+)((?:<loc_\d+>)+)", text):
        bins = [int(b) for b in re.findall(r"<loc_(\d+)>", run)]
        whole = len(bins) // 4 * 4
        if whole:
            boxes = (np.array(bins[:whole], float).reshape(-1, 4) + 0.5) / BINS
            mentions.append(Mention(phrase.strip(), boxes))
    return mentions
