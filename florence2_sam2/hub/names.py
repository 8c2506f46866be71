"""How a checkpoint is named on the command line: a path, or NAME@REVISION on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.hub.errors import HubError

DEFAULT_REVISION = "main"

# The hub's own rule for repository names; a revision is any git reference or commit.
_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A repository on the hub at a branch, tag or commit."""

    repository: str
    revision: str = DEFAULT_REVISION

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit hash, which never moves."""
        return bool(_COMMIT.fullmatch(self.revision))

    def at(self, commit: str) -> HubName:
        return HubName(self.repository, commit)

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision[:12] if self.is_pinned else self.revision}"


def parse(text: str) -> HubName | Path:
    """What `text` names: an existing file or folder wins over the hub.

    Raises:
        HubError: it is neither.
    """
    path = Path(text).expanduser()
    if path.exists():
        return path
    match = _NAME.fullmatch(text)
    if not match:
        raise HubError(
            f"{text!r}: there is no such file or folder, and a name on the hub is ORGANISATION/NAME"
        )
    return HubName(match["repository"], match["revision"] or DEFAULT_REVISION)
