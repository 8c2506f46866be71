"""A server on loopback that answers as the Hugging Face hub does, and can be told to misbehave.

    GET /api/models/{repository}/revision/{revision}?blobs=true    commit, and files with sizes and hashes
    GET /api/models/{repository}/tree/{commit}                     the same list, as the hub library asks for it
    GET /{repository}/resolve/{revision}/{file}                    small files themselves, large ones as a redirect
    GET /cdn/{sha256}                                              large files, on another port, with Range

Headers and status codes are those the hub documents and its library reads (X-Error-Code, X-Repo-Commit, X-Linked-Etag
…).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1 << 20  # the hub keeps .safetensors in LFS whatever their size, and other files from 10 MB on
BLOCK_BYTES = 1 << 16
# What the released repositories hold beside the checkpoint.
EXTRAS = {".gitattributes": b"*.safetensors filter=lfs\n", "README.md": b"---\nlicense: mit\n---\n"}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Request:
    """What arrived at the server, and how much of a file was sent for it."""

    path: str
    range: str | None
    authorization: str | None
    sent: list[int] = field(default_factory=list)


@dataclass
class Repository:
    """Files by commit; branches and tags by name."""

    commits: dict[str, dict[str, bytes | Path]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class HubServer:
    """A hub. Its `break_after`, `refuse` … change what it does from the next request on."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.break_after: dict[
            str, int
        ] = {}  # file → bytes after which one connection is cut; then it is over
        self.pause_after: dict[str, int] = {}  # file → bytes after which it waits for `go_on`
        self.go_on = threading.Event()
        self.flipped: set[str] = set()  # files of which one byte arrives changed
        self.refuse: tuple[int, dict[str, str]] | None = None  # status and headers for everything
        self.ranges = True  # whether Range is kept to
        self.hashes = True  # whether files are listed with hashes
        self.described: dict[str, Any] = {}  # repository → what is said of it, whatever it holds
        self.token: str | None = None  # opens gated repositories
        self._servers: list[ThreadingHTTPServer] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def start(self, port: int = 0) -> None:
        self._servers = [self._serve(port), self._serve(0)]

    def stop(self) -> None:
        """No more connections: the port refuses them."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repository: str, files: dict[str, bytes | Path], revision: str = "main") -> str:
        """A commit with these files, and `revision` at it; returns the commit's hash."""
        files = {**EXTRAS, **files}
        names = json.dumps({name: self.digest(content) for name, content in sorted(files.items())})
        commit = hashlib.sha1(f"{repository}{names}".encode(), usedforsecurity=False).hexdigest()
        known = self.repositories.setdefault(repository, Repository())
        known.commits[commit] = files
        known.revisions[revision] = commit
        return commit

    def add_folder(self, repository: str, folder: Path, **more: bytes) -> str:
        return self.add(
            repository, {**{path.name: path for path in folder.iterdir() if path.is_file()}, **more}
        )

    def sent(self, file: str) -> int:
        """Bytes of a file's content that went out, over all requests."""
        return sum(sum(request.sent) for request in self._requests_for(file))

    def ranges_of(self, file: str) -> list[str]:
        """The Range headers of the requests for a file's content."""
        return [request.range for request in self._requests_for(file) if request.range]

    def _requests_for(self, file: str) -> list[Request]:
        """Requests for a file by its name, or by the hash of a content it has in some commit."""
        commits = [commit for row in self.repositories.values() for commit in row.commits.values()]
        names = {file, *(self.digest(commit[file]) for commit in commits if file in commit)}
        return [request for request in self.requests if request.path.rpartition("/")[2] in names]

    @staticmethod
    def digest(content: bytes | Path) -> str:
        if isinstance(content, Path):
            return _file_digest(content, content.stat().st_mtime_ns)
        return hashlib.sha256(content).hexdigest()

    def _serve(self, port: int) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            server_state = hub

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server


@contextmanager
def running() -> Iterator[HubServer]:
    hub = HubServer()
    hub.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        hub.stop()


class _Handler(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub = self.server_state
        path = unquote(urlsplit(self.path).path)  # a proxy is asked for the whole URL
        self.request_row = Request(path, self.headers.get("Range"), self.headers.get("Authorization"))
        hub.requests.append(self.request_row)
        if hub.refuse:
            return self._refuse(*hub.refuse)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self._describe(*match.groups())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            return self._tree(*match.groups())
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            return self._content(*self._by_digest(match[1]))
        return self._refuse(404, {})

    do_HEAD = do_GET

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit, or None after a refusal."""
        repository = self.server_state.repositories.get(name)
        if repository is None:
            # Without an account, the hub does not tell what does not exist from what is private.
            self._refuse(
                401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}
            )
            return None
        commit = revision if revision in repository.commits else repository.revisions.get(revision)
        if commit is None:
            self._refuse(
                404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}
            )
            return None
        return repository, commit

    def _describe(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return None
        repository, commit = found
        if name in self.server_state.described:
            body = json.dumps(self.server_state.described[name]).encode()
            return self._answer(200, body, {"Content-Type": "application/json"})
        siblings = [self._row(file, content) for file, content in sorted(repository.commits[commit].items())]
        body = json.dumps(
            {"id": name, "sha": commit, "gated": repository.gated, "siblings": siblings}
        ).encode()
        return self._answer(200, body, {"Content-Type": "application/json"})

    def _tree(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        rows = []
        for file, content in sorted(found[0].commits[found[1]].items()):
            row = self._row(file, content)
            rows.append({"type": "file", "path": file, "oid": row["blobId"], "size": row["size"]})
            if "lfs" in row:
                rows[-1]["lfs"] = {**row["lfs"], "oid": row["lfs"]["sha256"]}
        self._answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def _row(self, file: str, content: bytes | Path) -> dict[str, Any]:
        size = _size(content)
        if not self.server_state.hashes:
            return {"rfilename": file}
        if not _is_large(file, size):
            return {"rfilename": file, "size": size, "blobId": git_sha1(_bytes(content))}
        # git holds a small text that points to the file
        digest = HubServer.digest(content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
        lfs = {"sha256": digest, "size": size, "pointerSize": len(pointer)}
        return {"rfilename": file, "size": size, "blobId": git_sha1(pointer), "lfs": lfs}

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        token = self.server_state.token
        if repository.gated and (token is None or self.headers.get("Authorization") != f"Bearer {token}"):
            self._refuse(403 if self.headers.get("Authorization") else 401, {"X-Error-Code": "GatedRepo"})
            return
        content = repository.commits[commit].get(file)
        if content is None:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        size = _size(content)
        if not _is_large(file, size):
            self._content(file, content, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(_bytes(content))}"'})
            return
        digest = HubServer.digest(content)
        headers = {
            "Location": f"{self.server_state.cdn}/cdn/{digest}",
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(size),
            "X-Linked-Etag": f'"{digest}"',
        }
        self._answer(302, b"", headers)

    def _by_digest(self, digest: str) -> tuple[str, bytes | Path]:
        return next(
            (file, content)
            for repository in self.server_state.repositories.values()
            for commit in repository.commits.values()
            for file, content in commit.items()
            if HubServer.digest(content) == digest
        )

    def _content(self, file: str, content: bytes | Path, headers: dict[str, str] | None = None) -> None:
        hub = self.server_state
        size = _size(content)
        headers = dict(headers or {})
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and hub.ranges:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.send_response(206 if asked and hub.ranges else 200)
        for name, value in {**headers, "Content-Length": str(size - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        broken = hub.break_after.pop(file, None)
        end = size if broken is None else start + broken
        pause = hub.pause_after.get(file)
        with _opened(content) as body:
            body.seek(start)
            for at in range(start, end, BLOCK_BYTES):
                if pause is not None and at - start >= pause:
                    hub.go_on.wait(60)
                block = body.read(min(BLOCK_BYTES, end - at))
                if file in hub.flipped and at + len(block) == size:
                    block = block[:-1] + bytes([block[-1] ^ 1])
                self.request_row.sent.append(len(block))  # first: who has received a block may look at once
                try:
                    self.wfile.write(block)
                except OSError:
                    self.request_row.sent.pop()
                    return  # the client has gone
        if broken is not None:
            self.close_connection = True

    def _refuse(self, code: int, headers: dict[str, str]) -> None:
        self._answer(code, b"{}", headers)

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@functools.cache
def _file_digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(content: bytes | Path) -> BinaryIO:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _bytes(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _is_large(file: str, size: int) -> bool:
    return file.endswith((".safetensors", ".bin", ".pt")) or size > 10 * LARGE_BYTES
