"""Beacons: signs of life in single datagrams, beside the heartbeats on the control link.

TCP delivers in order: where one packet is lost, every heartbeat behind it waits until it has been
sent again, which takes 200 ms and more. A datagram that is lost delays nothing but itself. It has
one fixed layout, big endian::

    4 bytes  magic and version of the layout
    8 bytes  session: which agent's life this is, as the coordinator told it (wire.Pace)
    8 bytes  sequence: rises by one with every beacon; one that was heard counts no more
    4 bytes  interval in us until the next one
   16 bytes  BLAKE2s of all that, under the session's key

The key travels on the control link, which is encrypted where keys are in force: then nobody else
can make a beacon, and nobody can use one twice.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from hashlib import blake2s

MAGIC = b"CBn1"
KEY_BYTES = 32
MAC_BYTES = 16
_BODY = struct.Struct("!4sQQI")
SIZE = _BODY.size + MAC_BYTES
MAX_INTERVAL_US = 0xFFFF_FFFF


def seal(session: int, key: bytes, sequence: int, interval_us: int) -> bytes:
    """A beacon. ``session`` and ``sequence`` are below 2^64, ``interval_us`` below 2^32."""
    body = _BODY.pack(MAGIC, session, sequence, interval_us)
    return body + blake2s(body, key=key, digest_size=MAC_BYTES).digest()


def session_of(raw: bytes) -> int | None:
    """The session that a datagram names; None where it is no beacon. Proves nothing yet."""
    if len(raw) != SIZE or not raw.startswith(MAGIC):
        return None
    return int.from_bytes(raw[4:12], "big")


def opener(key: bytes) -> Callable[[bytes], tuple[int, int] | None]:
    """``(sequence, interval_us)`` of a beacon; None where it was not made with this key.

    The key is worked in once: a coordinator opens thousands of beacons a second.
    """
    keyed = blake2s(key=key, digest_size=MAC_BYTES)
    size, unpack, same = _BODY.size, _BODY.unpack_from, hmac.compare_digest

    def unseal(raw: bytes) -> tuple[int, int] | None:
        mac = keyed.copy()
        mac.update(raw[:size])
        if not same(raw[size:], mac.digest()):
            return None
        _, _, sequence, interval_us = unpack(raw)
        return sequence, interval_us

    return unseal
