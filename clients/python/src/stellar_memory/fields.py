"""What a memory may be stored with, as keyword arguments."""

from __future__ import annotations

from typing import Any, TypedDict


class StoreFields(TypedDict, total=False):
    """As `types.StoreRequest`, which has the content too."""

    importance: float
    metadata: dict[str, Any]
    auto_evaluate: bool
    session: str
    speaker: str
    source: str
    emotion: str
    occurred_at: str
    id: str
    at: str
