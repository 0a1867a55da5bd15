"""Record values that say who sent them, and prove that they are whole.

A value is ``producer/sequence/checksum/padding``; its identity, ``producer/sequence/checksum``, is
what a history keeps of it. The checksum covers the padding.
"""

from __future__ import annotations

import random
import zlib


def make(producer: str, sequence: int, padding: bytes) -> tuple[str, bytes]:
    """(identity, value)."""
    head = f"{producer}/{sequence}"
    identity = f"{head}/{zlib.crc32(padding, zlib.crc32(head.encode())):08x}"
    return identity, f"{identity}/".encode() + padding


def padding(random_: random.Random) -> bytes:
    """Mostly small, now and then some KiB; bytes of all kinds."""
    size = random_.choice((0, random_.randrange(64), random_.randrange(400), random_.randrange(400)))
    if random_.random() < 0.02:
        size = random_.randrange(6000)
    return random_.randbytes(size)


def identity_of(value: bytes | None) -> str:
    """The identity of a value that was read; "?" and its first bytes in hexadecimal when it is not whole."""
    if value is not None:
        parts = value.split(b"/", 3)
        if len(parts) == 4:
            producer, sequence, _, rest = parts
            try:
                identity, whole = make(producer.decode(), int(sequence), rest)
            except ValueError:
                pass
            else:
                if whole == value:
                    return identity
    return "?" + (value or b"").hex()[:60]


def sender_of(identity: str) -> tuple[str, int]:
    """(producer, sequence) of a whole value's identity."""
    producer, sequence, _ = identity.split("/")
    return producer, int(sequence)
