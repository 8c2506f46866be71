"""A client that is killed while the server works for it: python -m bench.load.dying ADDRESS PICTURE.

It sends a few calls and a stream, says so in one line, and waits; whoever has started it kills it then. Left alone, it
ends when its calls do.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from florence2_sam2.client import AsyncSegmenter

CALLS = 3
AT_ONCE = CALLS + 1  # with the stream
LIMIT_SECONDS = 60.0


async def main(address: str, picture: Path) -> None:
    data = picture.read_bytes()
    async with AsyncSegmenter(address, timeout=LIMIT_SECONDS, retries=0) as segmenter:

        async def stream() -> None:
            async for _ in segmenter.stream(data, area_threshold=1):
                pass

        calls = [asyncio.create_task(segmenter.segment(data, num_beams=1 + n)) for n in range(CALLS)]
        calls.append(asyncio.create_task(stream()))
        await asyncio.sleep(0.05)  # they are on their way
        print("sent", flush=True)
        await asyncio.gather(*calls)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
