"""A small web server on loopback with one picture."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATH = "/scene.png"


class _Handler(http.server.BaseHTTPRequestHandler):
    """The picture at PATH, nothing elsewhere; each request is counted."""

    picture: bytes
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        found = self.path == PATH
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(self.picture) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(self.picture)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(picture: bytes) -> Iterator[tuple[str, list[str]]]:
    """The server's address, `host:port`, and the paths that it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"picture": picture, "requests": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{web.server_address[1]}", asked
        web.shutdown()
