"""No pacing between two processes of one machine."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterator

log = logging.getLogger(__name__)

#: Whose senders wait for a timer between two segments, so as not to fill the queues of a network: BBR, BBR2.
_PACES = b"bbr"
#: In every kernel, and free for everyone to choose (``net.ipv4.tcp_allowed_congestion_control``).
_INSTEAD = b"reno"
#: Longest name of such a way, with its zero: TCP_CA_NAME_MAX of linux/tcp.h.
_NAME_BYTES = 16


def unpace_loopback(port: int) -> int:
    """Connections to what this process listens on at ``port`` of a loopback address do not pace what they send, even
    where the system is set to (``net.ipv4.tcp_congestion_control = bbr``): loopback has no queue to spare, and the
    timers cost a consumer a third of its speed. Connections from elsewhere keep what the system has chosen.

    gRPC gives no access to its sockets, so they are looked for among the open files. Gives how many were changed; 0
    also where the system does not let us look.
    """
    option: int | None = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        return 0
    changed = 0
    for one in _open_sockets():
        try:
            if _listens_on_loopback(one, port) and _paces(one, option):
                one.setsockopt(socket.IPPROTO_TCP, option, _INSTEAD)
                changed += 1
        except OSError as error:
            log.debug("cannot look at a socket", extra={"fields": {"error": str(error)}})
    return changed


def _open_sockets() -> Iterator[socket.socket]:
    """Duplicates, each closed when the next is asked for: a number may be another file's a moment later."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        try:
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            one = socket.socket(fileno=copy)
        except OSError:  # no socket any more
            os.close(copy)
            continue
        with one:
            yield one


def _paces(one: socket.socket, option: int) -> bool:
    return one.getsockopt(socket.IPPROTO_TCP, option, _NAME_BYTES).startswith(_PACES)


def _listens_on_loopback(one: socket.socket, port: int) -> bool:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
        return False
    if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    own = one.getsockname()
    host = ipaddress.ip_address(own[0].partition("%")[0])
    # gRPC listens on an IPv4 address with a socket for both families.
    mapped = getattr(host, "ipv4_mapped", None)
    return own[1] == port and (mapped or host).is_loopback
