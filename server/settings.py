"""Every limit an operator can set, in one object; each is also an environment variable.

The command line makes one flag of each row of `options()`. Triton's stubs inherit the environment, so a
launcher hands its settings on with `Settings.environment()` and each model reads them with
`Settings.from_environment()`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, NamedTuple

PREFIX = "FLORENCE2_SAM2_"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


PRECISIONS = ("fp32", "fp16")
DECODER_WEIGHTS = ("float", "int8")


def _setting(default: Any, help: str, minimum: float | None = None, group: str = "limits") -> Any:
    return field(default=default, metadata={"help": help, "minimum": minimum, "group": group})


def _checkpoint(default: str | None, help: str) -> Any:
    return _setting(default, help, group="checkpoints")


@dataclass(frozen=True)
class Settings:
    """What to serve, limits and switches of one server. Sizes are in bytes, times in seconds, sides in pixels."""

    florence2: str | None = _checkpoint(None, "Florence-2: a folder, or NAME[@REVISION] on the hub")
    sam2: str | None = _checkpoint(None, "SAM2: a folder, or NAME[@REVISION] on the hub")
    precision: str = _checkpoint("fp32", f"weights and arithmetic of their export, {' or '.join(PRECISIONS)}")
    decoder_weights: str = _checkpoint(
        "float", "weights of Florence-2's text decoder, float (as the precision says) or int8"
    )
    cache: str | None = _checkpoint(
        None, "folder for their exports; none: florence2-sam2 in $XDG_CACHE_HOME or ~/.cache"
    )

    max_image_bytes: int = _setting(32 * 2**20, "largest encoded picture, in bytes", 1)
    max_pixels: int = _setting(
        64_000_000, "largest picture, in pixels (WebP and TIFF: at most 178 million)", 1
    )
    max_side: int = _setting(32_768, "longest side of a picture, in pixels", 1)
    max_caption_bytes: int = _setting(4096, "longest caption, in bytes of UTF-8", 1)
    max_boxes: int = _setting(1000, "most boxes in one request", 1)

    urls_enabled: bool = _setting(True, "fetch pictures from image_url (http and https)")
    url_allow: tuple[str, ...] = _setting(
        (),
        "host:port pairs, comma-separated, that image_url may name although private or on another port",
    )
    url_ports: tuple[int, ...] = _setting((80, 443), "ports that image_url may name, comma-separated", 1)
    url_connect_seconds: float = _setting(3.0, "time to connect to the server of an image_url", 0.001)
    url_total_seconds: float = _setting(10.0, "time to fetch an image_url, redirects included", 0.001)
    url_max_redirects: int = _setting(3, "redirects followed for one image_url", 0)

    store_url: str | None = _setting(
        None, "fsspec URL of the folder for masks (s3://bucket/prefix, file:///folder); empty: data URLs"
    )
    store_seconds: float = _setting(5.0, "time to write one mask to the store", 0.001)
    store_link_seconds: int = _setting(86_400, "how long a signed link to a stored mask stays valid", 1)
    store_keep_seconds: int = _setting(
        0, "age at which masks in a store on this machine (file:///folder) are removed; 0: never", 0
    )

    max_in_flight: int = _setting(8, "requests worked on at once", 1)
    max_queue: int = _setting(32, "requests that may wait; more are refused", 0)
    queue_seconds: float = _setting(300.0, "time that a request may wait, after which it is refused", 0.001)
    max_fetches: int = _setting(32, "pictures fetched from URLs at once; more are refused", 1)
    bulk_beside: int = _setting(
        1,
        "bulk requests that go on while an interactive one is worked on; the others stop before their next step",
        1,
    )
    bulk_runs: int = _setting(
        1,
        "runs of one encoder for bulk requests under way at once; more where a GPU takes them as a batch",
        1,
    )
    overlap_sam2: bool = _setting(
        False, "run SAM2's encoder beside Florence-2's decoding instead of after it"
    )
    features_on_gpu: bool = _setting(
        False, "leave features in the GPU's memory for the models that take them, instead of keeping them"
    )
    memory_bytes: int = _setting(
        128 * 2**20, "bytes of what pictures cost before (features, texts, masks); 0: nothing is kept", 0
    )
    threads: int = _setting(0, "threads per model; 0: one for small models, every core for others", 0)
    spin_microseconds: int = _setting(
        50,
        "how long a model's idle thread looks for its next piece of work before it sleeps; 0: it sleeps at once",
        0,
    )
    decoder_rows: int = _setting(16, "most rows of one decoding batch (a beam is a row)", 1)
    decoder_niceness: int = _setting(
        10, "how far decoding on CPUs gives way to the encoders, as of nice: 0 not at all, 19 most", 0
    )

    health_seconds: float = _setting(
        5.0, "how often serve asks the server whether it is well, without any work; 0: never", 0, "watch"
    )
    probe_seconds: float = _setting(
        60.0, "how often serve sends an idle server a real request; 0: never", 0, "watch"
    )
    hung_seconds: float = _setting(
        120.0, "time without any progress in a request after which serve starts the server again", 1, "watch"
    )

    access_log: str | None = _setting(
        None,
        "file that gets a line of JSON for each call, -: Triton's log; none: no lines",
        None,
        "telemetry",
    )
    tracing: bool = _setting(
        False,
        "OpenTelemetry traces, to where OTEL_EXPORTER_OTLP_ENDPOINT says (extra: tracing)",
        None,
        "telemetry",
    )

    def __post_init__(self) -> None:
        for option in options():
            for number in _numbers(getattr(self, option.name)):
                if option.minimum is not None and not option.minimum <= number < float("inf"):
                    raise ValueError(
                        f"{option.name}: {number} is out of range, at least {option.minimum:g} is needed"
                    )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if self.decoder_weights not in DECODER_WEIGHTS:
            raise ValueError(
                f"decoder_weights: {self.decoder_weights!r} is none of {', '.join(DECODER_WEIGHTS)}"
            )
        for pair in self.url_allow:
            host, _, port = pair.rpartition(":")
            if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"url_allow: {pair!r} is no host:port pair")
        if not self.url_ports:
            raise ValueError("url_ports: no port is left; to forbid all of them, switch urls_enabled off")
        for port_number in self.url_ports:
            if port_number > 65535:
                raise ValueError(f"url_ports: {port_number} is no port")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings that `environ` names; what it does not name, or leaves empty, has its default.

        Raises:
            ValueError: a value is malformed or out of range. One line, which names the variable.
        """
        values: dict[str, Any] = {}
        for option in options():
            text = environ.get(option.variable, "").strip()
            if not text:
                continue
            try:
                values[option.name] = option.parse(text)
                cls(**{option.name: values[option.name]})
            except ValueError as error:
                reason = str(error).removeprefix(f"{option.name}: ")
                raise ValueError(f"{option.variable}: {reason}") from None
        return cls(**values)

    def with_absolute_paths(self) -> Settings:
        """The same for processes that run in another folder."""
        if self.access_log in (None, "-"):
            return self
        return replace(self, access_log=os.path.abspath(str(self.access_log)))

    def environment(self) -> dict[str, str]:
        """The variables that make `from_environment` give these settings again; defaults are left out."""
        return {
            option.variable: _text(getattr(self, option.name))
            for option in options()
            if getattr(self, option.name) != option.default
        }


class Option(NamedTuple):
    """One setting, as a command line needs it. `kind` is one of int, float, bool, str, ints, strs; `group` is the
    heading of its flag, "checkpoints", "limits", "watch" or "telemetry".
    """

    name: str
    variable: str
    default: Any
    help: str
    kind: str
    minimum: float | None
    group: str

    def parse(self, text: str) -> Any:
        """The value that `text` writes.

        Raises:
            ValueError: one line, without the option's name.
        """
        match self.kind:
            case "bool":
                return _parse_bool(text)
            case "int":
                return _parse_int(text)
            case "float":
                return _parse_float(text)
            case "ints":
                return tuple(_parse_int(part) for part in _parts(text))
            case "strs":
                return tuple(part.lower() for part in _parts(text))
            case _:
                return text


def options() -> tuple[Option, ...]:
    """All settings, in the order of `Settings`."""
    return tuple(
        Option(
            name=row.name,
            variable=PREFIX + row.name.upper(),
            default=None if row.default is MISSING else row.default,
            help=row.metadata["help"],
            kind=_KINDS[str(row.type)],
            minimum=row.metadata["minimum"],
            group=row.metadata["group"],
        )
        for row in fields(Settings)
    )


_KINDS = {
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "str | None": "str",
    "tuple[int, ...]": "ints",
    "tuple[str, ...]": "strs",
}


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in _TRUE


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(
        number for number in values if isinstance(number, int | float) and not isinstance(number, bool)
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
