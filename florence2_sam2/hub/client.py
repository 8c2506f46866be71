"""Requests to the hub with the standard library: endpoint, token, proxies, redirects, errors in one line."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from florence2_sam2 import __version__
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.names import HubName

ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 10.0  # to connect, and between two parts of an answer
_TRUE = ("1", "on", "yes", "true")

# What a connection can fail with: timeouts, resets, TLS and names that do not resolve are OSErrors.
NETWORK_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Hub:
    """One hub, and who asks it. `offline` is the reason why it must not be asked, None when it may."""

    endpoint: str = ENDPOINT
    token: str | None = None
    offline: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Hub:
        """The hub that the hub library's variables name."""
        offline = [
            name
            for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
            if environ.get(name, "").lower() in _TRUE
        ]
        return cls(
            environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT,
            _token(environ),
            f"{offline[0]} is set" if offline else None,
        )

    def resolve(self, name: HubName) -> str:
        """The commit hash of `name`.

        Raises:
            HubError: there is no such repository or revision, or it is not for this user.
            Unavailable: the hub does not answer now.
        """
        return name.revision if name.is_pinned else str(self.describe(name)["sha"])

    def describe(self, name: HubName) -> dict[str, Any]:
        """The hub's own words on a repository: `sha` (commit) and `siblings` (its files with sizes and hashes)."""
        path = f"/api/models/{name.repository}/revision/{quote(name.revision, safe='')}?blobs=true"
        with self.open(self.endpoint + path, name) as response:
            try:
                body: Any = json.loads(response.read())
                if isinstance(body["sha"], str) and isinstance(body["siblings"], list):
                    return dict(body)
            except (ValueError, KeyError, TypeError):
                pass
            except NETWORK_ERRORS as error:
                raise self._unreachable(error) from None
        raise HubError(f"what answers at {self.endpoint} is no hub: check HF_ENDPOINT and the proxy")

    def file_url(self, name: HubName, file: str) -> str:
        return f"{self.endpoint}/{name.repository}/resolve/{quote(name.revision, safe='')}/{quote(file)}"

    def open(self, url: str, name: HubName, start: int = 0) -> HTTPResponse:
        """GET `url`, which belongs to `name`, from byte `start` on. Its status is 206 where the hub has kept to that.

        Raises:
            HubError, Unavailable: as `resolve`.
        """
        if self.offline:
            raise Unavailable(self.offline)
        request = urllib.request.Request(url, headers={"User-Agent": f"florence2-sam2/{__version__}"})
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            opener = urllib.request.build_opener(_Proxies, _Redirects)
            response: HTTPResponse = opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, name) from None
        except NETWORK_ERRORS as error:
            raise self._unreachable(error) from None
        return response

    def _unreachable(self, error: Exception) -> Unavailable:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Unavailable(
                f"the certificate of {self.endpoint} is not trusted ({reason.verify_message}): behind a proxy that"
                " opens TLS, set SSL_CERT_FILE to its certificates"
            )
        text = (
            (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
        )
        return Unavailable(f"{self.endpoint} cannot be reached ({text})")

    def _refusal(self, error: urllib.error.HTTPError, name: HubName) -> HubError:
        code, kind, seconds = error.code, error.headers.get("X-Error-Code", ""), _seconds(error.headers)
        if code == 429:
            when = "in a few minutes" if seconds is None else f"in {seconds:.0f} s"
            better = "" if self.token else ", or set HF_TOKEN: with an account the limit is higher"
            return Unavailable(
                f"{self.endpoint} takes no more requests now (429): try again {when}{better}", seconds
            )
        if code >= 500 or code == 408:
            return Unavailable(f"{self.endpoint} has a fault of its own ({code}): try again later", seconds)
        if kind == "RevisionNotFound":
            return HubError(
                f"{name.repository} has no revision {name.revision!r} ({code}): after the @ comes a branch, a tag or a"
                " commit of it"
            )
        if kind == "EntryNotFound":
            return HubError(
                f"{name} lacks a file that it lists ({code}): try again, or take another revision"
            )
        if "credentials" in error.headers.get("X-Error-Message", "").lower():
            return HubError(
                f"{self.endpoint} does not know this token ({code}): set HF_TOKEN to a valid one, or to none"
            )
        if kind == "GatedRepo" or code == 403:
            return HubError(
                f"{name.repository} is gated ({code}): accept its terms at {self.endpoint}/{name.repository}, and set"
                " HF_TOKEN to a token of the same account"
            )
        if code in (401, 404):
            return HubError(
                f"{self.endpoint} has no {name.repository} that is public ({code}), and there is no folder of that"
                " name: check the spelling; for a private repository set HF_TOKEN"
            )
        return HubError(f"{self.endpoint} refuses {name} ({code} {error.reason})")


def _token(environ: Mapping[str, str]) -> str | None:
    """The hub library's token: from the environment, else the file that its `login` writes."""
    token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token and environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() not in _TRUE:
        try:
            token = Path(environ.get("HF_TOKEN_PATH") or home(environ) / "token").read_text("utf-8")
        except OSError:
            return None
    return token.strip() or None if token else None


def home(environ: Mapping[str, str]) -> Path:
    """The hub library's folder."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environ.get("HF_HOME") or Path(base) / "huggingface").expanduser()


def _seconds(headers: Message) -> float | None:
    try:
        return float(headers.get("Retry-After", ""))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies, but never for this machine."""

    def proxy_open(self, request: urllib.request.Request, proxy: str, type: str) -> Any:
        return None if _is_loopback(request.host) else super().proxy_open(request, proxy, type)  # type: ignore[misc]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Files lie on other hosts, which must not see the token."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        body: IO[bytes],
        code: int,
        message: str,
        headers: HTTPMessage,
        url: str,
    ) -> urllib.request.Request | None:
        new = super().redirect_request(request, body, code, message, headers, url)
        if new is not None and urlsplit(url)[:2] != urlsplit(request.full_url)[:2]:
            new.remove_header("Authorization")
        return new
