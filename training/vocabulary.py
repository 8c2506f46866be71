"""The words of the drawn world: kinds of things, their colours, and the pairs kept out of training.

Everything here is data. A *pair* is (kind, colour); one pair of every kind is held out: no training
scene ever shows it, so a model that finds "a purple apple" has composed the two words by itself.
"""

from dataclasses import dataclass

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (205, 32, 36),
    "orange": (240, 126, 18),
    "yellow": (238, 208, 48),
    "green": (46, 148, 58),
    "blue": (38, 84, 200),
    "purple": (134, 56, 176),
    "pink": (240, 138, 180),
    "brown": (116, 68, 36),
    "white": (240, 240, 236),
    "black": (34, 34, 38),
    "gray": (130, 132, 136),
}

_PAINTED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
_FRUIT = ("red", "orange", "yellow", "green", "purple")
_PETALS = ("red", "orange", "yellow", "purple", "pink", "white", "blue")


@dataclass(frozen=True)
class Kind:
    """One kind of thing. `tilt` is the largest rotation in degrees that still looks natural."""

    plural: str
    colours: tuple[str, ...]
    held_out: str
    tilt: float
    shape: bool = False


KINDS: dict[str, Kind] = {
    "apple": Kind("apples", _FRUIT, "purple", 20),
    "pear": Kind("pears", _FRUIT, "red", 20),
    "banana": Kind("bananas", ("yellow", "green", "brown", "orange", "red"), "red", 45),
    "mushroom": Kind("mushrooms", ("red", "brown", "white", "orange", "purple", "yellow"), "purple", 12),
    "rock": Kind("rocks", ("gray", "brown", "black", "white", "red"), "red", 25),
    "tree": Kind("trees", ("green", "orange", "yellow", "red", "pink", "white"), "pink", 5),
    "flower": Kind("flowers", _PETALS, "orange", 15),
    "leaf": Kind("leaves", ("green", "red", "orange", "yellow", "brown", "purple"), "purple", 60),
    "fish": Kind("fish", ("red", "orange", "yellow", "blue", "gray", "green", "pink"), "green", 15),
    "bird": Kind("birds", ("red", "yellow", "blue", "brown", "white", "black", "green"), "green", 12),
    "butterfly": Kind("butterflies", _PETALS, "pink", 30),
    "cup": Kind("cups", _PAINTED, "orange", 8),
    "bottle": Kind("bottles", ("green", "brown", "blue", "red", "white", "yellow", "purple"), "red", 10),
    "key": Kind("keys", ("gray", "yellow", "brown", "red", "blue", "black"), "red", 60),
    "lamp": Kind("lamps", _PAINTED, "blue", 5),
    "book": Kind("books", _PAINTED, "pink", 20),
    "hat": Kind("hats", (*_PAINTED, "brown", "gray"), "yellow", 12),
    "umbrella": Kind("umbrellas", _PAINTED, "green", 20),
    "spoon": Kind("spoons", ("gray", "brown", "red", "blue", "yellow", "white"), "blue", 60),
    "hammer": Kind("hammers", ("gray", "black", "red", "blue", "yellow"), "blue", 50),
    "ball": Kind("balls", _PAINTED, "purple", 60),
    "house": Kind("houses", (*_PAINTED, "brown", "gray"), "yellow", 3),
    "car": Kind("cars", (*_PAINTED, "gray"), "purple", 6),
    "boat": Kind("boats", (*_PAINTED, "brown"), "pink", 8),
    "airplane": Kind(
        "airplanes", ("red", "orange", "yellow", "blue", "white", "gray", "green"), "orange", 25
    ),
    "star": Kind("stars", _PAINTED, "green", 30, shape=True),
    "heart": Kind("hearts", _PAINTED, "yellow", 20, shape=True),
    "ring": Kind("rings", (*_PAINTED, "gray"), "white", 30, shape=True),
    "square": Kind("squares", _PAINTED, "red", 15, shape=True),
    "triangle": Kind("triangles", _PAINTED, "blue", 15, shape=True),
    "cross": Kind("crosses", _PAINTED, "black", 15, shape=True),
}

TABLE = "table"
TABLE_PHRASE = "a wooden table"
NUMBERS = {2: "two", 3: "three", 4: "four"}

#: kind -> colours a training scene may use, and kind -> the one colour it never uses
TRAINING_COLOURS = {k: tuple(c for c in v.colours if c != v.held_out) for k, v in KINDS.items()}
HELD_OUT_PAIRS = frozenset((k, v.held_out) for k, v in KINDS.items())


def phrase_for(kind: str, colour: str, count: int = 1, size: str = "") -> str:
    """The noun phrase of a caption: "a red apple", "an orange car", "a large blue boat", "two red apples"."""
    if count > 1:
        return f"{NUMBERS[count]} {colour} {KINDS[kind].plural}"
    words = " ".join(w for w in (size, colour, kind) if w)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
