"""Which URLs may be fetched: public http and https, in their ordinary spelling, and what the operator has opened."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.urls.policy import decide, is_public
from florence2_sam2.urls.rules import RefusedUrl, UrlRules

PUBLIC = "93.184.216.34"


class Names:
    """A resolver with a table, which keeps what it was asked."""

    def __init__(self, **table: Sequence[str]) -> None:
        self.table = {name.replace("_", "."): addresses for name, addresses in table.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.table:
            raise OSError("no such name")
        return self.table[host]


NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "public_test": [PUBLIC, "2606:2800:220:1::1"],
    "inside_test": ["10.1.2.3"],
    "mixed_test": [PUBLIC, "127.0.0.1"],
    "mapped_test": ["::ffff:10.1.2.3"],
    "nat64_test": ["64:ff9b::a01:203"],
    "odd_test": ["no address"],
    "empty_test": [],
}


HOSTILE = [
    "http://127.0.0.1/a.png",
    "http://127.8.9.10/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:5db8:d822::1]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2606:2800::5efe:7f00:1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[fd00:ec2::254]/",
    "http://[::ffff:127.0.0.1%25eth0]/",
    "http://0.0.0.0/",
    "http://0/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://0x7f.1/",
    "http://0x7f000001/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/",
    "http://100.64.0.1/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://inside.test/",
    "http://mixed.test/",
    "http://mapped.test/",
    "http://nat64.test/",
    "http://odd.test/",
    "http://empty.test/",
    "http://unknown.test/",
    "file:///etc/passwd",
    "ftp://public.test/a.png",
    "gopher://public.test/",
    "dict://public.test/",
    "HTTP+UNIX://public.test/",
    "javascript:alert(1)",
    "public.test/a.png",
    "//public.test/a.png",
    "",
    "http://user@public.test/",
    "http://user:password@public.test/",
    "http://@public.test/",
    "http://public.test@127.0.0.1/",
    "http://127.0.0.1\\@public.test/",
    "http://public.test\\.evil.test/",
    "http:\\\\public.test/",
    "http://public.test:22/",
    "http://public.test:0/",
    "http://public.test:65536/",
    "http://public.test:-80/",
    "http://public.test:8080/",
    "http://public.test:80:80/",
    "http://public test/",
    "http://public.test/a b.png",
    "http://public.test/\r\nHost: inside.test",
    "http://public.test\t/",
    "http://public.test\0/",
    "http://pub%6cic.test/",
    "http:///a.png",
    "http://./",
    "http://public..test/",
    "http://[::1",
    "http://[public.test]/",
    "http://[v1.a]/",
    "http://public.test/" + "a" * 10_000,
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_urls_are_refused(url: str) -> None:
    with pytest.raises(RefusedUrl) as caught:
        decide(url, UrlRules(), Names(**NAMES))
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "10.1.2.3" not in message  # what a name resolves to is nobody's business


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("2130706433", "ordinary form"),
        ("0177.0.0.1", "ordinary form"),
        ("0x7f.1", "ordinary form"),
        ("127.1", "ordinary form"),
        ("0X7F000001", "ordinary form"),
        ("public.test.0x", "ordinary form"),
        ("１２７.０.０.１", "xn--"),
        ("pübliç.test", "xn--"),
        ("public.test\\a", "backslash"),
        ("public.test/a\\b", "backslash"),
    ],
)
def test_what_programs_read_differently_is_refused_whatever_it_resolves_to(host: str, words: str) -> None:
    with pytest.raises(RefusedUrl, match=words):
        decide(f"http://{host}/", UrlRules(), lambda *_: [PUBLIC])


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://public.test/a.png", "http://public.test:80/a.png"),
        ("HTTPS://Public.Test", "https://public.test:443/"),
        ("https://public.test:80/a?b=c&d=[1]#part", "https://public.test:80/a?b=c&d=[1]"),
        ("http://public.test./a.png", "http://public.test:80/a.png"),
        ("  http://public.test/a.png\n", "http://public.test:80/a.png"),
        (
            "http://public.test/straße%20x/ü.png?q=é",
            "http://public.test:80/stra%C3%9Fe%20x/%C3%BC.png?q=%C3%A9",
        ),
        (f"http://{PUBLIC}/", f"http://{PUBLIC}:80/"),
        ("http://[2606:2800:220:1::1]/", "http://[2606:2800:220:1::1]:80/"),
        (f"http://[::ffff:{PUBLIC}]/", None),
        ("http://[64:ff9b::5db8:d822]/", "http://[64:ff9b::5db8:d822]:80/"),
    ],
)
def test_public_urls_are_fetched_from_the_addresses_that_were_checked(url: str, target: str | None) -> None:
    decision = decide(url, UrlRules(), Names(**NAMES))
    if target is not None:
        assert decision.url == target
    assert decision.addresses
    assert all(is_public(address) for address in decision.addresses)


def test_a_name_is_resolved_once_and_an_address_never() -> None:
    names = Names(**NAMES)
    assert decide("http://public.test/", UrlRules(), names).addresses == tuple(NAMES["public_test"])
    assert names.asked == ["public.test"]
    decide(f"http://{PUBLIC}/", UrlRules(), names)
    assert names.asked == ["public.test"]


def test_the_allow_list_opens_exactly_one_host_and_port() -> None:
    rules = UrlRules(allow=("inside.test:9000", "127.0.0.1:9000", "[::1]:9000"))
    assert decide("http://inside.test:9000/a", rules, Names(**NAMES)).addresses == ("10.1.2.3",)
    assert decide("https://INSIDE.test:9000/a", rules, Names(**NAMES)).scheme == "https"
    assert decide("http://127.0.0.1:9000/a", rules, Names()).addresses == ("127.0.0.1",)
    assert decide("http://[::1]:9000/a", rules, Names()).addresses == ("::1",)
    for url in (
        "http://inside.test/a",
        "http://inside.test:9001/a",
        "http://127.0.0.2:9000/a",
        "http://localhost:9000/a",
        "http://a.inside.test:9000/a",
        "http://user@inside.test:9000/a",
        "file://inside.test:9000/a",
        "http://2130706433:9000/",
    ):
        with pytest.raises(RefusedUrl):
            decide(url, rules, Names(**NAMES))


def test_the_allow_list_is_read_in_any_case() -> None:
    rules = UrlRules(allow=["Inside.Test:9000"])
    assert decide("http://inside.test:9000/a", rules, Names(**NAMES)).addresses == ("10.1.2.3",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"allow": "inside.test:9000"}, "allow: several are wanted"),
        ({"allow": ("inside.test",)}, "allow: 'inside.test' is no host:port pair"),
        ({"allow": ("inside.test:0",)}, "no host:port pair"),
        ({"allow": (":80",)}, "no host:port pair"),
        ({"ports": 80}, "ports: several are wanted"),
        ({"ports": ()}, "ports: "),
        ({"ports": (80, 65536)}, "ports: "),
        ({"connect_seconds": 0}, "connect_seconds: 0, more than 0"),
        ({"total_seconds": float("nan")}, "total_seconds: nan"),
        ({"total_seconds": float("inf")}, "total_seconds: inf"),
        ({"max_redirects": -1}, "max_redirects: -1, at least 0"),
        ({"max_bytes": 0}, "max_bytes: 0, at least 1"),
    ],
)
def test_rules_without_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        UrlRules(**values)


def test_other_ports_can_be_opened() -> None:
    rules = UrlRules(ports=(8443,))
    assert decide("https://public.test:8443/", rules, Names(**NAMES)).port == 8443
    with pytest.raises(RefusedUrl, match="port 443 is not allowed; use one of 8443"):
        decide("https://public.test/", rules, Names(**NAMES))
    with pytest.raises(RefusedUrl, match="not public"):
        decide("https://localhost:8443/", rules, Names(**NAMES))


@given(st.ip_addresses(v=4))
def test_forms_that_carry_an_address_are_as_public_as_it_is(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    nat64 = ipaddress.IPv6Address(0x64FF9B << 96 | number)
    assert is_public(str(mapped)) == is_public(str(nat64)) == is_public(str(inner))
    assert not is_public(str(ipaddress.IPv6Address(0x2002 << 112 | number << 80)))
    if is_public(str(inner)):
        assert inner.is_global
        assert not inner.is_multicast


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", ""]))
def test_no_text_is_fetched_from_anywhere_but_public_addresses(text: str, scheme: str) -> None:
    try:
        target = decide(scheme + text, UrlRules(), lambda host, port: [PUBLIC])
    except RefusedUrl:
        return
    assert target.port in (80, 443)
    assert target.host.isascii()
    assert target.path.isascii()
    assert not any(character in target.path for character in " \r\n\t")
    assert all(is_public(address) for address in target.addresses)
