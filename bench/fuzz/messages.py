"""Random ModelInfer requests: a right one of any model, and what was done to it.

All of them follow from one random generator, so that message N of a seed is the same each time.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

DATATYPES = ("BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "", "FP33", "fp32")
THRESHOLDS = ("area_threshold", "confidence_threshold", "nms_threshold", "polygon_precision")
NUMBERS = (0.0, 1.0, -0.0, -1.0, 0.3, 1e-45, 3e38, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *(
        "",
        " ",
        "a red apple",
        "<loc_0><loc_1><loc_2><loc_3>",
        "</s><s><pad>",
        "<OD>",
        "\0",
        "\n" * 50,
        "é" * 40,
    ),
    *("\u202eright to left", "👩‍👩‍👧‍👦", "a\u0301\u0323" * 30, "../../etc/passwd", "%s%n", "x" * 11_000),
)
OPTIONS = (
    *("", "{", "[]", "null", "1", '"x"', "{}", '{"a": 1}', '{"tiles": 99}', '{"boxes": [[0, 0, 0, 0]]}'),
    *(
        '{"boxes": "no"}',
        '{"phrases": []}',
        '{"phrases": ["\\u0000"]}',
        '{"num_beams": 1e9}',
        '{"formats": ["rle", 3]}',
    ),
    *(
        '{"max_new_tokens": 0}',
        '{"task": "detection", "num_beams": 1}',
        '{"view": "compact"}',
        '{"nms": "mask"}',
    ),
    *(
        '{"boxes": [[1e300, -1e300, 5, 5]]}',
        '{"priority": "bulk", "normalized": true}',
        "[" * 5000,
        '{"tiles": NaN}',
        '{"\\ud800": 1}',
        '{"a\\u0000b\\nc": 1}',
        '{"phrases": ["\\udc00"]}',
    ),
)
URLS = (
    *(
        "",
        "x",
        "file:///etc/passwd",
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "ftp://127.0.0.1/x",
        "data:image/png;base64,",
    ),
    *(
        "data:image/png;base64,AAAA",
        "data:text/html,<b>",
        "http://0/",
        "https://user@127.0.0.1/",
        "http://127.0.0.1:22/",
    ),
)
TASKS = ("<OD>", "<CAPTION>", "<OCR>", "<NO>", "", "<REGION_TO_CATEGORY>", "<CAPTION_TO_PHRASE_GROUNDING>")


@dataclass(frozen=True)
class Message:
    """One request, and in words what is wrong with it, as far as that is known."""

    request: pb.ModelInferRequest
    told: str


def text(value: str | bytes) -> bytes:
    """One BYTES element as Triton wants it: its length, little-endian, and itself."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


class Messages:
    """`pictures`: files to begin with. Few of them are large, so that most messages are quick."""

    def __init__(self, seed: int, pictures: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._pictures = pictures

    def next(self) -> Message:
        """The next message."""
        build = self._random.choice([self._segment] * 6 + [self._florence2] * 2 + [self._sam2, self._leaf])
        request = build()
        done: list[str] = []
        for _ in range(self._random.choice([0, 0, 1, 1, 2, 4])):
            change = self._random.choice(self._changes())
            done.append(change.__name__.strip("_"))
            change(request)
        return Message(request, f"{request.model_name}: {', '.join(done) or 'as it is'}")

    # -- right ones, but for their values

    def _segment(self) -> pb.ModelInferRequest:
        model = self._random.choice(["segment", "segment", "segment", "segment_http"])
        request = pb.ModelInferRequest(model_name=model)
        if self._random.random() < 0.15:
            _add(request, "image_url", "BYTES", [1], text(self._random.choice(URLS)))
        elif model == "segment_http":
            _add(
                request,
                "image_base64",
                "BYTES",
                [1],
                text(self._random.choice([b"AAAA", b"%", self._bytes(60)])),
            )
        else:
            _add(request, "image", "BYTES", [1], text(self._picture()))
        for name in self._random.sample(THRESHOLDS, self._random.randrange(3)):
            _add(request, name, "FP32", [1], struct.pack("<f", self._number()))
        if self._random.random() < 0.2:
            _add(request, "caption", "BYTES", [1], text(self._text()))
        options = self._random.choice(OPTIONS) if self._random.random() < 0.4 else '{"max_new_tokens": 8}'
        _add(request, "options", "BYTES", [1], text(options))
        if self._random.random() < 0.2:
            _add(request, "output_mask", "BOOL", [1], bytes([self._random.randrange(3)]))
        return request

    def _florence2(self) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name="florence2")
        if self._random.random() < 0.3:
            tokens = self._random.choice([1, 577, 0])
            _add(request, "image_features", "FP32", [1, tokens, 128], self._bytes(4 * tokens * 128))
            _add(request, "image_size", "INT32", [2], struct.pack("<2i", self._random.randrange(-1, 9), 7))
        else:
            _add(request, "image", "BYTES", [1], text(self._picture()))
        _add(request, "task", "BYTES", [1], text(self._random.choice(TASKS)))
        _add(request, "text", "BYTES", [1], text(self._text()))
        options = {
            "max_new_tokens": self._random.choice([1, 8, -1, 10**6]),
            "num_beams": self._random.choice([1, 3, 0]),
        }
        _add(request, "options", "BYTES", [1], text(json.dumps(options)))
        return request

    def _sam2(self) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name="sam2")
        _add(request, "image", "BYTES", [1], text(self._picture()))
        count = self._random.choice([0, 1, 2, 5])
        boxes = [self._number() * self._random.choice([1, 10, 100]) for _ in range(4 * count)]
        _add(request, "boxes", "FP32", [count, 4], struct.pack(f"<{4 * count}f", *map(_single, boxes)))
        return request

    def _leaf(self) -> pb.ModelInferRequest:
        """A leaf with a few bytes where a picture's worth of numbers belongs."""
        leaves = (
            "florence2_vision_encoder",
            "sam2_image_encoder",
            "sam2_mask_decoder",
            "sam2_postprocess",
            "no_model",
        )
        request = pb.ModelInferRequest(model_name=self._random.choice(leaves))
        name = self._random.choice(["pixels", "boxes", "mask_logits", "image_size", "x"])
        shape = [self._random.choice([0, 1, 2, 3, 4, 8]) for _ in range(self._random.randrange(5))]
        datatype, size = ("UINT8", 1) if name == "pixels" else ("FP32", 4)
        for length in shape:
            size *= length
        _add(request, name, datatype, shape, self._bytes(size))
        return request

    # -- what is done to them

    def _changes(self) -> list[Callable[[pb.ModelInferRequest], None]]:
        return [
            *(
                self._another_datatype,
                self._another_shape,
                self._another_name,
                self._cut_contents,
                self._noise,
            ),
            *(self._leave_out, self._twice, self._parameter, self._output, self._version, self._wrong_length),
            *(self._typed_contents, self._shared_memory, self._huge_shape),
        ]

    def _another_datatype(self, request: pb.ModelInferRequest) -> None:
        self._input(request).datatype = self._random.choice(DATATYPES)

    def _another_shape(self, request: pb.ModelInferRequest) -> None:
        shape = self._input(request).shape
        shape[:] = [self._random.choice([-1, 0, 1, 2, 4]) for _ in range(self._random.randrange(4))]

    def _huge_shape(self, request: pb.ModelInferRequest) -> None:
        self._input(request).shape[:] = [
            self._random.choice([2**31, 2**62, 2**63 - 1])
        ] * self._random.randrange(1, 4)

    def _another_name(self, request: pb.ModelInferRequest) -> None:
        self._input(request).name = self._random.choice(
            ["", "x", "image", "IMAGE", "boxes", "é" * 9, "a" * 3000]
        )

    def _cut_contents(self, request: pb.ModelInferRequest) -> None:
        if request.raw_input_contents:
            at = self._random.randrange(len(request.raw_input_contents))
            data = request.raw_input_contents[at]
            request.raw_input_contents[at] = data[: self._random.randrange(len(data) + 1)]

    def _noise(self, request: pb.ModelInferRequest) -> None:
        if request.raw_input_contents:
            at = self._random.randrange(len(request.raw_input_contents))
            data = bytearray(request.raw_input_contents[at])
            for _ in range(min(len(data), 8)):
                data[self._random.randrange(len(data))] = self._random.randrange(256)
            request.raw_input_contents[at] = bytes(data)

    def _wrong_length(self, request: pb.ModelInferRequest) -> None:
        if request.raw_input_contents:
            at = self._random.randrange(len(request.raw_input_contents))
            lie = struct.pack("<I", self._random.choice([0, 1, 2**31, 2**32 - 1]))
            request.raw_input_contents[at] = lie + request.raw_input_contents[at][4:]

    def _leave_out(self, request: pb.ModelInferRequest) -> None:
        if request.inputs:
            at = self._random.randrange(len(request.inputs))
            del request.inputs[at]
            if self._random.random() < 0.8:
                del request.raw_input_contents[at : at + 1]

    def _twice(self, request: pb.ModelInferRequest) -> None:
        if request.inputs and len(request.raw_input_contents) == len(request.inputs):
            at = self._random.randrange(len(request.inputs))
            request.inputs.append(request.inputs[at])
            request.raw_input_contents.append(request.raw_input_contents[at])

    def _parameter(self, request: pb.ModelInferRequest) -> None:
        names = (
            "x",
            "priority",
            "timeout",
            "sequence_id",
            "binary_data",
            "florence2_sam2_between_models",
            "florence2_sam2_line",
        )
        value = self._random.choice(
            [
                pb.InferParameter(bool_param=True),
                pb.InferParameter(int64_param=self._random.choice([-1, 0, 1, 2**62])),
                pb.InferParameter(
                    string_param=self._random.choice(["", "x", "0" * 32 + "/" + "0" * 32, "1" * 5000])
                ),
            ]
        )
        request.parameters[self._random.choice(names)].CopyFrom(value)

    def _output(self, request: pb.ModelInferRequest) -> None:
        request.outputs.add(
            name=self._random.choice(["result", "boxes", "labels", "", "no_output", "x" * 2000])
        )

    def _version(self, request: pb.ModelInferRequest) -> None:
        request.model_version = self._random.choice(["1", "2", "-1", "x", "1" * 400])

    def _typed_contents(self, request: pb.ModelInferRequest) -> None:
        """Values where raw bytes are expected, or beside them."""
        tensor = self._input(request)
        tensor.contents.bytes_contents.append(b"x")
        tensor.contents.fp32_contents.append(0.5)
        if self._random.random() < 0.5:
            del request.raw_input_contents[:]

    def _shared_memory(self, request: pb.ModelInferRequest) -> None:
        parameters = self._input(request).parameters
        parameters["shared_memory_region"].string_param = self._random.choice(
            ["x", "", "florence2_sam2_1", "/etc/passwd"]
        )
        parameters["shared_memory_byte_size"].int64_param = self._random.choice([0, 1, 2**40, -1])

    # -- values

    def _input(self, request: pb.ModelInferRequest) -> pb.ModelInferRequest.InferInputTensor:
        if not request.inputs:
            request.inputs.add(name="image", datatype="BYTES", shape=[1])
        return request.inputs[self._random.randrange(len(request.inputs))]

    def _picture(self) -> bytes:
        data = self._random.choice(self._pictures)
        choice = self._random.random()
        if choice < 0.5:
            return data
        if choice < 0.7:
            return data[: self._random.randrange(len(data))]
        if choice < 0.9:
            broken = bytearray(data)
            for _ in range(self._random.randrange(1, 20)):
                broken[self._random.randrange(min(len(broken), 400))] = self._random.randrange(256)
            return bytes(broken)
        return self._bytes(self._random.randrange(200))

    def _text(self) -> str | bytes:
        return self._bytes(30) if self._random.random() < 0.1 else self._random.choice(TEXTS)

    def _number(self) -> float:
        return self._random.choice(NUMBERS) if self._random.random() < 0.4 else self._random.random()

    def _bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)


def _single(value: float) -> float:
    """Within float32, which struct insists on."""
    return max(min(value, 3e38), -3e38) if value == value and abs(value) != float("inf") else value


def _add(request: pb.ModelInferRequest, name: str, datatype: str, shape: list[int], data: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(data)
