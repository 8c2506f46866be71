"""The export as a process of its own: `python -m florence2_sam2.export.worker PLAN`, started by the cache.

PLAN is JSON with what `export` takes. Standard output has one JSON object a line: `{"say": …}` on the way,
`{"error": …}` last when it fails.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.run import export
from florence2_sam2.hub.download import pinned
from florence2_sam2.hub.errors import HubError


def main(argv: list[str]) -> int:
    plan = json.loads(argv[0])
    output = Path(plan["output"])
    disable_progress_bar()
    try:
        # Both first: a second name that the hub does not know must not cost the first one's export.
        florence2, sam2 = (pinned(plan[half], _report) for half in ("florence2", "sam2"))
        rows = export(
            output,
            florence2_checkpoint=florence2,
            sam2_checkpoint=sam2,
            precision=plan["precision"],
            report=_report,
        )
    except (ExportError, HubError) as error:
        _tell(error=str(error))
        return 1
    except OSError as error:
        _tell(error=f"writing {output} failed: {error}")
        return 1
    _tell(say=f"{len(rows)} outputs compared with transformers, all within their tolerance")
    return 0


def _report(text: str) -> None:
    if "\n" not in text:  # the table of the comparison is for `export`'s own user
        _tell(say=text)


def _tell(**message: str) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
