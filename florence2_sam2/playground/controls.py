"""What the page's controls are set to, and the calls that do the same from elsewhere."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2_sam2.client import Settings

POLYGONS, MASK, INVERTED = "polygons", "mask", "inverted mask"
FORMS = (POLYGONS, MASK, INVERTED)
NMS_FORMS = ("box", "mask", "containment")

# The server's defaults (server/segment/request.py; a test holds them equal): what is left at them is not sent.
AREA, CONFIDENCE, NMS, PRECISION = 0.3, 0.5, 0.5, 0.001


@dataclass(frozen=True)
class Controls:
    """The page's controls."""

    caption: str = ""
    area_threshold: float = AREA
    confidence_threshold: float = CONFIDENCE
    nms_threshold: float = NMS
    nms: str = NMS_FORMS[0]
    polygon_precision: float = PRECISION
    form: str = POLYGONS

    def changed(self) -> dict[str, Any]:
        """The settings of a call that are not the server's own."""
        plain = Controls()
        names = (
            "area_threshold",
            "confidence_threshold",
            "nms_threshold",
            "nms",
            "polygon_precision",
        )
        found: dict[str, Any] = {"caption": self.caption.strip()} if self.caption.strip() else {}
        found |= {name: value for name in names if (value := getattr(self, name)) != getattr(plain, name)}
        if self.form != POLYGONS:
            found["output_mask"] = True
        if self.form == INVERTED:
            found["invert_mask"] = True
        return found

    def settings(self) -> Settings:
        """As `stream` takes them; without run lengths, so that what is shown is what the polygons say."""
        settings: Settings = {"formats": (), **self.changed()}  # type: ignore[typeddict-item]
        return settings


_OPTIONS = ("nms", "invert_mask")  # the others have a tensor of their own


def python_call(controls: Controls, url: str, picture: str) -> str:
    """Python that segments the same picture in the same way."""
    settings = "".join(f", {name}={value!r}" for name, value in controls.changed().items())
    shown = (
        'open("mask.png", "wb").write(result.mask_png)'
        if controls.form != POLYGONS
        else "for thing in result.objects:\n        print(thing.label, thing.score, thing.polygons)"
    )
    return f"""from florence2_sam2.client import Segmenter

with Segmenter({url!r}) as segmenter:
    result = segmenter.segment({picture!r}{settings})
    {shown}
"""


def curl_call(controls: Controls, http_url: str, picture: str) -> str:
    """The same for a shell."""
    changed = controls.changed()
    options = {name: changed.pop(name) for name in _OPTIONS if name in changed}
    if options:
        changed["options"] = json.dumps(options)
    rest = json.dumps(changed, ensure_ascii=False)[1:-1]
    # printf reads %, \ and the quoting shell '.
    body = (
        '{"image_base64": "%s"' + (f", {rest}" if rest else "").replace("\\", "\\\\").replace("%", "%%") + "}"
    )
    return (
        f'printf {shlex.quote(body)} "$(base64 -w0 {shlex.quote(picture)})" |\n'
        f"  curl -s {shlex.quote(http_url + '/v2/models/segment_http/generate')} -d @-\n"
    )


def name_of(path: str | None) -> str:
    """What a picture is called in the calls."""
    return Path(path).name if path else "picture.jpg"
