"""What can be sent. Whatever goes into a body, a query, a path or the queue of `Sync` passes here first.

Always holds: what these functions return is a copy that JSON can say and the service can read. What is not, is refused at
the call, in an `InvalidValue` that names the field: once queued, it would be refused again and again.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from .errors import InvalidValue

MOST_LEVELS = 100
"""Of lists and dicts in one another. The service reads 125, with those that stand around a value."""
LEAST_INTEGER = -(2**63)
MOST_INTEGER = 2**64 - 1

ID_FIELDS = {"id"}
TIME_FIELDS = {"at", "occurred_at", "start", "end"}

UUID_TEXT = re.compile(
    r"(?:urn:uuid:)?(?P<open>\{)?([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32})(?(open)\})", re.IGNORECASE
)
IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")
SURROGATE = re.compile("[\ud800-\udfff]")


def fields(given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The fields of a body, a query or an operation. Ids may be `UUID`s and times `datetime`s.

    `where` goes before their names.
    """
    return {name: field(name, value, where) for name, value in given.items()}


def field(name: str, value: object, where: str = "") -> Any:
    """The value of one field."""
    place = where + key(name, where.rstrip(".") or "the fields")
    if name in ID_FIELDS and value is not None:
        return identity(place, value)
    if name in TIME_FIELDS and isinstance(value, datetime):
        return instant(place, value)
    return plain(place, value)


def plain(place: str, value: object, level: int = 1) -> Any:
    """A copy of a value as JSON can say it."""
    match value:
        case None | bool():
            return value
        case str():
            return text(place, value)
        case int():
            if not LEAST_INTEGER <= value <= MOST_INTEGER:
                raise InvalidValue(place, "is an integer of more than 64 bits: send it as text")
            return value
        case float():
            if not math.isfinite(value):
                raise InvalidValue(place, f"is {value}, which is no number in JSON: leave it out, or send None or text")
            return value
        case Mapping() | list() | tuple() if level > MOST_LEVELS:
            top = re.split(r"[.\[]", place, maxsplit=1)[0]
            raise InvalidValue(top, f"is nested deeper than {MOST_LEVELS} levels: send it flatter, or as text")
        case Mapping():
            return {key(name, place): plain(f"{place}.{name}", inner, level + 1) for name, inner in value.items()}
        case list() | tuple():
            return [plain(f"{place}[{n}]", inner, level + 1) for n, inner in enumerate(value)]
    raise InvalidValue(place, f"is a {type(value).__name__}, which JSON does not have: send it as text")


def key(name: object, place: str) -> str:
    """The name of a member."""
    if not isinstance(name, str):
        raise InvalidValue(place, f"has a {type(name).__name__} as a key, which JSON does not have: make it text")
    if SURROGATE.search(name):
        raise InvalidValue(place, f"has the key {name!a} with a lone surrogate in it: take whole characters")
    return name


def text(place: str, value: str) -> str:
    """A text of whole characters."""
    if half := SURROGATE.search(value):
        raise InvalidValue(
            place,
            f"has a lone surrogate (U+{ord(half[0]):04X}, half of a character) at {half.start()}: cut texts between "
            "characters, or replace it as text.encode(errors='replace').decode() does",
        )
    return value


def identity(place: str, value: object) -> str:
    """The usual spelling of a UUID."""
    found = UUID_TEXT.fullmatch(value) if isinstance(value, str) else None
    if found is None and not isinstance(value, uuid.UUID):
        raise InvalidValue(place, "must be a UUID such as 01980e4c-7a5e-7cc3-98c4-dc0c0c07398f, as a text or a uuid.UUID")
    return str(value if found is None else uuid.UUID(found[2]))


def instant(place: str, value: datetime) -> str:
    """A time as RFC 3339 in UTC."""
    if value.utcoffset() is None:
        raise InvalidValue(place, "is a datetime without a time zone: give it one, as datetime.now(timezone.utc) has")
    try:
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    except OverflowError as error:
        raise InvalidValue(place, "is out of the range of times in UTC: take one of the years 1 to 9998") from error


def segment(name: str, id: object) -> str:
    """An id as a part of a path."""
    return quote(identity(name, id), safe="")


def idempotency_key(value: str) -> str:
    """What the header takes."""
    if not IDEMPOTENCY_KEY.fullmatch(value):
        raise InvalidValue("idempotency_key", "must have 1 to 255 visible ASCII characters")
    return value
