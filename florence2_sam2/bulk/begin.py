"""How a run begins: what is to be read, what is asked, who answers. Then the plan, or an earlier run's."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from florence2_sam2.bulk import listing, plan, source
from florence2_sam2.bulk.errors import BulkError, WrongUsage
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.plan import Form, Plan, Question
from florence2_sam2.bulk.source import Found, Kind, Source
from florence2_sam2.cli.segment_run import no_server, reason
from florence2_sam2.client import (
    InvalidRequest,
    Segmentation,
    Segmenter,
    SegmenterError,
    ServerOverloaded,
    UrlRules,
)

SHARD_SIZE = 1000
MAX_BYTES = 32 * 2**20
_ASKING_SECONDS = 60.0  # a server may be full when the run begins


@dataclass(frozen=True)
class Options:
    """What the command line says. None: an earlier run's, else the default."""

    url: str
    output: str
    servers: tuple[str, ...]
    kind: Kind | None = None
    picture_column: str | None = None
    id_column: str | None = None
    root: str | None = None
    max_bytes: int | None = None
    form: Form | None = None
    shard_size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    patience: float = 600.0
    in_flight: int = 8
    workers: int = 2
    ray_address: str | None = None
    fetch_here: bool = False
    url_rules: UrlRules = field(default_factory=UrlRules)
    credentials: Mapping[str, Any] = field(
        default_factory=dict, repr=False
    )  # of the client, as it takes them


@dataclass(frozen=True)
class Beginning:
    """What a new run needs to write its plan."""

    question: Question
    found: Found


def prepare(options: Options) -> Beginning:
    """Look at the input and ask the server. Nothing is written.

    Raises:
        WrongUsage: there is nothing to read, or something is wrong with the options.
        BulkError: no server answers.
    """
    what, found = look(options)
    return Beginning(_question(options, what, options.form or "parquet"), found)


def look(options: Options) -> tuple[Source, Found]:
    """What is to be read. Nothing is written or sent.

    Raises:
        WrongUsage: there is nothing, or something is wrong with the options.
    """
    try:
        kind, found = source.find(options.url, options.kind)
        columns = (options.picture_column, options.id_column, options.root)
        looked_at = Source(options.url, kind, *columns, options.max_bytes or MAX_BYTES)
        if kind != "parquet":
            flags = zip(("--picture-column", "--id-column", "--root"), columns, strict=True)
            extra = next((flag for flag, value in flags if value is not None), None)
            if extra is not None:
                raise WrongUsage(f"{extra}: it goes with Parquet, and INPUT has {kind}")
            return looked_at, found
        picture, key = listing.columns(looked_at, found)
        return replace(looked_at, picture_column=picture, id_column=key), found
    except OSError as error:
        raise WrongUsage(f"INPUT: {options.url}: {error.strerror or error}") from None


def new(options: Options, folder: Folder, beginning: Beginning) -> Plan:
    """List the pictures, write the plan.

    Raises:
        WrongUsage: the input has faults.
        OSError: the plan cannot be written.
    """
    question, size = beginning.question, options.shard_size or SHARD_SIZE
    return plan.make(folder, question, listing.shards(question.source, beginning.found, size), size)


def require_same(options: Options, before: Plan) -> None:
    """Raises WrongUsage where an earlier run was begun with other options. No server is asked."""
    there = before.question
    given: dict[str, Any] = {
        "url": options.url,
        "kind": options.kind,
        "picture_column": options.picture_column,
        "id_column": options.id_column,
        "root": options.root,
        "max_bytes": options.max_bytes,
    }
    what = replace(there.source, **{name: value for name, value in given.items() if value is not None})
    form = options.form or there.form
    now = replace(there, source=what, form=form, settings=_settings(options, form))
    plan.require_same(there, now, options.output)
    if options.shard_size not in (None, before.shard_size):
        raise WrongUsage(
            f"{options.output} was begun with --shard-size {before.shard_size}, not {options.shard_size};"
            " choose another OUTPUT for that"
        )


def require_same_server(options: Options, before: Plan) -> None:
    """Ask the server whether its models and own settings are those of the plan.

    Raises:
        WrongUsage: they are not.
        BulkError: no server answers.
    """
    there = before.question
    plan.require_same(there, _question(options, there.source, there.form), options.output)


def _settings(options: Options, form: Form) -> dict[str, Any]:
    given = {name: value for name, value in options.settings.items() if value is not None}
    formats = {*given.get("formats", ()), *(("rle",) if form == "coco" else ())}
    return {**given, "formats": sorted(formats), "priority": "bulk"}


def _question(options: Options, what: Source, form: Form) -> Question:
    settings = _settings(options, form)
    answer = _asked(options, settings)
    # As they will be read from the plan.
    return Question(what, form, settings, json.loads(json.dumps(answer.parameters)), dict(answer.models))


def _asked(options: Options, settings: Mapping[str, Any]) -> Segmentation:
    """The answer to a picture of nothing: wrong settings fail here, not a million times."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(file, "PNG")
    servers = options.servers
    try:
        where = servers if len(servers) > 1 else servers[0]
        asking = Segmenter(where, timeout=options.timeout, **options.credentials)
    except ValueError as error:
        raise WrongUsage(f"--url: {error}") from None
    with asking as segmenter:
        end = time.monotonic() + _ASKING_SECONDS
        while True:
            try:
                return segmenter.segment(file.getvalue(), **settings)
            except ServerOverloaded as error:
                if time.monotonic() > end:
                    raise BulkError(f"{segmenter.address}: {error.message}") from None
                time.sleep(1)
            except InvalidRequest as error:
                raise WrongUsage(reason(error, "")) from None
            except SegmenterError as error:
                raise BulkError(no_server(error, str(segmenter.address))) from None
