"""The decoder's caches: step by step with rows joining, forking, moving and leaving = the whole sequence at once.

Runs the packaged small model. The first token right and the rest wrong is what a mistake here looks like.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from florence2_sam2.server import manifest
from florence2_sam2.server.generation.cache import KeyValueCache
from florence2_sam2.server.generation.decoder import DECODER, Decoder, Encoded
from florence2_sam2.server.generation.embedding import EMBEDDING

FOLDER = Path(__file__).resolve().parents[2] / "model_repository" / "florence2" / "1"
SPEC = manifest.Florence2.read(FOLDER)
TABLE = np.load(FOLDER / EMBEDDING).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(FOLDER / DECODER), providers=["CPUExecutionProvider"])


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(FOLDER, SPEC, max_rows=5)


def features(seed: int) -> NDArray[np.float32]:
    shape = (SPEC.image_tokens, SPEC.feature_dim)
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def prompt(length: int) -> NDArray[np.int64]:
    middle = np.random.default_rng(length).integers(5, SPEC.tokens.location_first, length - 2)
    return np.array([SPEC.tokens.bos, *middle, SPEC.tokens.eos], np.int64)


def whole_sequence(
    graph: onnxruntime.InferenceSession, encoded: Encoded, tokens: list[int]
) -> NDArray[np.float32]:
    """Logits after `tokens`, from one run of the graph without any past."""
    shape = SPEC.decoder
    feeds = {
        "inputs_embeds": TABLE[[tokens]],
        "past_lengths": np.zeros(1, np.int64),
        "encoder_lengths": np.array([encoded.length], np.int64),
        "rows": np.zeros((1, 1), np.int64),
        "places": np.zeros(1, np.int64),
    }
    for index, array in enumerate(encoded.arrays):
        kind = ("key", "value")[index % 2]
        feeds[f"self_{kind}_{index // 2}"] = np.zeros((1, shape.heads, 0, shape.head_dim), np.float32)
        feeds[f"cross_{kind}_{index // 2}"] = array[None]
    (logits,) = graph.run(["logits"], feeds)
    return np.array(logits[0])


def test_rows_of_different_age_and_prompt_share_steps(
    decoder: Decoder, graph: onnxruntime.InferenceSession
) -> None:
    """Random comings and goings over 150 steps, past two growths of the caches."""
    rng = np.random.default_rng(0)
    prompts = [decoder.encode(features(n), prompt(length)) for n, length in enumerate((3, 40, 100, 9))]
    rows: dict[int, tuple[Encoded, list[int]]] = {}
    for step in range(150):
        if not rows or (len(rows) < decoder.max_rows and rng.random() < 0.3):
            encoded = prompts[rng.integers(len(prompts))]
            rows[decoder.add(encoded)] = (encoded, [])
        if len(rows) < decoder.max_rows and rng.random() < 0.1:
            source = int(rng.choice(list(rows)))
            rows[decoder.fork(source)] = (rows[source][0], list(rows[source][1]))
        if rng.random() < 0.1:
            source, target = (int(row) for row in rng.choice(list(rows), 2))
            if rows[source][0] is rows[target][0]:
                decoder.copy_past(source, target)
                rows[target] = (rows[source][0], list(rows[source][1]))
        if rng.random() < 0.08 and step < 100:
            leaving = [
                int(row) for row in rng.choice(list(rows), rng.integers(1, len(rows) + 1), replace=False)
            ]
            moved = decoder.remove(leaving)
            rows = {moved.get(row, row): state for row, state in rows.items() if row not in leaving}
            if not rows:
                continue
        assert sorted(rows) == list(range(decoder.rows))
        tokens = rng.integers(4, SPEC.tokens.vocabulary - 1, decoder.rows).tolist()
        logits = decoder.step(tokens)
        for row, (_, said) in rows.items():
            said.append(tokens[row])
        for checked in rows if step % 5 == 0 else [int(rng.choice(list(rows)))]:
            expected = whole_sequence(graph, *rows[checked])
            np.testing.assert_allclose(logits[checked], expected, atol=2e-4, rtol=1e-4)
    assert max(len(said) for _, said in rows.values()) > 64, "the caches should have grown"


def test_a_row_has_the_same_bits_whatever_shares_its_prompt_and_its_step(decoder: Decoder) -> None:
    """Alone, as one of three of its prompt, and beside another prompt that has one: as greedy and beam requests do."""
    first, second = (decoder.encode(features(n), prompt(n)) for n in (8, 30))
    tokens = np.random.default_rng(2).integers(4, SPEC.tokens.vocabulary - 1, (12, 2)).tolist()

    def said(*rows: int) -> list[NDArray[np.float32]]:
        """Logits of the first row at each step; rows with 0 are of the first prompt, with 1 of the second."""
        made = [decoder.add((first, second)[rows[0]])]
        for row in rows[1:]:
            known = next((made[n] for n, other in enumerate(rows[: len(made)]) if other == row), None)
            made.append(decoder.add((first, second)[row]) if known is None else decoder.fork(known))
        logits = [decoder.step([step[row] for row in rows])[0].copy() for step in tokens]
        decoder.remove(range(decoder.rows))
        return logits

    for own in (0, 1):
        other = 1 - own
        alone = said(own)
        for company in ((own, own), (other,), (other, other, other), (own, other, own, other)):
            np.testing.assert_array_equal(said(own, *company), alone)


def test_rows_are_limited(decoder: Decoder) -> None:
    encoded = decoder.encode(features(0), prompt(4))
    for _ in range(decoder.max_rows):
        decoder.add(encoded)
    with pytest.raises(RuntimeError, match="5 rows"):
        decoder.add(encoded)


def test_the_longest_prompt_and_the_last_position_are_served(
    decoder: Decoder, graph: onnxruntime.InferenceSession
) -> None:
    encoded = decoder.encode(features(1), prompt(SPEC.decoder.encoder_positions - SPEC.image_tokens))
    assert encoded.length == SPEC.decoder.encoder_positions
    decoder.add(encoded)
    tokens = np.random.default_rng(1).integers(4, 100, SPEC.decoder.decoder_positions).tolist()
    for token in tokens:
        logits = decoder.step([token])
    np.testing.assert_allclose(logits[0], whole_sequence(graph, encoded, tokens), atol=2e-4, rtol=1e-4)


def test_cache_keeps_valid_positions_when_it_grows_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    cache = KeyValueCache(layers=2, max_rows=3, heads=2, head_dim=4, granularity=8)
    kept = [rng.normal(size=(4, 2, length, 4)).astype(np.float32) for length in (3, 8)]
    for row, array in enumerate(kept):
        cache.array[:, row, :, : array.shape[2]] = array
    lengths = np.array([3, 8])
    for needed, capacity in ((9, 16), (16, 16), (60, 64), (50, 64), (20, 24), (8, 8)):
        cache.fit(needed, lengths)
        assert cache.capacity == capacity
        for row, array in enumerate(kept):
            np.testing.assert_array_equal(cache.array[:, row, :, : array.shape[2]], array)
