"""The export as a process of its own: `python -m florence2_sam2.export.worker PLAN`, started by the cache.

PLAN is JSON with what `export` takes. Standard output has one JSON object a line: `{"say": …}` on the way,
`{"error": …}` last when it fails.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from florence2_sam2.export.errors import ExportError
from florence2_sam2.hub.download import pinned
from florence2_sam2.hub.errors import HubError
from florence2_sam2.hub.names import HubName, parse
from florence2_sam2.hub.progress import megabytes
from florence2_sam2.hub.store import Store

# An fp32 export of Florence-2-base and SAM2.1-tiny has 1.2 times the bytes of their weights: some are in two graphs.
ROOM = {"fp32": 1.4, "fp16": 0.8}
WEIGHTS = (".safetensors", ".bin", ".pt")


def main(argv: list[str]) -> int:
    plan = json.loads(argv[0])
    try:
        # Both first: a second name that the hub does not know must not cost the first one's export.
        florence2, sam2 = (pinned(plan[half], _report) for half in ("florence2", "sam2"))
        _require_room(Path(plan["output"]), (florence2, sam2), plan["precision"])
        _export(plan, florence2, sam2)
    except (ExportError, HubError) as error:
        _tell(error=str(error))
        return 1
    except OSError as error:
        _tell(error=f"writing {plan['output']} failed: {error}")
        return 1
    return 0


def _export(plan: dict[str, str], florence2: str, sam2: str) -> None:
    # Only now: torch takes seconds to import, and a download may have failed before.
    from transformers.utils.logging import disable_progress_bar

    from florence2_sam2.export.run import export

    disable_progress_bar()
    rows = export(
        Path(plan["output"]),
        florence2_checkpoint=florence2,
        sam2_checkpoint=sam2,
        precision="fp16" if plan["precision"] == "fp16" else "fp32",
        report=_report,
    )
    _tell(say=f"{len(rows)} outputs compared with transformers, all within their tolerance")


def _require_room(output: Path, checkpoints: tuple[str, ...], precision: str) -> None:
    """Raises ExportError when the disk is too small: better now than minutes later, in a converter's words."""
    needed = int(ROOM[precision] * sum(map(_weights_bytes, checkpoints)))
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise ExportError(
            f"the export needs about {megabytes(needed)} in {output.parent}, {megabytes(free)} are free: free some, or"
            " choose another folder with --cache"
        )


def _weights_bytes(checkpoint: str) -> int:
    name = parse(checkpoint)
    folder = Store.of(name).snapshot(name.revision) if isinstance(name, HubName) else name
    files = folder.iterdir() if folder.is_dir() else [folder]
    return sum(path.stat().st_size for path in files if path.suffix in WEIGHTS)


def _report(text: str) -> None:
    if "\n" not in text:  # the table of the comparison is for `export`'s own user
        _tell(say=text)


def _tell(**message: str) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
