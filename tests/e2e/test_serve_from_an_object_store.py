"""`serve --repository URL`: the models are copied once, checked, and served; what is wrong is one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import Served

from florence2_sam2.cache.store import Cache, CacheError
from florence2_sam2.server.manifest import packaged_repository, read_florence2

pytestmark = pytest.mark.server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder that stands for a bucket."""
    return Path(
        shutil.copytree(
            packaged_repository(), tmp_path / "models-2026-11", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def test_the_models_of_a_store_are_served(tmp_path: Path, store: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "run").mkdir()
    served = Served(tmp_path / "run", "--repository", store.as_uri(), "--cache", str(cache))
    try:
        served.wait_ready()
        shutil.rmtree(store)  # it is not read again
        assert b'"objects"' in served.segment()["result"].item()
        assert (
            read_florence2(packaged_repository()).source.sha256.encode() in served.segment()["result"].item()
        )
        assert f"copying {store.as_uri()} into" in served.text()
        (entry,) = Cache(cache).entries()
        with pytest.raises(CacheError, match="in use"):
            Cache(cache).remove(entry)
    finally:
        served.end()


def test_what_is_wrong_is_one_line(tmp_path: Path, store: Path) -> None:
    (store / "sam2_mask_decoder" / "1" / "model.onnx").write_bytes(b"x")
    for url, said in (
        (store.as_uri(), "has changed since the export"),
        ("file:///no/such/folder", "the store has nothing at that URL"),
        ("s3://key:secret@bucket/models", "--repository has credentials in it"),
    ):
        command = [sys.executable, "-m", "florence2_sam2", "serve", "--repository", url]
        done = subprocess.run(
            [*command, "--cache", str(tmp_path / "cache")], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("florence2-sam2: error: ")
        assert said in last
        assert "secret" not in done.stderr
    assert not list((tmp_path / "cache").glob("*/repository"))
