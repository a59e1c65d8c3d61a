"""Ids and times that this client makes itself."""

from __future__ import annotations

import os
import re
import time
import uuid
from datetime import datetime, timezone


LAST_MILLIS = 253_402_300_799_999
"""Since 1970, to the end of the year 9999: no time after it has a text."""


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, the rest random."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 7 << 76
    bits = bits & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=bits & (1 << 128) - 1))


def millis(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time in UTC, rounded up; 0 for what is none."""
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z", text)
    if parts is None:
        return 0
    try:
        seconds = int(datetime.fromisoformat(f"{parts[1]}+00:00").timestamp())
    except ValueError:
        return 0
    nanos = int(((parts[2] or "") + "0" * 9)[:9])
    return min(seconds * 1000 + -(-nanos // 1_000_000), LAST_MILLIS)


class Clock:
    """The time of writes made offline. Never before a time that it gave or was shown: what is written later wins."""

    def __init__(self) -> None:
        self._last = 0

    def show(self, text: object) -> None:
        """Takes note of a time, of another clock maybe. What is none is passed over."""
        self._last = max(self._last, millis(text) if isinstance(text, str) else 0)

    def now(self) -> str:
        """The time as RFC 3339 in UTC, to the millisecond."""
        self._last = max(self._last, time.time_ns() // 1_000_000)
        at = datetime.fromtimestamp(self._last // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{at}.{self._last % 1000:03}Z"
