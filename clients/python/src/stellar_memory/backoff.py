"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential, with full jitter: clients that lost one server do not come back in step."""

    first: float = 0.5
    """Seconds that the first wait is at most."""
    most: float = 30.0
    """Seconds that any wait is at most."""
    chance: Callable[[], float] = random.random
    """A number from 0 to 1."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 and more)."""
        return self.chance() * min(self.most, self.first * 2.0 ** min(failures - 1, 32))
