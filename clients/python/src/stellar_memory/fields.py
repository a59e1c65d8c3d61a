"""What a memory may be stored and changed with, as keyword arguments."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

Id = str | UUID
Time = str | datetime
"""As text, or with a time zone."""


class StoreFields(TypedDict, total=False):
    """As `types.StoreRequest`, which has the content too."""

    importance: float
    metadata: dict[str, Any]
    auto_evaluate: bool
    session: str
    speaker: str
    source: str
    emotion: str
    occurred_at: Time
    id: Id
    at: Time


class UpdateFields(TypedDict, total=False):
    """As `types.UpdateRequest`."""

    content: str | None
    importance: float | None
    metadata: dict[str, Any] | None
    at: Time | None
