"""The generator on a small document of everything that it understands, and on what it does not."""

from __future__ import annotations

import unittest
from typing import Any

import generate


def both(**schemas: Any) -> list[str]:
    """The text of both files."""
    return list(generate.generate({"components": {"schemas": schemas}}).values())


class Generate(unittest.TestCase):
    def test_objects_unions_and_maps(self) -> None:
        python, typescript = both(
            Kind={"type": "string", "enum": ["store", "remove"]},
            Base={"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "format": "uuid"}}},
            One={
                "description": "One\n  thing.",
                "allOf": [
                    {"$ref": "#/components/schemas/Base"},
                    {
                        "type": "object",
                        "required": ["kind", "tags"],
                        "properties": {
                            "kind": {"$ref": "#/components/schemas/Kind"},
                            "tags": {"type": "array", "items": {"type": ["string", "null"]}},
                            "parent": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Base"}]},
                            "metadata": {"type": "object", "additionalProperties": True, "description": "Anything."},
                        },
                    },
                ],
            },
        )
        names: dict[str, Any] = {}
        exec(compile(python, "types.py", "exec"), names)
        self.assertEqual(names["One"].__doc__, "One thing.")
        for line in (
            'Kind = Literal["store", "remove"]',
            "    id: str",
            "    kind: Kind",
            "    tags: list[str | None]",
            "    parent: NotRequired[None | Base]",
            "    metadata: NotRequired[dict[str, Any]]",
        ):
            self.assertIn(line + "\n", python)
        for line in (
            'export type Kind = "store" | "remove";',
            "  id: string;",
            "  tags: (string | null)[];",
            "  parent?: null | Base;",
            "  /** Anything. */",
            "  metadata?: Record<string, unknown>;",
        ):
            self.assertIn(line + "\n", typescript)

    def test_unions_of_objects_without_a_name_are_multiplied_out(self) -> None:
        def text(*names: str) -> dict[str, Any]:
            return {"type": "object", "required": list(names), "properties": {name: {"type": "string"} for name in names}}

        python, typescript = both(
            Became={"oneOf": [text("seq"), text("problem")]},
            Result={"allOf": [{"$ref": "#/components/schemas/Became"}, text("op_id")]},
        )
        names: dict[str, Any] = {}
        exec(compile(python, "types.py", "exec"), names)
        self.assertEqual(set(names["Result1"].__annotations__), {"seq", "op_id"})
        self.assertEqual(set(names["Result2"].__annotations__), {"problem", "op_id"})
        self.assertIn("Result = Result1 | Result2\n", python)
        self.assertIn("export type Result = Result1 | Result2;\n", typescript)

    def test_a_name_that_hides_a_builtin_is_another(self) -> None:
        line = {"type": "object", "properties": {"line": {"type": "integer"}}}
        errors = {"type": "array", "items": {"$ref": "#/components/schemas/ImportError"}}
        for text in both(ImportError=line, Report={"type": "object", "properties": {"errors": errors}}):
            self.assertIn("ImportLineError", text)
            self.assertNotIn("ImportError", text)
        for names in ({"KeyError": line}, {"ImportError": line, "ImportLineError": line}):
            with self.assertRaises(generate.Unsupported):
                both(**names)

    def test_what_it_does_not_understand_is_named(self) -> None:
        for field, fault in (
            ({"type": "object", "properties": {"x": {"type": "string"}}}, "an object without a name"),
            ({"type": "string", "patternProperties": {}}, "patternProperties"),
            ({"type": "file"}, "'file'"),
            ({"$ref": "other.json#/Memory"}, "other.json"),
        ):
            with self.assertRaises(generate.Unsupported) as caught:
                both(One={"type": "object", "properties": {"field": field}})
            self.assertIn("One.field", str(caught.exception))
            self.assertIn(fault, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
