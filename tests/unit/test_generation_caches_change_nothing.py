"""The decoder's caches: step by step with rows joining, forking, moving and leaving = the whole sequence at once.

Runs the packaged small model. The first token right and the rest wrong is what a mistake here looks like. Caches in a
device's memory are tried as well; here the device is the CPU, but onnxruntime does with them what it does on a GPU.
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
from florence2_sam2.server.generation.device_cache import DeviceCache
from florence2_sam2.server.generation.device_memory import Block, DeviceMemory, borrowed
from florence2_sam2.server.generation.embedding import EMBEDDING
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.generation.settings import resolve

FOLDER = Path(__file__).resolve().parents[2] / "model_repository" / "florence2" / "1"
SPEC = manifest.Florence2.read(FOLDER)
TABLE = np.load(FOLDER / EMBEDDING).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(FOLDER / DECODER), providers=["CPUExecutionProvider"])


@pytest.fixture(params=[False, True], ids=["arrays", "device"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return Decoder(FOLDER, SPEC, max_rows=5, on_device=request.param)


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
        feeds[f"cross_{kind}_{index // 2}"] = array[None] if isinstance(array, np.ndarray) else array.numpy()
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


def test_on_a_device_the_bits_are_the_same() -> None:
    """The same comings and goings over 100 steps, with growing, shrinking, moved and forked rows."""
    decoders = [Decoder(FOLDER, SPEC, 6, on_device=on_device) for on_device in (False, True)]
    rng = np.random.default_rng(7)
    asked = [(features(n), prompt(length)) for n, length in enumerate((3, 90, 30))]
    encoded = [[decoder.encode(*given) for given in asked] for decoder in decoders]
    for step in range(100):
        if decoders[0].rows < 6 and (step == 0 or rng.random() < 0.2):
            which = rng.integers(len(asked))
            assert len({decoder.add(own[which]) for decoder, own in zip(decoders, encoded, strict=True)}) == 1
        if 0 < decoders[0].rows < 6 and rng.random() < 0.2:
            source = int(rng.integers(decoders[0].rows))
            assert len({decoder.fork(source) for decoder in decoders}) == 1
        if decoders[0].rows > 1 and rng.random() < 0.15:
            leaving = rng.choice(decoders[0].rows, rng.integers(1, decoders[0].rows), replace=False).tolist()
            one, other = (decoder.remove(leaving) for decoder in decoders)
            assert one == other
        tokens = rng.integers(4, SPEC.tokens.vocabulary - 1, decoders[0].rows).tolist()
        one_logits, other_logits = (decoder.step(tokens) for decoder in decoders)
        np.testing.assert_array_equal(one_logits, other_logits)


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_the_same_on_a_device(beams: int) -> None:
    """Through the engine: requests join and leave, and beams are reordered."""
    settings = resolve(SPEC, num_beams=beams, max_new_tokens=24)
    asked = [(features(n), prompt(4 + 7 * n)) for n in range(5)]
    texts = []
    for on_device in (False, True):
        engine = Engine(Decoder(FOLDER, SPEC, 2 * beams, on_device=on_device))
        try:
            futures = [engine.submit(*given, settings) for given in asked]
            done = [future.result(60) for future in futures]
        finally:
            engine.close()
        texts.append([(one.token_ids, one.log_probability, one.token_log_probabilities) for one in done])
    assert texts[0] == texts[1]
    assert len({tuple(text[0]) for text in texts[0]}) > 1


def test_features_are_taken_where_they_lie(decoder: Decoder) -> None:
    """Without a copy, and the tensor that they came in may go."""
    given = features(3)
    lent = borrowed(given[None])
    assert lent.data_ptr() == given.ctypes.data
    expected = [np.asarray(value) for value in decoder.encode(given.copy(), prompt(9)).arrays]
    found = decoder.encode(lent, prompt(9))
    assert found.length == SPEC.image_tokens + 9
    for one, other in zip(found.arrays, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


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


def test_a_devices_cache_keeps_valid_positions_when_it_grows_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    cache = DeviceCache(DeviceMemory(), layers=2, max_rows=3, heads=2, head_dim=4, granularity=8)
    kept = [rng.normal(size=(4, 2, length, 4)).astype(np.float32) for length in (3, 8)]
    for row, array in enumerate(kept):
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(part[None]) for part in array]
        cache.put(row, values, array.shape[2])
    lengths = np.array([3, 8])
    for needed, capacity in ((9, 16), (16, 16), (60, 64), (50, 64), (20, 24), (8, 8)):
        cache.fit(needed, lengths)
        assert cache.capacity == capacity
        whole = cache._block.value.numpy().reshape(4, 3, 2, capacity, 4)
        for row, array in enumerate(kept):
            np.testing.assert_array_equal(whole[:, row, :, : array.shape[2]], array)
            assert not whole[:, row, :, array.shape[2] :].any()
        assert not whole[:, 2].any()
    cache.copy_row(1, 2, 2, 7)
    whole = cache._block.value.numpy().reshape(4, 3, 2, 8, 4)
    np.testing.assert_array_equal(whole[:, 2, :, 2:7], kept[1][:, :, 2:7])
    assert not whole[:, 2, :, :2].any()


def test_rows_are_moved_in_place() -> None:
    memory = DeviceMemory()
    block = memory.clear(1000, 8)
    rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    source = Block.of(onnxruntime.OrtValue.ortvalue_from_numpy(rows))
    place = block.pointer()
    memory.move(source, np.arange(1000), block, np.arange(1000)[::-1])
    np.testing.assert_array_equal(block.value.numpy(), rows[::-1])
    # What is read and what is written overlap.
    memory.move(block, np.arange(990), block, np.arange(990), first=10)
    np.testing.assert_array_equal(block.value.numpy()[10:], rows[::-1][:990])
    np.testing.assert_array_equal(block.value.numpy()[:10], rows[::-1][:10])
    assert block.pointer() == place
