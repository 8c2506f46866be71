"""A model repository out of an object store: `python3 -m florence2_sam2.server.container.models URL DIR`.

For a container that runs before the server's (Kubernetes' initContainer) and shares a volume with it. URL is any that
fsspec reads, `s3://bucket/models-2026-11` for instance; its driver takes credentials from the environment.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
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


def copy_repository(url: str, folder: Path) -> None:
    """Copy a repository and compare it with its manifests. `folder` is there only when it is whole.

    Raises:
        StartError: the store cannot be read, or has no whole repository there.
    """
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _copy(url, draft)
        check_repository(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(url: str, folder: Path) -> None:
    try:
        import fsspec
    except ImportError:
        raise StartError("fsspec is not installed: pip install 'florence2-sam2[store]'") from None
    try:
        store, root = fsspec.core.url_to_fs(url)
        paths = sorted(str(path) for path in store.find(root))
        if not paths:
            raise StartError("the store has nothing at that URL")
        for path in paths:
            target = folder / path.removeprefix(str(root).rstrip("/")).lstrip("/")
            if not target.resolve().is_relative_to(folder.resolve()):
                raise StartError("the store has names that lead out of the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(path, str(target))
    except ImportError:
        scheme = url.partition("://")[0]
        raise StartError(
            f"the driver of {scheme}:// is not installed (s3fs for s3, gcsfs for gs, adlfs for az)"
        ) from None
    except StartError:
        raise
    except Exception as error:  # drivers raise their vendors' own kinds, with addresses and requests in them
        raise StartError(f"the models cannot be copied from the store ({type(error).__name__})") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
