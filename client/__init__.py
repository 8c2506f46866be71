"""The client: pictures in, typed results out. Needs numpy, Pillow and tritonclient only."""

from florence2_sam2.client.async_segmenter import AsyncSegmenter
from florence2_sam2.client.errors import (
    CannotConnect,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    SegmenterError,
    ServerError,
    ServerOverloaded,
)
from florence2_sam2.client.events import (
    BoxesFound,
    CaptionText,
    CaptionWritten,
    Event,
    Finished,
    FoundBox,
    MasksMade,
    ObjectDone,
    Started,
)
from florence2_sam2.client.images import Picture
from florence2_sam2.client.many import Done
from florence2_sam2.client.models import Florence2Answer, Florence2Settings, Region, Sam2Answer
from florence2_sam2.client.objects import FilteredObject, Polygon, SegmentedObject
from florence2_sam2.client.request import Settings
from florence2_sam2.client.results import Segmentation
from florence2_sam2.client.segmenter import Segmenter
from florence2_sam2.urls.rules import UrlRules

__all__ = [
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
