"""What can go wrong, one class for each thing that a caller would do differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StellarError(Exception):
    """The base of all errors here."""


class ApiError(StellarError):
    """The service answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any], request_id: str | None, retry_after: float | None):
        self.status = status
        self.type = str(problem.get("type", "about:blank")).rsplit("/", 1)[-1]
        """The last part of the problem's `type`, as `memory-quota-reached`."""
        self.detail = str(problem.get("detail", ""))
        """What to do, as a sentence."""
        self.request_id = request_id
        """To quote when asking whoever runs the service."""
        self.retry_after = retry_after
        """Seconds, if the service named any."""
        self.problem = dict(problem)
        """All of it: `used`, `limit`, `next_tier`, `field` and the like."""
        super().__init__(f"{status} {self.type}: {self.detail} (request {request_id})")


class Unreachable(StellarError):
    """No answer came, whatever was tried. The reason is the `__cause__`."""


class SyncClosed(StellarError):
    """The service ended sync for good; the code is a WebSocket's. What is queued stays in the state."""

    def __init__(self, code: int, reason: str):
        self.code = code
        self.reason = reason
        super().__init__(f"sync ended with {code}: {reason}")


class InvalidValue(StellarError, ValueError):
    """A value that JSON or the service cannot take. Nothing was sent or queued."""

    def __init__(self, field: str, reason: str):
        self.field = field
        """Where it is, as `metadata.seats[0]`."""
        self.reason = reason
        """What is wrong with it, and what to do."""
        super().__init__(f"{field} {reason}")


class Refused(StellarError):
    """An operation was refused, by the service or as one that cannot be sent; nothing was changed."""

    def __init__(self, frame: Mapping[str, Any], operation: Mapping[str, Any] | None = None):
        self.operation = None if operation is None else dict(operation)
        """What was to be done, as it was queued."""
        self.op_id: str | None = frame.get("op_id")
        self.type = str(frame.get("error", ""))
        """As an `ApiError`'s."""
        self.detail = str(frame.get("detail", ""))
        self.frame = dict(frame)
        super().__init__(f"{self.type}: {self.detail}")


class QueueFull(StellarError):
    """As many operations wait as may wait. Nothing was queued; try when some are acknowledged."""


class TooLarge(StellarError):
    """The operation is larger than a frame may be. Nothing was queued."""


class ResyncRequired(StellarError):
    """The log no longer reaches back to where this client is: read everything anew, then go on iterating."""

    def __init__(self, seq: int):
        self.seq = seq
        super().__init__(f"changes before {seq} are gone: read everything anew")
