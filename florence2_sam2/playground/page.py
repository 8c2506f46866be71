"""The page itself: controls on the left, what they give on the right."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported

import gradio

from florence2_sam2.client import Segmenter, SegmenterError
from florence2_sam2.playground.controls import (
    FORMS,
    NMS_FORMS,
    POLYGONS,
    Controls,
    curl_call,
    name_of,
    python_call,
)
from florence2_sam2.playground.shown import FILTERED_COLUMNS, OBJECT_COLUMNS, Shown

CALLS_AT_ONCE = 4


def page(segmenter: Segmenter, url: str, http_url: str, examples: Sequence[str] = ()) -> gradio.Blocks:
    """The page on a server.

    Args:
        url, http_url: how the calls that the page shows reach it.
        examples: pictures to begin with.
    """

    def look(picture: str | None, *values: Any) -> Iterator[tuple[Any, ...]]:
        controls = Controls(*values)
        name = name_of(picture)
        calls = python_call(controls, url, name), curl_call(controls, http_url, name)
        if picture is None:
            yield _outputs(Shown("", "Drop a picture, or take one of those below."), calls)
            return
        shown = Shown(picture)
        try:
            for event in segmenter.stream(picture, **controls.settings()):
                if shown.take(event):
                    yield _outputs(shown, calls)
        except (SegmenterError, OSError, ValueError) as error:
            shown.fail(error)
            yield _outputs(shown, calls)

    blocks = gradio.Blocks(title="florence2-sam2", analytics_enabled=False, fill_width=True)
    with blocks:
        gradio.Markdown(f"### florence2-sam2 · {url}")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                picture = _picture()
                controls = _controls()
                if examples:
                    gradio.Examples([[path] for path in examples], inputs=[picture], label="pictures")
            with gradio.Column(scale=5, min_width=480):
                outputs = _results()
        gradio.on(
            [blocks.load, picture.change, controls[0].submit, *(control.change for control in controls[1:])],
            look,
            inputs=[picture, *controls],
            outputs=outputs,
            trigger_mode="always_last",  # a slider on its way asks for where it is now
            concurrency_limit=CALLS_AT_ONCE,
            show_progress="hidden",  # the status says how far it is
            api_visibility="private",
        )
    return blocks


def _picture() -> gradio.Image:
    """Gives the path of the file that was dropped, as it is, None for none."""
    made = gradio.Image(type="filepath", image_mode=None, label="picture", elem_id="picture", height=300)
    # Its own way would decode the file, and refuse in its own words what the server may read.
    made.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return made


def _controls() -> list[Any]:
    """Those of `Controls`, in its order."""
    plain = Controls()
    made = {
        "caption": gradio.Textbox(
            label="caption",
            placeholder="empty: Florence-2 writes one. Enter grounds yours",
            elem_id="caption",
            max_length=2000,
        ),
        "area_threshold": _fraction("area_threshold", "drop boxes over this share of the picture"),
        "confidence_threshold": _fraction("confidence_threshold", "drop masks scored lower"),
        "nms_threshold": _fraction("nms_threshold", "drop what overlaps something better by more"),
        "nms": gradio.Radio(list(NMS_FORMS), value=plain.nms, label="overlap of", elem_id="nms"),
        "polygon_precision": gradio.Slider(
            0,
            0.02,
            plain.polygon_precision,
            step=0.0005,
            label="polygon_precision",
            elem_id="polygon_precision",
            info="0: every pixel edge",
        ),
        "form": gradio.Radio(list(FORMS), value=POLYGONS, label="answer", elem_id="form"),
    }
    return [made[field.name] for field in dataclasses.fields(Controls)]


def _fraction(name: str, info: str) -> gradio.Slider:
    return gradio.Slider(0, 1, getattr(Controls(), name), step=0.01, label=name, info=info, elem_id=name)


def _results() -> list[Any]:
    status = gradio.Markdown(elem_id="status")
    image = gradio.Image(label="objects", elem_id="result", interactive=False, format="png", height=520)
    caption = gradio.Textbox(label="caption", interactive=False, elem_id="written", lines=2)
    with gradio.Tab("objects"):
        objects = gradio.Dataframe(
            headers=list(OBJECT_COLUMNS), interactive=False, elem_id="objects", wrap=True
        )
        filtered = gradio.Dataframe(
            headers=list(FILTERED_COLUMNS), interactive=False, elem_id="filtered", wrap=True
        )
    with gradio.Tab("JSON"):
        document = gradio.Code(language="json", elem_id="json", lines=12, max_lines=30, wrap_lines=True)
    with gradio.Tab("Python"):
        python = gradio.Code(language="python", elem_id="python", lines=6)
    with gradio.Tab("curl"):
        curl = gradio.Code(language="shell", elem_id="curl", lines=3, wrap_lines=True)
    return [status, image, caption, objects, filtered, document, python, curl]


def _outputs(shown: Shown, calls: tuple[str, str]) -> tuple[Any, ...]:
    """Values for `_results`, in its order."""
    return (shown.status, shown.image, shown.caption, shown.objects, shown.filtered, shown.document, *calls)


def theme() -> gradio.themes.Base:
    """gradio's own, with fonts of the reader's system: the page loads nothing from elsewhere."""
    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
