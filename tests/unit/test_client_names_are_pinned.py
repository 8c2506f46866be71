"""The client's public names, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import florence2_sam2.client as client


def test_public_names() -> None:
    assert client.__all__ == [
        "AsyncSegmenter",
        "BoxesFound",
        "CannotConnect",
        "CaptionText",
        "CaptionWritten",
        "DeadlineExceeded",
        "Done",
        "Event",
        "FilteredObject",
        "Finished",
        "Florence2Answer",
        "Florence2Settings",
        "FoundBox",
        "InvalidRequest",
        "MasksMade",
        "ModelNotFound",
        "ObjectDone",
        "Picture",
        "Polygon",
        "Region",
        "RequestCancelled",
        "Sam2Answer",
        "Segmentation",
        "SegmentedObject",
        "Segmenter",
        "SegmenterError",
        "ServerError",
        "ServerOverloaded",
        "Settings",
        "Started",
        "UrlRules",
    ]
    assert all(hasattr(client, name) for name in client.__all__)


def test_the_twins_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(client.Segmenter) == methods(client.AsyncSegmenter)
    assert set(methods(client.Segmenter)) == {
        "florence2",
        "sam2",
        "segment",
        "segment_all",
        "segment_each",
        "stream",
        "wait_until_ready",
        "close",
    }


def test_every_setting_is_in_the_documentation() -> None:
    text = inspect.getdoc(client.Segmenter.segment) or ""
    assert [name for name in client.Settings.__annotations__ if f"`{name}`" not in text] == []


def test_importing_the_client_needs_nothing_of_the_server() -> None:
    code = (
        "import sys, florence2_sam2.client; "
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnx', 'cv2', 'tokenizers', 'supervision',"
        " 'florence2_sam2.server'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
