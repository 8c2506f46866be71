"""What the small Florence-2's texts cost in training: captions, phrases and locations."""

import torch
import torch.nn.functional as F
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from florence2_sam2.training.captions import BINS, CAPTION_PROMPT
from florence2_sam2.training.dense import divergence, soft_bins
from florence2_sam2.training.tokenizer import token_id
from florence2_sam2.training.vocabulary import NUMBERS

NUMBER_WEIGHT = 3.0  # of "a", "two", "three" among a caption's words


class TextLoss:
    """Next-token losses of prompts and answers, given the image tokens."""

    def __init__(self, model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.first = token_id(tokenizer, "<loc_0>")
        self.locations = slice(self.first, self.first + BINS)
        spelt = ("a", "an", *NUMBERS.values())
        self.numbers = torch.tensor([token_id(tokenizer, f"\u0120{word}") for word in spelt])

    def _encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        wrapped = [f"<s>{t}</s>" for t in texts]
        encoded = self.tokenizer(wrapped, add_special_tokens=False, padding=True, return_tensors="pt")
        return encoded.input_ids, encoded.attention_mask

    def _word_weights(self, labels: torch.Tensor, learnt: list[list[bool]]) -> torch.Tensor:
        """What each word of each caption counts, float [R, L]: numbers more, wrong ones nothing."""
        numbers = torch.isin(labels, self.numbers)
        weights = 1 + (NUMBER_WEIGHT - 1) * numbers.float()
        for row, flags in enumerate(learnt):  # each mention begins with its number
            places = numbers[row].nonzero()[: len(flags), 0]
            weights[row, places[~torch.tensor(flags)]] = 0
        return weights

    def _run(
        self, features: torch.Tensor, prompts: list[str], answers: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What encoder and decoder make of image tokens [R, T, D], R prompts and R answers: [R, T + P, D], [R, L, D].

        With it the answers' ids, int64 [R, L], and which of them the decoder is asked for, bool [R, L].
        """
        body = self.model.model
        ids, mask = self._encode(prompts)
        labels, label_mask = self._encode(answers)
        embedded = torch.cat([features, body.language_model.shared(ids)], 1)
        seen = torch.cat([torch.ones(features.shape[:2], dtype=mask.dtype), mask], 1)
        shifted = torch.cat([torch.full((len(labels), 1), 2), labels[:, :-1]], 1)  # `</s>` starts the decoder
        output = body(inputs_embeds=embedded, attention_mask=seen, decoder_input_ids=shifted, use_cache=False)
        scored = label_mask.bool()
        scored[:, 0] = False  # `<s>` is forced in generation
        return output.encoder_last_hidden_state, output.last_hidden_state, labels, scored

    @torch.no_grad()
    def certainty(
        self, features: torch.Tensor, captions: list[str], phrases: list[list[str]]
    ) -> list[list[float]]:
        """How sure the model is of each phrase's last two words, colour and kind, where the caption says it: 0 to 1.

        Which of two things comes first is a matter of taste: what else in the caption could stand at a word's place
        does not count against it. `features` [R, T, D]; `phrases` are those of each of the R captions, in its order.
        """
        _, decoded, labels, _ = self._run(features, [CAPTION_PROMPT] * len(captions), captions)
        likely = F.softmax(self.model.lm_head(decoded), -1)
        result = []
        for row, said in enumerate(phrases):
            begins = torch.isin(labels[row], self.numbers).nonzero()[: len(said), 0].tolist()
            kinds = [begin + len(phrase.split()) - 1 for begin, phrase in zip(begins, said, strict=True)]
            pairs = [(int(labels[row, k - 1]), int(labels[row, k])) for k in kinds]
            sure = []
            for k, (colour, kind) in zip(kinds, pairs, strict=True):
                of_colour = _share(likely[row, k - 1], colour, {c for c, _ in pairs})
                sure.append(of_colour * _share(likely[row, k], kind, {n for c, n in pairs if c == colour}))
            result.append(sure)
        return result

    def __call__(
        self,
        features: torch.Tensor,
        captions: list[tuple[str, list[bool]]],
        located: list[tuple[str, str]],
        sigma: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses of the captions' words, of the other answers' words, and of locations, and what the encoder says.

        `features` [R, T, D] belongs to the R captions and, its beginning, to the located examples; `sigma` is in
        location bins. The encoder's output, [R, T, D], is that at the image tokens of the captions' rows.
        """
        prompts = [CAPTION_PROMPT] * len(captions) + [p for p, _ in located]
        answers = [c for c, _ in captions] + [a for _, a in located]
        features = torch.cat([features, features[: len(located)]])
        encoded, decoded, labels, scored = self._run(features, prompts, answers)
        log_words = F.log_softmax(self.model.lm_head(decoded[scored]), -1)
        truth = labels[scored]
        placed = (truth >= self.first) & (truth < self.first + BINS)
        told = (torch.arange(len(labels))[:, None] < len(captions)).expand_as(scored)[scored]
        word_loss = -log_words.gather(1, truth[:, None])[:, 0]
        weights = self._word_weights(labels[: len(captions)], [learnt for _, learnt in captions])
        weights = weights[scored[: len(captions)]]
        caption_loss = (word_loss[told] * weights).sum() / weights.sum()
        places = (truth[placed] - self.first + 0.5) / BINS
        place_loss = divergence(log_words[placed][:, self.locations], soft_bins(places, sigma))
        seen_by_captions = encoded[: len(captions), : features.shape[1]]
        return caption_loss, word_loss[~told & ~placed].mean(), place_loss, seen_by_captions


def _share(likely: torch.Tensor, word: int, as_good: set[int]) -> float:
    """The probability of `word` once the other words that are as good are out of the question. `likely` [V]."""
    others = float(likely[sorted(as_good - {word})].sum())
    return float(likely[word]) / max(1 - others, 1e-9)
