"""`florence2-sam2 health` over HTTP: the standard library only."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from florence2_sam2.cli.health import NotWell

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Http:
    """A server's HTTP endpoint, or a proxy's before it.

    Raises:
        ValueError: `url` is no address, or has a path or files of TLS that do not go with it.
        OSError: a file of TLS cannot be read.
    """

    def __init__(self, url: str, ca: str | None, certificate: str | None, key: str | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} is no server address; write http://host:8000")
        if parts.scheme.lower() != "https" and (ca or certificate):
            raise ValueError("certificates go with https:// only")
        self._place = url.rstrip("/") + "/v2/models/segment_http/generate"
        handlers: list[urllib.request.BaseHandler] = []
        if parts.scheme.lower() == "https":
            context = ssl.create_default_context(cafile=ca)
            if certificate:
                context.load_cert_chain(certificate, key)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        if parts.hostname in LOOPBACK:  # no proxy of the environment leads back here
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def health(self, seconds: float) -> dict[str, Any]:
        return self._ask({"health": True}, seconds)

    def segment(self, picture: bytes, options: dict[str, Any], seconds: float) -> dict[str, Any]:
        encoded = base64.b64encode(picture).decode()
        return self._ask({"image_base64": encoded, "options": json.dumps(options)}, seconds)

    def _ask(self, fields: dict[str, Any], seconds: float) -> dict[str, Any]:
        request = urllib.request.Request(
            self._place, json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                body = json.load(answer)
            told: dict[str, Any] = json.loads(body["result"])
            return told
        except urllib.error.HTTPError as error:
            raise NotWell(_error_of(error)) from None
        except TimeoutError:
            raise NotWell(f"no answer within {seconds:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise NotWell(f"no answer within {seconds:g} s") from None
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise NotWell(f"no server answers there ({reason})") from None
        except (OSError, http.client.HTTPException) as error:
            raise NotWell(f"the connection broke ({error})") from None
        except (ValueError, KeyError, TypeError):
            raise NotWell("the answer is none of segment_http") from None


def _error_of(answer: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(answer.read())["error"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return f"HTTP status {answer.code}"
