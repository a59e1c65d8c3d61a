"""What JSON cannot say is refused, with the field and the cure, and what it can say is sent as it is."""

from __future__ import annotations

import enum
import json
import unittest
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from stellar_memory import InvalidValue, StellarError
from stellar_memory.ids import Clock, millis
from stellar_memory.outgoing import fields


def nested(levels: int) -> dict[str, Any]:
    """Dicts and lists in one another."""
    value: Any = {}
    for level in range(levels - 1):
        value = {"a": value} if level % 2 or level == levels - 2 else [value]
    found: dict[str, Any] = value
    return found


class Name(str, enum.Enum):
    ADA = "Ada"


class Outgoing(unittest.TestCase):
    def test_what_json_can_say_is_a_copy_of_it(self) -> None:
        metadata = {
            "text": "whole \U0001f600, \x00\u2028",
            "least": -(2**63),
            "most": 2**64 - 1,
            "float": 1.5e300,
            "none": None,
            "yes": True,
            "name": Name.ADA,
            "list": [1, [], ("a", {})],
            "": {"": ""},
        }
        copy = fields({"content": "x", "metadata": metadata})["metadata"]
        self.assertEqual(json.dumps(copy), json.dumps(metadata))
        metadata["later"] = float("nan")
        self.assertNotIn("later", copy)
        deep = nested(100)
        self.assertEqual(fields({"metadata": deep})["metadata"], deep)

    def test_what_json_cannot_say_is_refused_by_field_and_cure(self) -> None:
        cyclic: dict[str, Any] = {}
        cyclic["self"] = [cyclic]
        for given, field, cure in (
            ({"importance": float("nan")}, "importance", "leave it out"),
            ({"importance": float("inf")}, "importance", "leave it out"),
            ({"metadata": {"score": float("-inf")}}, "metadata.score", "leave it out"),
            ({"metadata": {"n": [0, 2**64]}}, "metadata.n[1]", "as text"),
            ({"metadata": {"n": -(2**63) - 1}}, "metadata.n", "as text"),
            ({"metadata": {"n": 10**5000}}, "metadata.n", "as text"),
            ({"content": "cut \ud83d"}, "content", "between characters"),
            ({"content": "\udc00\ud83d"}, "content", "between characters"),
            ({"session": "\ud83d"}, "session", "between characters"),
            ({"speaker": "\ud83d"}, "speaker", "between characters"),
            ({"source": "\ud83d"}, "source", "between characters"),
            ({"metadata": {"a": {"\ud83d": 1}}}, "metadata.a", "whole characters"),
            ({"metadata": {"a": ["\ud83d"]}}, "metadata.a[0]", "between characters"),
            ({"\ud83d": 1}, "the fields", "whole characters"),
            ({"metadata": nested(101)}, "metadata", "flatter"),
            ({"metadata": cyclic}, "metadata", "flatter"),
            ({"metadata": {"at": datetime.now(timezone.utc)}}, "metadata.at", "as text"),
            ({"metadata": {"id": uuid.uuid4()}}, "metadata.id", "as text"),
            ({"metadata": {"price": Decimal("1.5")}}, "metadata.price", "as text"),
            ({"metadata": {"tags": {"a"}}}, "metadata.tags", "as text"),
            ({"metadata": {"raw": b"a"}}, "metadata.raw", "as text"),
            ({"metadata": {1: "a"}}, "metadata", "make it text"),
            ({"occurred_at": datetime(2026, 3, 1)}, "occurred_at", "time zone"),
            ({"occurred_at": date(2026, 3, 1)}, "occurred_at", "as text"),
            ({"id": "\ud83d"}, "id", "must be a UUID"),
            ({"id": 7}, "id", "must be a UUID"),
        ):
            with self.subTest(field=field, cure=cure):
                with self.assertRaises(InvalidValue) as caught:
                    fields(given)
                self.assertEqual(caught.exception.field, field)
                self.assertIn(cure, caught.exception.reason)
                # It can be printed.
                self.assertTrue(str(caught.exception).encode())
                self.assertIsInstance(caught.exception, ValueError)
                self.assertIsInstance(caught.exception, StellarError)

    def test_a_time_that_is_none_moves_no_clock(self) -> None:
        for text in ("2026-02-30T00:00:00Z", "2026-03-01T25:00:00Z", "0000-01-01T00:00:00Z", "soon", ""):
            self.assertEqual(millis(text), 0)
        clock = Clock()
        clock.show(None)
        clock.show("9999-12-31T23:59:59.9999Z")
        self.assertEqual(clock.now(), "9999-12-31T23:59:59.999Z")


if __name__ == "__main__":
    unittest.main()
