"""8-bit weights on an execution provider that has no arithmetic for them: said at the start, with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from florence2_sam2.server import manifest
from florence2_sam2.server.generation.decoder import Decoder
from florence2_sam2.server.onnx_session import PROVIDERS_VARIABLE, ProviderError

FOLDER = manifest.packaged_repository() / "florence2" / "1"
FLOAT = manifest.Florence2.read(FOLDER)


@pytest.mark.parametrize(
    "providers", ["TensorrtExecutionProvider", "TensorrtExecutionProvider,CUDAExecutionProvider"]
)
def test_tensorrt(monkeypatch: pytest.MonkeyPatch, providers: str) -> None:
    monkeypatch.setenv(PROVIDERS_VARIABLE, providers)
    with pytest.raises(
        ProviderError, match=r"8-bit weights: leave .* out of .*, or export without"
    ) as caught:
        Decoder(FOLDER, replace(FLOAT, decoder_weights="int8"), max_rows=1)
    assert "\n" not in str(caught.value)
    # others are refused only where it is not installed
    with pytest.raises(ProviderError, match="onnxruntime has no TensorrtExecutionProvider"):
        Decoder(FOLDER, FLOAT, max_rows=1)
