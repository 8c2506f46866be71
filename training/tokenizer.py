"""The small model's tokenizer and processor, in the layout of the released Florence-2 checkpoints.

Byte-level BPE with `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3; the merges are learnt on drawn captions, so that
every word of them is one token, and any other text is spelt in pieces. Then come the special tokens, the
thousand locations among them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessor, Florence2Processor, PreTrainedTokenizerFast

from florence2_sam2.training.backgrounds import BACKGROUNDS
from florence2_sam2.training.captions import (
    BINS,
    CAPTION_PROMPT,
    DETECTION_PROMPT,
    GROUNDING_PROMPT,
    grounding_example,
)
from florence2_sam2.training.scenes import draw_scene
from florence2_sam2.training.vocabulary import COLOURS, KINDS, NUMBERS, TABLE_PHRASE

OTHER_PROMPTS = (
    "What is the text in the image?",
    "What is the text in the image, with regions?",
    "What does the image describe?",
    "Describe in detail what is shown in the image.",
    "Locate the objects in the image, with their descriptions.",
    "Locate the region proposals in the image.",
)
_PAIRED = ("cap", "ncap", "dcap", "grounding", "seg")
SPECIAL_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{i}>" for i in range(BINS)),
    *(t for name in _PAIRED for t in (f"<{name}>", f"</{name}>")),
    *("<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>", "<image>"),
)
_BANNED = """it I me mine you your yours he him his she her hers they them their theirs one oneself we us our ours
its theirs myself yourself himself herself itself ourselves yourselves themselves this that these those who whom
whose which what all another any anybody anyone anything each everybody everyone everything few many nobody none
several some somebody someone something image images the a an lots"""
BANNED_PHRASES = sorted(
    {*_BANNED.split(), "each other", "one another", "the image", "a group", "other objects", "a set"}
)
POST_PROCESSING: dict[str, dict[str, Any]] = {
    "ocr": {"PATTERN": r"(.+?)" + r"<loc_(\d+)>" * 8, "AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": BANNED_PHRASES},
    **{
        name: {}
        for name in (
            "pure_text",
            "description_with_bboxes",
            "description_with_polygons",
            "polygons",
            "bboxes",
            "description_with_bboxes_or_polygons",
        )
    },
}


def corpus(scenes: int = 1500, seed: int = 1) -> list[str]:
    """Sentences the merges are learnt on: prompts, captions, and every word both after a space and alone."""
    rng = np.random.default_rng(seed)
    text = [CAPTION_PROMPT, DETECTION_PROMPT, *OTHER_PROMPTS] * 20
    for _ in range(scenes):
        scene = draw_scene(rng, 48)
        text.append(GROUNDING_PROMPT + scene.caption)
        text.append(grounding_example(rng, scene.mentions(), scene.background)[0])
    kinds = [*KINDS, *(k.plural for k in KINDS.values()), "table"]
    words = [
        *kinds,
        *COLOURS,
        *NUMBERS.values(),
        "a",
        "an",
        "large",
        "tiny",
        *TABLE_PHRASE.split(),
        *BACKGROUNDS,
    ]
    text += [f"{w} {w}" for w in words] * 30
    return text


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The same tokenizer every time: corpus and merges come from a fixed seed."""
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1100,
        min_frequency=5,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    bpe.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        sep_token="</s>",
        cls_token="<s>",
        mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The number of one token."""
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)
    return index


def save_processor(tokenizer: PreTrainedTokenizerFast, side: int, image_tokens: int, folder: Path) -> None:
    """Write what `Florence2Processor.from_pretrained(folder)` needs; works without torchvision."""
    size = {"height": side, "width": side}
    pictures = CLIPImageProcessor(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=3,  # bicubic, as released
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pictures.image_seq_length = image_tokens  # type: ignore[attr-defined]
    tokenizer.backend_tokenizer.no_padding()  # training's padding must not travel with the file
    tokenizer.backend_tokenizer.no_truncation()
    processor = Florence2Processor(
        image_processor=pictures, tokenizer=tokenizer, post_processor_config=POST_PROCESSING
    )
    processor.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)  # a third of the size
