"""Addresses to listen on."""

from __future__ import annotations

import pytest

from takhin.address import parse


@pytest.mark.parametrize(
    ("text", "host", "port", "canonical"),
    [
        ("127.0.0.1:9092", "127.0.0.1", 9092, "127.0.0.1:9092"),
        (":9092", "", 9092, "[::]:9092"),
        ("[::1]:0", "::1", 0, "[::1]:0"),
        ("broker-1.example.org:65535", "broker-1.example.org", 65535, "broker-1.example.org:65535"),
    ],
)
def test_an_address_is_a_host_and_a_port(text, host, port, canonical):
    address = parse(text)
    assert (address.host, address.port, str(address)) == (host, port, canonical)


def test_no_host_means_all_interfaces():
    assert parse(":1").is_wildcard
    assert parse("0.0.0.0:1").is_wildcard
    assert not parse("127.0.0.1:1").is_wildcard


@pytest.mark.parametrize(
    "text", ["", ":", "x", "x:", "x:-1", "x:99999", "x:１", "[x]:1", "[::1:1", "-x:1", "x/y:1", "999.1.1.1:1"]
)
def test_what_is_no_address_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)
