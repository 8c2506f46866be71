"""`florence2-sam2 playground`: a page on which to try a running server."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from florence2_sam2.cli.address import (
    DEFAULT_URL,
    URL_VARIABLE,
    add_credentials,
    credentials,
    default_url,
    require_usable,
)
from florence2_sam2.client import Segmenter, SegmenterError
from florence2_sam2.client.connection import parse_address

HTTP_PORT = 8000  # Triton's own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        metavar="PICTURE",
        help="pictures that the page offers to begin with",
    )
    parser.add_argument(
        "--url",
        default=default_url(),
        help=f"the server (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--http-url",
        metavar="URL",
        help=f"its HTTP address, for the curl call shown (default: port {HTTP_PORT} there)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where the page listens (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_credentials(parser)


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        return _complain("it needs the extra `playground`: pip install 'florence2-sam2[playground]'", 1)
    missing = [str(path) for path in arguments.pictures if not path.is_file()]
    if missing:
        return _complain(f"there is no file {missing[0]}", 2)
    try:
        shown = credentials(arguments)
        require_usable(arguments.url, shown)
    except ValueError as error:
        return _complain(str(error), 2)
    address = parse_address(arguments.url)
    with Segmenter(arguments.url, **shown) as segmenter:
        try:
            segmenter.wait_until_ready(timeout=2)
        except SegmenterError as error:
            said = f"no server answers at {address} ({error.code}): start one with `florence2-sam2 serve`"
            print(f"florence2-sam2 playground: {said}. The page finds it then.", file=sys.stderr)
        host = address.hosts[0].rpartition(":")[0]
        http_url = arguments.http_url or f"http://{host}:{HTTP_PORT}"
        return _launch(arguments, segmenter, http_url.rstrip("/"))


def _launch(arguments: argparse.Namespace, segmenter: Segmenter, http_url: str) -> int:
    from florence2_sam2.playground.page import page, theme

    pictures = [str(path.resolve()) for path in arguments.pictures]
    blocks = page(segmenter, arguments.url, http_url, pictures)
    try:
        blocks.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            inbrowser=arguments.open,
            allowed_paths=pictures,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme(),
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        return _complain(f"the page cannot listen on {arguments.host}:{arguments.port}: {error}", 1)
    print(f"The page is at http://{arguments.host}:{arguments.port} (Ctrl-C ends it)", flush=True)
    try:
        blocks.block_thread()
    finally:
        blocks.close()
    return 0


def _complain(message: str, code: int) -> int:
    print(f"florence2-sam2 playground: {message}", file=sys.stderr)
    return code
