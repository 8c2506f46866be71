"""What the parts share: how long things are watched, the pictures, folders of their own."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bench.balance import nginx
from bench.speed.pictures import picture
from florence2_sam2.server.manifest import packaged_repository

FIRST = 95_000  # of the scenes; those before are other benches'


@dataclass
class Job:
    """`folder`: an empty one. `next_repository`: what is upgraded to; None: a version made of the packaged models."""

    folder: Path
    quick: bool = False
    next_repository: Path | None = None
    repository: Path = field(default_factory=packaged_repository)
    callers: int = 4
    period: float = 2.0

    @property
    def calm_seconds(self) -> float:
        """How long calls are watched while nothing happens, and within which a server is to have its share."""
        return 8.0 if self.quick else 20.0

    @cached_property
    def pictures(self) -> list[bytes]:
        return [picture(FIRST + number, 320, 320) for number in range(8 if self.quick else 32)]

    def place(self, name: str) -> Path:
        """A folder that is not there yet."""
        return self.folder / name

    def nginx(self) -> str:
        """
        Raises:
            NginxFailed: there is none.
        """
        found = nginx.find()
        if found is None:
            raise nginx.NginxFailed("no nginx is installed: apt-get install nginx")
        return found

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}   {text}", file=sys.stderr, flush=True)
