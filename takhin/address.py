"""Addresses to listen on: ``host:port``, ``[v6]:port``, or ``:port`` for all interfaces."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")


class Address(NamedTuple):
    #: A name or an address without brackets; empty means all interfaces.
    host: str
    #: 0 means any free port.
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than ``localhost`` counts as reachable."""
        if self.host.rstrip(".").lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all interfaces."""
        return self.host in ("", "::", "0.0.0.0")

    def __str__(self) -> str:
        """``host:port`` with brackets where they are needed; all interfaces are ``[::]``, which
        takes IPv4 as well where the system allows it."""
        host = self.host or "::"
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def parse(text: str) -> Address:
    """The address that ``text`` says. Raises ``ValueError`` with a sentence that says what is wrong."""
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or not rest.startswith(":"):
            raise ValueError("an IPv6 address is written [address]:port")
        port = rest[1:]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv6 address") from None
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError("the port is missing: write host:port, or :port for all interfaces")
        if ":" in host:
            raise ValueError("an IPv6 address is written [address]:port")
        if re.fullmatch(r"[0-9.]+", host):
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise ValueError(f"{host!r} is not an IPv4 address") from None
        elif host and not (len(host) <= 253 and _HOST_NAME.fullmatch(host)):
            raise ValueError(f"{host!r} is not a host name")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{port!r} is not a port: 0 to 65535")
    return Address(host, int(port))
