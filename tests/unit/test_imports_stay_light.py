"""What each part may import: the server no torch and no transformers, the client nothing but its three packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxscript")
CLIENTS = ("numpy", "PIL", "tritonclient", "grpc")
SERVERS = ("onnxruntime", "tokenizers", "cv2", "fsspec", "pytriton")

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises ImportError from here on
imported = []
for package in {packages!r}:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(getattr(root, "__path__", []), package + "."):
        importlib.import_module(module.name)
        imported.append(module.name)
print(len(imported))
"""


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        (["florence2_sam2.server", "florence2_sam2.postprocess", "florence2_sam2.cli.serve"], HEAVY),
        (["florence2_sam2.client", "florence2_sam2.cli.main", "florence2_sam2.cli.segment"], HEAVY + SERVERS),
        (["florence2_sam2.client", "florence2_sam2.urls"], (*HEAVY, *SERVERS, "florence2_sam2.server")),
        (["florence2_sam2.cli.export"], HEAVY + SERVERS),
        (["florence2_sam2.cli.bulk"], (*HEAVY, *SERVERS, "ray", "pyarrow", "pandas")),
        (["florence2_sam2.bulk"], (*HEAVY, "onnxruntime", "cv2", "ray")),
        (
            ["florence2_sam2.cli.health", "florence2_sam2.cli.health_http"],
            (*HEAVY, *SERVERS, *CLIENTS, "florence2_sam2.server", "florence2_sam2.client"),
        ),
        (
            ["florence2_sam2.hub", "florence2_sam2.cache", "florence2_sam2.cli.cache"],
            (*HEAVY, "huggingface_hub"),
        ),
    ],
    ids=[
        "server",
        "client and its command",
        "client",
        "help of export",
        "help of bulk",
        "bulk until Ray starts",
        "health over HTTP",
        "exports kept",
    ],
)
def test_imports(packages: list[str], blocked: tuple[str, ...]) -> None:
    code = IMPORT_ALL.format(packages=packages, blocked=blocked)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_block_blocks() -> None:
    code = IMPORT_ALL.format(packages=["florence2_sam2.server"], blocked=("onnxruntime",))
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, check=False
    ).returncode


FETCH_ONCE = """
import sys
import numpy, PIL.Image, PIL.ImageDraw, PIL.ImageFont, PIL.ImageOps
import tritonclient.grpc, tritonclient.grpc.aio  # asyncio, which these need, brings ssl
before = set(sys.modules)
import florence2_sam2.client
from florence2_sam2.client import images
print(sorted((set(sys.modules) - before) & {wanted!r}))
try:
    images.encode("http://127.0.0.1/", images.Fetching(florence2_sam2.client.UrlRules(), None))
except florence2_sam2.client.InvalidRequest as error:
    print(error)
print(sorted(set(sys.modules) & {wanted!r}))
"""


def test_http_comes_with_the_first_url_that_the_client_fetches() -> None:
    wanted = {"http.client", "ssl", "email.parser", "florence2_sam2.urls.fetch"}
    code = FETCH_ONCE.format(wanted=wanted)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    imported, refused, then = done.stdout.splitlines()
    assert imported == "[]"
    assert "the host 127.0.0.1 is not public" in refused
    assert then == str(sorted(wanted))
