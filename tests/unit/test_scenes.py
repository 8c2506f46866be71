"""Drawn scenes: reproducible, true to their masks, fair to the held-out pairs, and sayable."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from florence2_sam2.training.captions import (
    Mention,
    absent,
    answer,
    caption,
    caption_example,
    detection_example,
    grounding_example,
    misquoted,
    parse_answer,
    repeated_trigram,
)
from florence2_sam2.training.outlines import OUTLINES
from florence2_sam2.training.rendering import MATERIALS, NOTHING, Sprite, apart, draw_sprite
from florence2_sam2.training.scenes import MIN_VISIBLE, Scene, draw_scene, squeezed
from florence2_sam2.training.vocabulary import HELD_OUT_PAIRS, KINDS, TABLE, TABLE_PHRASE, phrase_for


def scenes(count: int, seed: int = 7, size: int = 96, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, size, held_out=held_out) for _ in range(count)]


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = scenes(5), scenes(5)
    for a, b in zip(first, second, strict=True):
        assert a.caption == b.caption
        np.testing.assert_array_equal(a.image, b.image)
        for x, y in zip(a.objects, b.objects, strict=True):
            np.testing.assert_array_equal(x.mask, y.mask)


def test_another_seed_draws_another_scene() -> None:
    assert not np.array_equal(scenes(1, seed=1)[0].image, scenes(1, seed=2)[0].image)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (320, 200), (90, 160)])
def test_a_scene_has_the_size_that_was_asked_for(width: int, height: int) -> None:
    scene = draw_scene(np.random.default_rng(3), width, height)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert all(o.mask.shape == (height, width) and o.mask.dtype == bool for o in scene.objects)


def test_boxes_are_tight_around_the_masks_of_things() -> None:
    for scene in scenes(60):
        for thing in scene.objects:
            rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            if thing.kind == TABLE:  # the box of the whole table, the mask of what is seen of it
                assert thing.box[0] <= tight[0]
                assert thing.box[1] <= tight[1]
            else:
                np.testing.assert_array_equal(thing.box, tight)
                assert MIN_VISIBLE <= thing.visible <= 1


def test_masks_do_not_overlap() -> None:
    for scene in scenes(60):
        assert np.sum([o.mask for o in scene.objects], axis=0).max() <= 1


def test_training_scenes_never_show_a_held_out_pair() -> None:
    seen = {(o.kind, o.colour) for scene in scenes(400, size=48) for o in scene.objects}
    assert len(seen) > 150
    assert not seen & HELD_OUT_PAIRS


def test_held_out_scenes_always_show_one() -> None:
    for scene in scenes(60, held_out=True):
        assert {(o.kind, o.colour) for o in scene.objects} & HELD_OUT_PAIRS


def test_every_kind_has_a_held_out_colour_among_its_own() -> None:
    assert {kind for kind, _ in HELD_OUT_PAIRS} == set(KINDS)
    assert all(kind.held_out in kind.colours and len(kind.colours) >= 5 for kind in KINDS.values())


def test_the_world_is_large_enough() -> None:
    assert sum(not kind.shape for kind in KINDS.values()) >= 20
    assert set(OUTLINES) == set(KINDS)
    assert all(forms.count >= 3 for forms in OUTLINES.values())


def test_captions_name_everything_and_repeat_no_trigram() -> None:
    for scene in scenes(300, size=48):
        assert repeated_trigram(scene.caption) is None, scene.caption
        assert all(o.phrase in scene.caption for o in scene.objects)
        assert len({o.phrase for o in scene.objects}) == len(scene.mentions())


def test_there_are_one_to_eight_things_and_some_of_one_kind() -> None:
    drawn = scenes(300, size=48)
    counts = {sum(o.kind != TABLE for o in scene.objects) for scene in drawn}
    assert min(counts) == 1
    assert 6 <= max(counts) <= 8
    assert any("two red" in scene.caption for scene in scenes(600, seed=1, size=48))
    assert any("on a wooden table" in scene.caption for scene in drawn)


def test_training_prompts_have_answers_with_four_locations_a_box() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(100, size=48):
        mentions = scene.mentions()
        boxes = sum(len(m.boxes) for m in mentions)
        assert answer(mentions).count("<loc_") == 4 * boxes
        for prompt, target in (
            grounding_example(rng, mentions, scene.background),
            detection_example(rng, mentions),
        ):
            assert prompt.startswith("Locate")
            assert target.count("<loc_") % 4 == 0
            assert target.count("<loc_") > 0


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("apple", "red"), "a red apple"),
        (("car", "orange"), "an orange car"),
        (("car", "orange", 1, "large"), "a large orange car"),
        (("leaf", "green", 3), "three green leaves"),
    ],
)
def test_phrases(arguments: tuple, phrase: str) -> None:
    assert phrase_for(*arguments) == phrase


def test_answers_are_read_back_within_a_bin() -> None:
    for scene in scenes(40, size=48):
        mentions = scene.mentions()
        read = parse_answer(answer(mentions))
        assert [m.phrase for m in read] == [m.phrase for m in mentions]
        for said, true in zip(read, mentions, strict=True):
            np.testing.assert_allclose(said.boxes, true.boxes, atol=1.01e-3)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("", []),
        ("a cup", []),
        ("a cup<loc_1><loc_2><loc_3>", []),
        ("a cup<loc_0><loc_0><loc_10><loc_999>", [("a cup", 1)]),
        ("two cups<loc_0><loc_0><loc_9><loc_9><loc_1><loc_1><loc_8><loc_8><loc_5>", [("two cups", 2)]),
        ("<loc_0><loc_0><loc_9><loc_9>", []),
    ],
)
def test_malformed_answers_are_read_calmly(text: str, boxes: list) -> None:
    assert [(m.phrase, len(m.boxes)) for m in parse_answer(text)] == boxes


def test_a_squeezed_scene_keeps_its_boxes_as_fractions() -> None:
    scene = draw_scene(np.random.default_rng(11), 128, 80)
    square = squeezed(scene, 96)
    assert square.image.shape == (96, 96, 3)
    before, after = scene.mentions(), square.mentions()
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-6)


def test_grounding_leaves_out_what_a_phrase_does_not_stand_for() -> None:
    there = Mention("a red cup", np.array([[0.1, 0.2, 0.3, 0.4]]))
    assert answer([Mention("a blue cup", np.empty((0, 4))), there]) == answer([there])


def test_what_is_absent_is_not_there_and_never_a_held_out_pair() -> None:
    rng = np.random.default_rng(8)
    for scene in scenes(40, size=48):
        named = scene.mentions()
        there = {(o.kind, o.colour) for o in scene.objects}
        for _ in range(30):
            made_up = absent(rng, named)
            assert not len(made_up.boxes)
            assert (made_up.kind, made_up.colour) not in there | HELD_OUT_PAIRS


def test_beside_a_table_alone_anything_else_is_absent() -> None:
    rng = np.random.default_rng(8)
    table = [Mention(TABLE_PHRASE, np.array([[0, 0.5, 1, 1]]), TABLE)]
    assert len({absent(rng, table).phrase for _ in range(60)}) > 30


def test_misquoted_captions_keep_every_box_and_repeat_no_trigram() -> None:
    rng = np.random.default_rng(9)
    miscounts = additions = 0
    for scene in scenes(120, size=48):
        mentions = scene.mentions()
        said = misquoted(rng, mentions)
        assert answer(said).count("<loc_") == answer(mentions).count("<loc_")
        kept = [m for m in said if len(m.boxes)]
        assert len(kept) == len(mentions)
        for a, b in zip(kept, mentions, strict=True):
            np.testing.assert_array_equal(a.boxes, b.boxes)
        miscounts += [m.phrase for m in kept] != [m.phrase for m in mentions]
        additions += len(said) > len(kept)
        assert repeated_trigram(caption(said, scene.background)) is None
        assert len({(m.kind, m.colour) for m in said}) == len(said)
    assert miscounts > 10
    assert additions > 30


def test_caption_examples_mark_the_numbers_that_are_wrong() -> None:
    rng = np.random.default_rng(10)
    wrong = 0
    for scene in scenes(120, size=48):
        mentions = scene.mentions()
        text, learnt = caption_example(rng, mentions, scene.background)
        assert len(learnt) == len(mentions)
        wrong += len(mentions) - sum(learnt)
        for mention, right in zip(mentions, learnt, strict=True):
            assert right == (mention.phrase in text)
        assert (text == scene.caption) == all(learnt)
    assert wrong > 10


def test_things_come_in_twos_and_threes_as_often_as_asked() -> None:
    def share(several: float) -> float:
        """Of things that share their phrase with another."""
        things = [
            [thing.phrase for thing in draw_scene(np.random.default_rng(seed), 96, several=several).objects]
            for seed in range(30)
        ]
        return sum(names.count(name) > 1 for names in things for name in names) / sum(map(len, things))

    assert share(0.0) == 0
    assert share(0.35) > share(0.13) > 0


def test_a_handle_does_not_vanish_on_a_table_of_its_wood() -> None:
    """Things keep their outlines, whatever is behind them."""
    wood = np.array([MATERIALS["wood"]], np.float32)

    def draw(seed: int, behind: np.ndarray) -> Sprite:
        rng = np.random.default_rng(seed)
        return draw_sprite(rng, "hammer", "black", 60, np.array([0, -1], np.float32), behind=behind)

    def vanishing(sprite: Sprite) -> float:
        near = np.sqrt(((sprite.rgb - wood) ** 2).sum(-1)) < 30
        return float(near[sprite.alpha > 127].mean())

    for seed in range(20):
        plain, kept = draw(seed, NOTHING), draw(seed, wood)
        np.testing.assert_array_equal(plain.alpha, kept.alpha)
        assert vanishing(plain) > 0.05
        assert vanishing(kept) < 0.01


def test_a_colour_is_only_changed_where_it_has_to_be() -> None:
    wood, red = np.array([126, 84, 48], np.float32), np.array([200, 30, 30], np.float32)
    for behind in (NOTHING, red[None], np.stack([red, wood + 40])):
        assert apart(wood, behind) is wood
    for behind in (wood[None], np.stack([wood * 0.5, wood]), np.stack([wood, wood * 0.5 + 120])):
        assert np.sqrt(((apart(wood, behind) - behind) ** 2).sum(-1)).min() > 30
