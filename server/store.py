"""Masks in an object store, for `mask_url`."""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from florence2_sam2.server.settings import PREFIX, Settings
from florence2_sam2.server.store_sweep import Sweep

_VARIABLE = PREFIX + "STORE_URL"

# How a store's driver is told the content type; others guess it from the name, or keep none.
_CONTENT_TYPE = {
    "s3": {"ContentType": "image/png"},
    "gs": {"content_type": "image/png"},
    "gcs": {"content_type": "image/png"},
}
_MAX_WRITERS = 32  # a store that hangs holds so many threads, and no more
_CREDENTIALS = ("key", "secret", "token", "password", "sig", "signature", "credential")


class StoreError(Exception):
    """A mask could not be stored, or the store cannot be used. One line without paths, addresses or secrets."""


class Stored(NamedTuple):
    """Where a mask lies, and until when it can be had there; None: nothing that is known here ends that."""

    url: str
    expires: datetime | None


class MaskStore:
    """A folder in an object store, as fsspec names it: `s3://bucket/prefix`, `file:///folder`, `memory://masks`.

    Credentials come from the environment, in the form that the store's own driver documents. Objects are
    named by their content, so the same mask has the same name. In a folder of this machine they are removed
    `store_keep_seconds` after they were last written, if that is not 0; elsewhere nothing is ever deleted
    (use the bucket's lifecycle rules).
    """

    def __init__(self, url: str, settings: Settings) -> None:
        """Open the store; nothing is written yet.

        Raises:
            StoreError: fsspec or the store's driver is not installed, the URL is malformed or has
                credentials, or masks are to be removed where this server cannot.
        """
        refuse_credentials(url, _VARIABLE)
        try:
            import fsspec
        except ImportError:
            raise StoreError(f"{_VARIABLE} needs fsspec: pip install 'florence2-sam2[store]'") from None
        self._scheme = urlsplit(url).scheme or "file"
        try:
            self._filesystem, folder = fsspec.core.url_to_fs(url)
            if "file" in self._filesystem.protocol:
                self._filesystem.makedirs(folder, exist_ok=True)
        except ImportError:
            hint = "s3fs for s3, gcsfs for gs, adlfs for az"
            raise StoreError(
                f"{_VARIABLE}: the driver of {self._scheme}:// is not installed ({hint})"
            ) from None
        except (ValueError, OSError) as error:
            raise StoreError(f"{_VARIABLE} cannot be opened ({type(error).__name__})") from None
        self._folder = str(folder).rstrip("/")
        self._is_local = "file" in self._filesystem.protocol
        self._writers = threading.BoundedSemaphore(_MAX_WRITERS)
        self._write_seconds = settings.store_seconds
        self._link_seconds = settings.store_link_seconds
        self._keep_seconds = settings.store_keep_seconds
        self._replacing = threading.Lock()
        if self._keep_seconds and not self._is_local:
            raise StoreError(
                f"{PREFIX}STORE_KEEP_SECONDS is for a folder of this machine; give the bucket a lifecycle rule"
            )
        if self._keep_seconds:
            Sweep(Path(self._folder), self._keep_seconds, self._replacing).start()

    def put(self, png: bytes) -> Stored:
        """Store a PNG and answer with its URL: signed for `store_link_seconds` where the store can, else plain.

        Blocks for at most `store_seconds`; call it in a thread.

        Raises:
            StoreError: it could not be stored in time. The caller answers with a data URL and a warning
                instead.
        """
        name = hashlib.sha256(png).hexdigest()[:40] + ".png"
        outcome: queue.SimpleQueue[Stored | Exception] = queue.SimpleQueue()

        if not self._writers.acquire(blocking=False):
            raise StoreError("the store is busy with earlier masks")

        def write() -> None:
            try:
                outcome.put(self._write(f"{self._folder}/{name}", png))
            except Exception as error:  # drivers raise their vendors' own kinds
                outcome.put(error)
            finally:
                self._writers.release()

        threading.Thread(target=write, name="store", daemon=True).start()
        try:
            result = outcome.get(timeout=self._write_seconds)
        except queue.Empty:
            raise StoreError(f"the store took more than {self._write_seconds:g} s") from None
        if isinstance(result, Exception):
            raise StoreError(f"the store failed ({type(result).__name__})") from result
        return result

    def _write(self, path: str, png: bytes) -> Stored:
        # Object stores show an object once it is complete; a file is made so by renaming it.
        first = f"{path}.{secrets.token_hex(8)}" if self._is_local else path
        self._filesystem.pipe_file(first, png, **_CONTENT_TYPE.get(self._scheme, {}))
        now = datetime.now(UTC).replace(microsecond=0)
        if self._is_local:
            with self._replacing:
                self._filesystem.mv(first, path)
        try:
            url = str(self._filesystem.sign(path, expiration=self._link_seconds))
        except NotImplementedError:
            kept = now + timedelta(seconds=self._keep_seconds) if self._keep_seconds else None
            return Stored(str(self._filesystem.unstrip_protocol(path)), kept)
        return Stored(url, now + timedelta(seconds=self._link_seconds))


def refuse_credentials(url: str, where: str) -> None:
    """A URL is seen in process lists, logs and answers. `where`: how the message names what it was given as.

    Raises:
        StoreError: the URL has a user, password or key in it, or is a chain of URLs.
    """
    if "::" in url:
        raise StoreError(f"{where} is a chain of URLs; name the store alone")
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    # abfs://container@account… is how Azure's driver writes a container.
    has_user = ":" in user or (user and not parts.scheme.startswith(("abfs", "az")))
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if has_user or any(word in name for name in names for word in _CREDENTIALS):
        raise StoreError(f"{where} has credentials in it; give them in the environment, as its driver says")


def open_store(settings: Settings) -> MaskStore | None:
    """The store of `settings.store_url`; None without one.

    Raises:
        StoreError: see `MaskStore`.
    """
    return MaskStore(settings.store_url, settings) if settings.store_url else None
