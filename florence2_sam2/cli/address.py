"""Where the commands look for a server."""

from __future__ import annotations

import os

URL_VARIABLE = "FLORENCE2_SAM2_URL"
DEFAULT_URL = "grpc://localhost:8001"


def default_url() -> str:
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)
