"""The export as a process of its own: `python -m florence2_sam2.export.worker PLAN`, started by the cache.

PLAN is JSON with what `export` takes. Standard output has one JSON object a line: `{"say": …}` on the way,
`{"error": …}` last when it fails. What libraries print goes to standard error.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError, safe_open

from florence2_sam2.export.errors import ExportError
from florence2_sam2.hub.download import pinned
from florence2_sam2.hub.errors import HubError
from florence2_sam2.hub.names import HubName, parse
from florence2_sam2.hub.progress import Say, megabytes
from florence2_sam2.hub.store import Store

# An export has at least this many times the bytes of the weights in fp32: some of them are in two graphs. The measure
# is Florence-2-base with SAM2.1-tiny.
ROOM = {"fp32": 1.1, "fp16": 0.5}
PICKLES = (".bin", ".pt")


def main(argv: list[str], channel: TextIO) -> int:
    """Export; returns the exit code. `channel` gets the JSON lines."""
    plan = json.loads(argv[0])

    def report(text: str) -> None:
        if "\n" not in text:  # the table of the comparison is for `export`'s own user
            _tell(channel, say=text)

    try:
        # Both first: a second name that the hub does not know must not cost the first one's export.
        florence2, sam2 = (pinned(plan[half], report) for half in ("florence2", "sam2"))
        _require_room(Path(plan["output"]), (florence2, sam2), plan["precision"])
        _export(plan, florence2, sam2, report)
    except (ExportError, HubError) as error:
        _tell(channel, error=str(error))
        return 1
    except OSError as error:
        _tell(channel, error=f"writing {plan['output']} failed: {error}")
        return 1
    return 0


def _export(plan: dict[str, str], florence2: str, sam2: str, report: Say) -> None:
    # Only now: torch takes seconds to import, and a download may have failed before.
    from transformers.utils.logging import disable_progress_bar

    from florence2_sam2.export.run import export

    disable_progress_bar()
    rows = export(
        Path(plan["output"]),
        florence2_checkpoint=florence2,
        sam2_checkpoint=sam2,
        precision="fp16" if plan["precision"] == "fp16" else "fp32",
        decoder_weights="int8" if plan["decoder_weights"] == "int8" else "float",
        report=report,
    )
    report(f"{len(rows)} outputs compared with transformers, all within their tolerance")


def _require_room(output: Path, checkpoints: tuple[str, ...], precision: str) -> None:
    """Raises ExportError when the disk is too small: better now than minutes later, in a converter's words."""
    needed = int(ROOM[precision] * sum(map(_weights_bytes, checkpoints)))
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise ExportError(
            f"the export needs at least {megabytes(needed)} in {output.parent}, {megabytes(free)} are free: free some,"
            " or choose another folder with --cache"
        )


def _weights_bytes(checkpoint: str) -> int:
    """What the checkpoint's weights take in fp32, whatever they are stored in."""
    name = parse(checkpoint)
    folder = Store.of(name).snapshot(name.revision) if isinstance(name, HubName) else name
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    tensors = [path for path in files if path.suffix == ".safetensors"]
    if tensors:  # these are read, whatever lies beside them
        return sum(map(_safetensors_bytes, tensors))
    return sum(path.stat().st_size for path in files if path.suffix in PICKLES)


def _safetensors_bytes(path: Path) -> int:
    try:
        with safe_open(path, framework="np") as file:
            return sum(4 * math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return path.stat().st_size  # the export says what is wrong with it


def _tell(channel: TextIO, **message: str) -> None:
    print(json.dumps(message), file=channel, flush=True)


if __name__ == "__main__":
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.exit(main(sys.argv[1:], own))
