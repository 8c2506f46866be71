"""Procedurally drawn scenes that look like pictures.

`draw_scene(rng)` draws one: 1 to 8 everyday things and shapes with textures, shading, shadows and overlaps on
one of several backgrounds, sometimes on a large wooden table, together with the truth about it: a caption,
and for each thing its phrase, box and mask. The same generator state gives the same scene. Only numpy,
OpenCV and Pillow are needed.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from florence2_sam2.training.backgrounds import BACKGROUNDS, wooden_table
from florence2_sam2.training.captions import Mention, caption
from florence2_sam2.training.rendering import Sprite, cast_shadow, draw_sprite, grain, paste, window
from florence2_sam2.training.vocabulary import (
    HELD_OUT_PAIRS,
    KINDS,
    TABLE,
    TABLE_PHRASE,
    TRAINING_COLOURS,
    phrase_for,
)

MAX_OBJECTS = 8
MIN_VISIBLE = 0.55  # a thing that others hide more than this would be unfair to ask for
_GROUP_COUNTS = (1, 2, 3, 4, 5, 6)
_GROUP_WEIGHTS = (0.2, 0.25, 0.23, 0.17, 0.1, 0.05)
_CELLS = 6  # a background's colours are the means of so many times so many parts of it
_HELD_OUT = sorted(HELD_OUT_PAIRS)
_LARGE, _TINY = 0.4, 0.1  # fractions of the shorter side above and below which the caption says so


@dataclass(frozen=True)
class SceneObject:
    """One thing. `box` is float32 [4], xyxy in pixels, tight around the visible `mask`, bool [H, W].

    `visible` is the share of the thing's pixels that nothing covers. Several things may share a phrase.
    """

    phrase: str
    kind: str
    colour: str
    box: np.ndarray
    mask: np.ndarray
    visible: float


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 [H, W, 3] RGB, and what is in it, in the caption's order (left to right, table last)."""

    image: np.ndarray
    objects: list[SceneObject]
    caption: str
    background: str

    def mentions(self) -> list[Mention]:
        """The caption's phrases with their boxes as fractions of the sides."""
        height, width = self.image.shape[:2]
        scale = np.array([width, height, width, height], np.float32)
        groups: dict[str, list[SceneObject]] = {}
        for o in self.objects:
            groups.setdefault(o.phrase, []).append(o)
        return [Mention(p, np.stack([o.box for o in g]) / scale, g[0].kind) for p, g in groups.items()]


def squeezed(scene: Scene, side: int) -> Scene:
    """The scene resized to a square without regard to its aspect, as the models' processors do."""
    height, width = scene.image.shape[:2]
    scale = np.array([side / width, side / height] * 2, np.float32)

    def resize(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) > 0.5

    objects = [replace(o, box=o.box * scale, mask=resize(o.mask)) for o in scene.objects]
    # Florence-2's own filter: unlike OpenCV's it widens when it shrinks
    image = np.array(Image.fromarray(scene.image).resize((side, side), Image.Resampling.BICUBIC))
    return replace(scene, image=image, objects=objects)


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged. The caption stays, so its order may no longer be the picture's."""
    width = scene.image.shape[1]
    objects = [
        replace(o, box=np.array([width - o.box[2], o.box[1], width - o.box[0], o.box[3]], np.float32), mask=m)
        for o, m in ((o, o.mask[:, ::-1]) for o in scene.objects)
    ]
    return replace(scene, image=np.ascontiguousarray(scene.image[:, ::-1]), objects=objects)


@dataclass
class _Plan:
    """A thing before it is painted: which group it belongs to, and its sprite, already positioned."""

    kind: str
    colour: str
    size: float
    sprite: Sprite


def _choose_pairs(rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[str, str]]:
    """Distinct (kind, colour) pairs. With `held_out` the first, and about half of the others, are unseen ones."""
    pairs: list[tuple[str, str]] = []
    names = list(KINDS)
    while len(pairs) < count:
        if held_out and (not pairs or rng.random() < 0.5):
            kind, colour = _HELD_OUT[int(rng.integers(len(_HELD_OUT)))]
        else:
            kind = names[int(rng.integers(len(names)))]
            colour = TRAINING_COLOURS[kind][int(rng.integers(len(TRAINING_COLOURS[kind])))]
        if (kind, colour) not in pairs:
            pairs.append((kind, colour))
    return pairs


def _choose_size(rng: np.random.Generator, total: int, on_table: bool) -> float:
    """The longer side of a thing as a fraction of the picture's shorter side: 0.04 to 0.6, less in a crowd."""
    if rng.random() < 0.05:
        return float(rng.uniform(0.04, 0.1))
    low, high = {1: (0.22, 0.6), 2: (0.19, 0.5), 3: (0.17, 0.44), 4: (0.15, 0.38)}.get(total, (0.13, 0.32))
    if on_table:
        high = min(high, 0.36)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _position(
    rng: np.random.Generator,
    sprite: Sprite,
    taken: list[tuple[float, float, float]],
    table: np.ndarray | None,
    shape: tuple[int, int],
) -> bool:
    """Put the sprite where it overlaps others little; things on a table stand with their foot on it. In place."""
    height, width = shape
    h, w = sprite.alpha.shape
    radius = 0.25 * (h + w)
    for _ in range(25):
        x, y = rng.uniform(0, max(1, width - w)), rng.uniform(0, max(1, height - h))
        if table is not None and not table[min(height - 1, int(y + h * 0.9)), min(width - 1, int(x + w / 2))]:
            continue
        cx, cy = x + w / 2, y + h / 2
        if all(np.hypot(cx - a, cy - b) > 0.72 * (radius + r) for a, b, r in taken):
            taken.append((cx, cy, radius))
            sprite.left, sprite.top = round(x), round(y)
            return True
    return False


def _plan_things(
    rng: np.random.Generator,
    picture: np.ndarray,
    table: np.ndarray | None,
    light: np.ndarray,
    held_out: bool,
    several: float,
) -> list[_Plan]:
    height, width = picture.shape[:2]
    behind = cv2.resize(picture, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    groups = int(rng.choice(_GROUP_COUNTS, p=_GROUP_WEIGHTS))
    pairs = _choose_pairs(rng, groups, held_out)
    copies = [int(rng.integers(2, 4)) if rng.random() < several else 1 for _ in pairs]
    total = sum(copies)
    side = min(height, width)
    plans: list[_Plan] = []
    taken: list[tuple[float, float, float]] = []
    for (kind, colour), count in zip(pairs, copies, strict=True):
        size = _choose_size(rng, total, table is not None)
        if count > 1:
            size = min(size, 0.3)
        form = int(rng.integers(3))
        for _ in range(min(count, MAX_OBJECTS - len(plans))):
            pixels = max(5.0, side * size * rng.uniform(0.92, 1.08))
            sprite = draw_sprite(rng, kind, colour, pixels, light, form, behind)
            if _position(rng, sprite, taken, table, (height, width)):
                plans.append(_Plan(kind, colour, size, sprite))
    return plans


def _visible_masks(plans: list[_Plan], shape: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """Which thing each pixel shows, int [H, W] (-1 none; later things cover earlier ones), and visible shares."""
    owner = np.full(shape, -1, np.int16)
    for index, plan in enumerate(plans):
        place = window(plan.sprite, *shape)
        if place:
            outer, inner = place
            owner[outer][plan.sprite.alpha[inner] > 127] = index
    whole = [max(1, int((p.sprite.alpha > 127).sum())) for p in plans]
    counts = np.bincount(owner[owner >= 0], minlength=len(plans))
    return owner, [float(counts[i] / whole[i]) for i in range(len(plans))]


def _uncovered(plans: list[_Plan], shape: tuple[int, int]) -> tuple[list[_Plan], np.ndarray, list[float]]:
    """The plans without things that are hidden too much or have too few pixels to be anything."""
    while True:
        owner, visible = _visible_masks(plans, shape)
        counts = np.bincount(owner[owner >= 0], minlength=len(plans))
        bad = [i for i, v in enumerate(visible) if v < MIN_VISIBLE or counts[i] < 8]
        if not bad:
            return plans, owner, visible
        plans = [p for i, p in enumerate(plans) if i != bad[0]]


def _tight_box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _phrases(plans: list[_Plan]) -> dict[tuple[str, str], str]:
    """One phrase for each pair; a size word only where no other phrase has the same size word and colour."""
    phrases: dict[tuple[str, str], str] = {}
    used: set[tuple[str, str]] = set()
    for plan in plans:
        pair = plan.kind, plan.colour
        if pair in phrases:
            continue
        count = sum((p.kind, p.colour) == pair for p in plans)
        word = "large" if plan.size >= _LARGE else "tiny" if plan.size < _TINY else ""
        if count > 1 or (word, plan.colour) in used:
            word = ""
        used.add((word, plan.colour))
        phrases[pair] = phrase_for(plan.kind, plan.colour, count, word)
    return phrases


def _finish(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Camera effects: brightness, colour cast, blur, noise. Returns uint8."""
    height, width = picture.shape[:2]
    picture *= (rng.uniform(0.88, 1.08) * rng.uniform(0.97, 1.03, 3)).astype(np.float32)
    if rng.random() < 0.25:
        picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.8))
    picture += (grain(rng, height, width) * rng.uniform(0, 6))[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def draw_scene(
    rng: np.random.Generator,
    width: int = 320,
    height: int | None = None,
    held_out: bool = False,
    several: float = 0.13,
) -> Scene:
    """A random scene of `width` x `height` pixels (square unless a height is given).

    Training scenes (`held_out=False`) never show a pair of `HELD_OUT_PAIRS`; with `held_out=True` at least
    one thing of each scene is such a pair. `several` is the share of phrases that stand for two or three things.
    """
    shape = (height or width, width)
    while True:
        background = str(rng.choice(list(BACKGROUNDS)))
        picture = np.ascontiguousarray(BACKGROUNDS[background](rng, *shape), np.float32)
        table = wooden_table(rng, picture) if rng.random() < 0.3 else None
        angle = rng.uniform(-0.85 * np.pi, -0.15 * np.pi)  # the light comes from above
        light = np.array([np.cos(angle), np.sin(angle)], np.float32)
        plans = sorted(
            _plan_things(rng, picture, table, light, held_out, several),
            key=lambda p: p.sprite.top + p.sprite.alpha.shape[0],
        )
        plans, owner, visible = _uncovered(plans, shape)
        if plans and (not held_out or any((p.kind, p.colour) in HELD_OUT_PAIRS for p in plans)):
            break
    strength = rng.uniform(0.15, 0.5) if rng.random() < 0.8 else 0.0
    for plan in plans:  # far things first: nearer ones cover them
        reach = max(1.0, max(plan.sprite.alpha.shape) * 0.06)
        if strength:
            cast_shadow(
                picture,
                plan.sprite,
                (round(-light[0] * reach), round(-light[1] * reach)),
                max(1, round(reach * 0.7)),
                strength,
            )
        paste(picture, plan.sprite)
    return _truth(_finish(rng, picture), plans, owner, visible, table, background)


def _truth(
    image: np.ndarray,
    plans: list[_Plan],
    owner: np.ndarray,
    visible: list[float],
    table: np.ndarray | None,
    background: str,
) -> Scene:
    """The scene record: objects in reading order, those of one phrase together, and the caption."""
    boxes = [_tight_box(owner == i) for i in range(len(plans))]
    order = sorted(range(len(plans)), key=lambda i: float(boxes[i][0] + boxes[i][2]))
    phrases = _phrases([plans[i] for i in order])
    objects = []
    for pair, phrase in phrases.items():
        members = [i for i in order if (plans[i].kind, plans[i].colour) == pair]
        objects += [SceneObject(phrase, *pair, boxes[i], owner == i, visible[i]) for i in members]
    if table is not None:
        mask = table & (owner < 0)
        objects.append(
            SceneObject(TABLE_PHRASE, TABLE, "", _tight_box(table), mask, float(mask.sum() / table.sum()))
        )
    scene = Scene(image, objects, "", background)
    return Scene(image, objects, caption(scene.mentions(), background), background)
