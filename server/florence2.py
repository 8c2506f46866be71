"""Florence-2's language half as the `florence2` model serves it: features and a prompt in, text and regions out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from florence2_sam2.postprocess.regions import Region, parse_regions
from florence2_sam2.server import manifest
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.florence2_prompts import Prompts
from florence2_sam2.server.generation.decoder import Decoder, ImageFeatures
from florence2_sam2.server.generation.engine import Engine, Pulse
from florence2_sam2.server.generation.settings import Settings, resolve
from florence2_sam2.server.generation.waiting import Completed
from florence2_sam2.server.generation.work import Work

_PURE_TEXT = "pure_text"


@dataclass(frozen=True)
class Florence2Answer:
    """What the model said.

    `text`: the answer as text; location tokens stay in it (`<loc_17>`) but for tasks that answer in words only.
    `regions`: in pixels of the upright picture, those marked `dropped` included. `token_ids` INT64 [L]: what
    transformers' `generate` returns without its first token. `log_probability`: of the whole answer.
    `token_log_probabilities` FP32 [L]: of each token, given those before; 0 of one that the settings force.
    `timings_ms`: `waiting` for a place, `encoding` the prompt, `decoding`.
    """

    text: str
    regions: list[Region]
    token_ids: NDArray[np.int64]
    warnings: list[str]
    timings_ms: dict[str, float]
    steps: int
    log_probability: float
    token_log_probabilities: NDArray[np.float32]

    def info(self) -> dict[str, Any]:
        """What is neither text nor region, as JSON."""
        return {
            "warnings": self.warnings,
            "timings_ms": self.timings_ms,
            "generated_tokens": len(self.token_ids),
            "steps": self.steps,
            "log_probability": self.log_probability,
        }


class Florence2:
    """Answers many requests at once on the graphs of one exported checkpoint.

    Args:
        folder: the version folder, with the graphs, the tokenizer and the manifest.
        max_rows: sequences that decode together; a request takes one per beam.
        max_waiting: requests that may wait for rows; more are refused.
        interactive_rows: rows that `bulk` requests leave to `interactive` ones.
    """

    def __init__(
        self,
        folder: Path,
        florence2: manifest.Florence2,
        max_rows: int = 24,
        max_waiting: int = 1024,
        interactive_rows: int = 3,
    ) -> None:
        self._manifest = florence2
        self._prompts = Prompts(folder, florence2)
        self._answer_tokens = self._prompts.answer_tokens()
        self._max_rows = max_rows
        decoder = Decoder(folder, florence2, max_rows)
        self._device = decoder.device
        self._engine = Engine(decoder, max_waiting, interactive_rows)

    def submit(
        self,
        image_features: ImageFeatures,
        task: str,
        text: str = "",
        image_size: tuple[int, int] | None = None,
        options: Florence2Options = Florence2Options(),  # noqa: B008 - frozen
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[list[int]], None] | None = None,
        alone: bool = False,
    ) -> Future[Florence2Answer]:
        """Queue a request.

        Args:
            image_features: FP32 [T, D] or [1, T, D], the vision encoder's. In a device's memory they are taken as they
                are: that they are finite is not looked at.
            task: for instance `<MORE_DETAILED_CAPTION>`.
            text: what the task's prompt takes; empty for tasks that take none.
            image_size: width and height of the upright picture, needed by tasks that answer with regions.
            cancelled: asked before the request begins and after each token, from another thread: true ends it with
                Cancelled, an exception with that exception.
            progress: gets the token ids so far, now and then, from another thread; a beam search may take them back.
            alone: whether nothing else is under way, as far as is known.

        Raises:
            InvalidRequest: a field is wrong.
            Overloaded: too many requests wait.
        """
        features = self._features(image_features)
        prompt = self._prompts.encode(task, text, options.phrases)
        settings = self._settings(options)
        form = self._manifest.answers.get(task, _PURE_TEXT)
        if form != _PURE_TEXT and image_size is None:
            raise InvalidRequest("image_size", f"is needed for {task}, which answers with regions")
        if image_size is not None and min(image_size) < 1:
            raise InvalidRequest("image_size", "must be width and height, each of at least 1")

        answer: Future[Florence2Answer] = Future()
        answer.set_running_or_notify_cancel()  # the way to cancel is `cancelled`

        def finish(generated: Future[Completed]) -> None:
            # Runs in the engine's thread; an exception of ours must reach the caller all the same.
            try:
                answer.set_result(
                    self._answer(generated.result(), form, image_size or (1, 1), prompt.warnings)
                )
            except Exception as error:
                answer.set_exception(error)

        running = self._engine.submit(
            features, prompt.ids, settings, options.priority, cancelled, progress, alone
        )
        running.add_done_callback(finish)
        return answer

    def words(self, token_ids: list[int]) -> str:
        """The words of an answer that is not finished."""
        text, _ = self._prompts.words(token_ids)
        return text.rstrip("\ufffd")  # a character's other bytes are in tokens to come

    def load(self) -> dict[str, int]:
        """How many requests wait and decode, and the rows in use."""
        return self._engine.load()

    def work(self) -> Work:
        """What the decoder has done until now."""
        return self._engine.work

    def pulse(self) -> Pulse:
        """Whether the engine works."""
        return self._engine.pulse()

    def close(self) -> None:
        """End the engine's thread; what is not finished gets Overloaded."""
        self._engine.close()

    def _features(self, image_features: ImageFeatures) -> ImageFeatures:
        expected = (self._manifest.image_tokens, self._manifest.feature_dim)
        if not isinstance(image_features, np.ndarray):
            return self._on_device(image_features, (1, *expected))
        features = (
            image_features[0] if image_features.ndim == 3 and len(image_features) == 1 else image_features
        )
        if features.shape != expected or features.dtype != np.float32:
            raise InvalidRequest(
                "image_features",
                f"must be FP32 {list(expected)}, not {features.dtype} {list(features.shape)}",
            )
        if not np.isfinite(features).all():
            raise InvalidRequest("image_features", "must be finite numbers")
        return features

    def _on_device(self, features: OrtValue, expected: tuple[int, ...]) -> OrtValue:
        if features.data_type() != "tensor(float)" or tuple(features.shape()) != expected:
            raise InvalidRequest(
                "image_features",
                f"must be FP32 {list(expected)}, not {features.data_type()} {features.shape()}",
            )
        if features.device_name().lower() != self._device:
            raise InvalidRequest(
                "image_features",
                f"lies in {features.device_name()}'s memory, and Florence-2 decodes on the {self._device}",
            )
        return features

    def _settings(self, options: Florence2Options) -> Settings:
        positions = self._manifest.decoder.decoder_positions
        if options.max_new_tokens is not None and options.max_new_tokens > positions:
            raise InvalidRequest(
                "options.max_new_tokens", f"{positions} is the most that the model can write"
            )
        settings = resolve(self._manifest, options.num_beams, options.max_new_tokens, options.min_new_tokens)
        if settings.min_new_tokens > settings.max_new_tokens:
            raise InvalidRequest(
                "options.min_new_tokens", f"must not exceed max_new_tokens, {settings.max_new_tokens}"
            )
        if settings.num_beams > self._max_rows:
            raise InvalidRequest("options.num_beams", f"this server decodes {self._max_rows} beams at most")
        return settings

    def _answer(
        self, completed: Completed, form: str, image_size: tuple[int, int], warnings: list[str]
    ) -> Florence2Answer:
        ids = completed.token_ids
        if form == _PURE_TEXT:
            text, removed = self._prompts.words(ids)
            regions: list[Region] = []
            found = [f"removed from the text: {' '.join(removed)}"] if removed else []
        else:
            text = self._prompts.text(ids)
            parsed = parse_regions(
                ids,
                form,
                self._answer_tokens,
                *image_size,
                self._manifest.banned_phrases,
                completed.token_log_probabilities,
            )
            regions, found = parsed.regions, parsed.warnings
        return Florence2Answer(
            text=text,
            regions=regions,
            token_ids=np.array(ids, np.int64),
            warnings=[*warnings, *found],
            timings_ms={
                "waiting": round(1e3 * completed.waiting_s, 3),
                "encoding": round(1e3 * completed.encoding_s, 3),
                "decoding": round(1e3 * completed.decoding_s, 3),
            },
            steps=completed.steps,
            log_probability=completed.log_probability,
            token_log_probabilities=np.array(completed.token_log_probabilities, np.float32),
        )
