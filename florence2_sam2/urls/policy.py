"""Which URLs a caller may have fetched: decided here, without a packet being sent to the target.

The danger is a server, or a client in somebody's service, that fetches for a stranger what only its own network may
reach (server-side request forgery). `decide` answers with addresses, and the fetch connects to one of these: a name is
resolved once only, so it cannot point elsewhere between check and connection.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from florence2_sam2.urls.rules import RefusedUrl, UrlRules

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) → all addresses of the host, as text. Raises OSError when there are none."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SCHEME_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, 2.4
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, 6.1: upper half of the interface identifier
_RELAY_ANYCAST = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526
_MAX_LENGTH = 8192
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class Target:
    """Where one request of a fetch goes: to one of `addresses`, which have been checked, and nowhere else."""

    scheme: str
    host: str  # lower case, without brackets and final dot
    port: int
    path: str  # with the query
    addresses: tuple[str, ...]

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def decide(url: str, rules: UrlRules, resolver: Resolver) -> Target:
    """The target of a URL that may be fetched.

    http and https, no credentials, a port of `rules.ports`, a host name or an address in its ordinary
    form, and no address of the host but public ones. A host:port pair of `rules.allow` is free of the
    last two.

    Raises:
        RefusedUrl: one of these is not so, or the host does not resolve.
        TimeoutError: the resolver raised it.
    """
    scheme, host, port, path = _split(url)
    allowed = f"{host}:{port}" in rules.allow or f"[{host}]:{port}" in rules.allow
    if not allowed and port not in rules.ports:
        raise RefusedUrl(f"port {port} is not allowed; use one of {', '.join(map(str, rules.ports))}")
    literal = _literal(host)
    try:
        addresses = (str(literal),) if literal else tuple(dict.fromkeys(resolver(host, port)))
    except TimeoutError:  # of the caller's resolver, whose time it is
        raise
    except (OSError, UnicodeError):
        raise RefusedUrl(f"the host {host} cannot be resolved") from None
    if not addresses:
        raise RefusedUrl(f"the host {host} cannot be resolved")
    if not allowed and not all(is_public(address) for address in addresses):
        raise RefusedUrl(f"the host {host} is not public; only public addresses are fetched from")
    return Target(scheme, host, port, path, addresses)


def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses that the system's resolver has for a host. Blocks for as long as the system allows."""
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(row[4][0]) for row in rows]


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet.

    `ipaddress.is_global` alone says yes to multicast, and to IPv6 forms that stand for a private IPv4 address: of these
    the translated ones are judged by what they stand for, and tunnels (6to4, Teredo, ISATAP) are refused.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        else:
            return parsed.is_global and parsed in _GLOBAL_UNICAST and not _is_tunnel(parsed)
    return parsed.is_global and not parsed.is_multicast and parsed not in _RELAY_ANYCAST


def _is_tunnel(address: ipaddress.IPv6Address) -> bool:
    """Whether a gateway may send on, to an IPv4 address inside this one, what is sent to it."""
    isatap = int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    return isatap or address.sixtofour is not None or address.teredo is not None


def _split(url: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path with query), where anything that parsers read in different ways is refused."""
    if len(url) > _MAX_LENGTH:
        raise RefusedUrl(f"is longer than {_MAX_LENGTH} characters")
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url.strip()):
        raise RefusedUrl("has spaces or control characters in it; percent-encode them")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise RefusedUrl("is no valid URL") from None
    scheme = parts.scheme.lower()
    if scheme not in _SCHEME_PORTS:
        raise RefusedUrl("must start with http://, https:// or data:image/")
    if "\\" in url:
        raise RefusedUrl("has a backslash in it; write / or %5C")
    if "@" in parts.netloc:
        raise RefusedUrl("has a user name or password in it; these are not sent")
    host = (parts.hostname or "").removesuffix(".")
    if not host.isascii():
        raise RefusedUrl("has a host name outside ASCII; write it in its xn-- form")
    if ":" not in host and not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise RefusedUrl("has no valid host name")
    path = quote(parts.path or "/", safe=_PATH_SAFE, errors="replace")
    if parts.query:
        path += "?" + quote(parts.query, safe=_PATH_SAFE + "?[]", errors="replace")
    return scheme, host, port if port is not None else _SCHEME_PORTS[scheme], path


def _literal(host: str) -> _Address | None:
    """The address that a host spells; None for a name.

    Raises:
        RefusedUrl: it spells an address in one of the forms that only some programs understand (2130706433,
            0x7f.1,
            0177.0.0.1). As in the URL standard, a host whose last label is a number is no name.
    """
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host)
        except ValueError:
            raise RefusedUrl("has no valid IPv6 address") from None
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        raise RefusedUrl("has an IPv4 address that is not in its ordinary form, such as 192.0.2.1") from None
