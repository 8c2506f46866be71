"""A model repository out of an object store: `python3 -m florence2_sam2.server.container.models URL DIR`.

For a container that runs before the server's (Kubernetes' initContainer) and shares a volume with it. URL is any that
fsspec reads, `s3://bucket/models-2026-11` for instance; its driver takes credentials from the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from florence2_sam2.server.launch.checks import check_repository
from florence2_sam2.server.launch.errors import StartError


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="models", description="Copy a model repository.")
    parser.add_argument("url", help="of the repository's folder, as fsspec writes it")
    parser.add_argument("folder", type=Path, help="where to; replaced once the copy is whole")
    given = parser.parse_args(arguments)
    try:
        copy_repository(given.url, given.folder)
    except StartError as error:
        print(f"florence2-sam2: error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


class StoreFailed(StartError):
    """The store cannot be read, or not now; nothing is known of what lies there."""


class Folder:
    """A folder in an object store. Every method raises StartError, or StoreFailed where a later try may succeed."""

    def __init__(self, url: str) -> None:
        """Look what lies there. `sizes`: bytes of each file by its path below the folder, None where not told."""
        self._scheme = url.partition("://")[0]
        with self._told():
            import fsspec

            self._store, root = fsspec.core.url_to_fs(url)
            self._root = str(root).rstrip("/")
            found = self._store.find(self._root, detail=True)
        if not found:
            raise StartError("the store has nothing at that URL")
        names = {str(path).removeprefix(self._root).lstrip("/"): path for path in found}
        if "" in names:
            raise StartError("there is a file at that URL: name the folder of a model repository")
        self.sizes: dict[str, int | None] = {
            name: found[path].get("size") for name, path in sorted(names.items())
        }
        self._paths = {name: str(path) for name, path in names.items()}

    def read(self, name: str) -> bytes:
        """A file's content."""
        with self._told():
            return bytes(self._store.cat_file(self._paths[name]))

    def copy(self, folder: Path) -> None:
        """Copy every file below `folder`."""
        for name in self.sizes:
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise StartError("the store has names that lead out of the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._told():
                self._store.get_file(self._paths[name], str(target))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ModuleNotFoundError as error:
            if error.name == "fsspec":
                raise StartError("fsspec is not installed: pip install 'florence2-sam2[store]'") from None
            raise StartError(self._no_driver()) from None
        except ImportError:
            raise StartError(self._no_driver()) from None
        except (
            Exception
        ) as error:  # drivers raise their vendors' own kinds, with addresses and requests in them
            raise StoreFailed(
                f"the models cannot be copied from the store ({type(error).__name__})"
            ) from None

    def _no_driver(self) -> str:
        return f"the driver of {self._scheme}:// is not installed (s3fs for s3, gcsfs for gs, adlfs for az)"


def copy_repository(url: str, folder: Path) -> None:
    """Copy a repository and compare it with its manifests. `folder` is there only when it is whole.

    Raises:
        StartError: the store cannot be read, or has no whole repository there.
    """
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        Folder(url).copy(draft)
        check_repository(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
