#!/usr/bin/env python3
"""Writes the types of both clients from the OpenAPI document: its schemas as TypedDicts and as interfaces.

Always holds: the same document gives the same bytes, and what a schema says that this does not understand is a
failure that names it, never a type that is wrong in silence.

    generate.py            write both files
    generate.py --check    write nothing; 1 when a file is not what the document generates
"""

from __future__ import annotations

import argparse
import builtins
import itertools
import json
import keyword
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
DOCUMENT = ROOT.parent / "docs" / "openapi.json"
WIDTH = 120

Schema = dict[str, Any]

# What a schema may say beside its type: it narrows values, not types.
IGNORED = {
    "title", "description", "format", "default", "example", "examples", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems",
    "minProperties", "maxProperties", "readOnly", "writeOnly", "deprecated", "discriminator", "contentMediaType", "propertyNames",
}
# Schemas whose name would hide something else of a language.
RENAMED = {"ImportError": "ImportLineError"}
PYTHON = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
TYPESCRIPT = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


class Unsupported(Exception):
    """The document says something that has no translation here."""


class Language:
    """How a type is written; the walk over a schema is the same for both."""

    def __init__(self, primitives: dict[str, str]) -> None:
        self.primitives = primitives

    def array(self, item: str) -> str:
        raise NotImplementedError

    def map(self, value: str) -> str:
        raise NotImplementedError

    def literals(self, values: list[Any]) -> str:
        raise NotImplementedError

    anything = ""

    def type_of(self, schema: Schema | bool, where: str) -> str:
        """The type of a value of the schema."""
        if isinstance(schema, bool):
            if not schema:
                raise Unsupported(f"{where}: a schema that nothing fits")
            return self.anything
        if "$ref" in schema:
            return reference(schema["$ref"], where)
        for word in ("oneOf", "anyOf", "allOf"):
            if word in schema:
                if word == "allOf" and len(schema[word]) != 1:
                    raise Unsupported(f"{where}: an allOf of several inside of another schema")
                known(schema, {word, "type"}, where)
                return self.union([self.type_of(one, where) for one in schema[word]])
        if "const" in schema:
            return self.literals([schema["const"]])
        if "enum" in schema:
            return self.literals(schema["enum"])
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        known(schema, {"type", "items", "properties", "required", "additionalProperties"}, where)
        if not kinds:
            return self.anything
        return self.union([self.of_kind(kind, schema, where) for kind in kinds])

    def of_kind(self, kind: str, schema: Schema, where: str) -> str:
        if kind in self.primitives:
            return self.primitives[kind]
        if kind == "array":
            return self.array(self.type_of(schema.get("items", True), f"{where}[]"))
        if kind == "object":
            if schema.get("properties"):
                raise Unsupported(f"{where}: an object without a name; give it one under components.schemas")
            further = schema.get("additionalProperties", True)
            return self.map(self.type_of(further if further is not False else True, where))
        raise Unsupported(f"{where}: the type {kind!r}")

    def union(self, types: list[str]) -> str:
        return " | ".join(dict.fromkeys(types))


class Python(Language):
    anything = "Any"

    def array(self, item: str) -> str:
        return f"list[{item}]"

    def map(self, value: str) -> str:
        return f"dict[str, {value}]"

    def literals(self, values: list[Any]) -> str:
        return f"Literal[{', '.join('None' if value is None else json.dumps(value) for value in values)}]"

    def file(self, schemas: dict[str, Schema]) -> str:
        blocks = [self.block(name, schema) for name, schema in schemas.items()]
        head = '''\
"""What the API takes and answers. Written by `clients/generate.py` from the OpenAPI document; change that instead."""

from __future__ import annotations

import sys
from typing import Any, Literal, TypedDict

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

__all__ = [
'''
        names = "".join(f'    "{name}",\n' for name in schemas)
        # What Python evaluates when it loads the file, unlike annotations, can only name what stands above it.
        blocks.sort(key=lambda block: not block.startswith("class "))
        return head + names + "]\n\n\n" + "\n\n\n".join(blocks) + "\n"

    def block(self, name: str, schema: Schema) -> str:
        about = sentences(schema)
        if not is_object(schema):
            note = "".join(f"{line}\n" for line in wrap(about, "# "))
            return f"{note}{name} = {self.type_of(schema, name)}"
        lines = [f"class {name}(TypedDict):"]
        properties = schema.get("properties", {})
        lines += doc(about, "    ") if about else []
        lines += [""] if about and properties else []
        lines += [] if about or properties else ["    pass"]
        for field, inner in properties.items():
            if not field.isidentifier() or keyword.iskeyword(field):
                raise Unsupported(f"{name}.{field} is no name in Python")
            annotation = self.type_of(inner, f"{name}.{field}")
            needed = field in schema.get("required", [])
            lines.append(f"    {field}: {annotation if needed else f'NotRequired[{annotation}]'}")
            if text := sentences(inner):
                lines += doc(text, "    ")
        return "\n".join(lines)


class TypeScript(Language):
    anything = "unknown"

    def array(self, item: str) -> str:
        return f"({item})[]" if " | " in item else f"{item}[]"

    def map(self, value: str) -> str:
        return f"Record<string, {value}>"

    def literals(self, values: list[Any]) -> str:
        return " | ".join(json.dumps(value) for value in values)

    def file(self, schemas: dict[str, Schema]) -> str:
        head = (
            "// What the API takes and answers. Written by `clients/generate.py` from the OpenAPI document;\n"
            "// change that instead.\n\n"
        )
        return head + "\n\n".join(self.block(name, schema) for name, schema in schemas.items()) + "\n"

    def block(self, name: str, schema: Schema) -> str:
        lines = comment(sentences(schema), "")
        if not is_object(schema):
            return "\n".join([*lines, f"export type {name} = {self.type_of(schema, name)};"])
        lines.append(f"export interface {name} {{")
        for field, inner in schema.get("properties", {}).items():
            lines += comment(sentences(inner), "  ")
            mark = "" if field in schema.get("required", []) else "?"
            shown = field if re.fullmatch(r"[A-Za-z_$][\w$]*", field) else json.dumps(field)
            lines.append(f"  {shown}{mark}: {self.type_of(inner, f'{name}.{field}')};")
        if schema.get("additionalProperties"):
            lines.append("  [further: string]: unknown;")
        return "\n".join([*lines, "}"])


def known(schema: Schema, words: set[str], where: str) -> None:
    """Fails on a word that would be passed over in silence."""
    for word in schema:
        if word not in words and word not in IGNORED and not word.startswith("x-"):
            raise Unsupported(f"{where}: the word {word!r}")


def reference(text: str, where: str) -> str:
    prefix = "#/components/schemas/"
    if not text.startswith(prefix):
        raise Unsupported(f"{where}: a reference to {text}")
    name = text.removeprefix(prefix)
    return RENAMED.get(name, name)


def is_object(schema: Schema) -> bool:
    """Whether it becomes a type with fields rather than a name for another type."""
    return schema.get("type") == "object" and ("properties" in schema or schema.get("additionalProperties") is False)


def alternatives(schemas: dict[str, Schema], schema: Schema, where: str) -> list[Schema]:
    """The objects of which a value is one: an allOf of unions, multiplied out."""
    if "$ref" in schema:
        name = reference(schema["$ref"], where)
        return alternatives(schemas, schemas[name], name)
    for word in ("oneOf", "anyOf"):
        if word in schema:
            return [one for part in schema[word] for one in alternatives(schemas, part, where)]
    if "allOf" in schema:
        known(schema, {"allOf", "type"}, where)
        parts = [alternatives(schemas, part, where) for part in schema["allOf"]]
        return [joined(choice, schema) for choice in itertools.product(*parts)]
    if not is_object(schema):
        raise Unsupported(f"{where}: an allOf of what is no object")
    return [schema]


def joined(parts: Iterable[Schema], whole: Schema) -> Schema:
    """Objects as the one object that has all their fields."""
    merged: Schema = {"type": "object", "properties": {}, "required": []}
    if "description" in whole:
        merged["description"] = whole["description"]
    for part in parts:
        merged["properties"].update(part.get("properties", {}))
        merged["required"] += part.get("required", [])
        if "additionalProperties" in part:
            merged["additionalProperties"] = part["additionalProperties"]
    return merged


def named(schemas: dict[str, Schema], name: str) -> dict[str, Schema]:
    """A schema, and those that have no name in the document: the objects of a union get its name and a number."""
    schema = schemas[name]
    union = next((word for word in ("oneOf", "anyOf") if word in schema), None)
    if len(schema.get("allOf", [])) > 1:
        members = alternatives(schemas, schema, name)
        if len(members) == 1:
            return {name: members[0]}
    elif union is not None:
        known(schema, {union}, name)
        members = schema[union]
    else:
        return {name: schema}
    further = {f"{name}{n}": member for n, member in enumerate(members, 1) if is_object(member)}
    references = [{"$ref": f"#/components/schemas/{name}{n}"} if is_object(m) else m for n, m in enumerate(members, 1)]
    return {name: {"description": schema.get("description", ""), "oneOf": references}, **further}


def sentences(schema: Schema | bool) -> str:
    return "" if isinstance(schema, bool) else " ".join(schema.get("description", "").split())


def wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def doc(text: str, indent: str) -> list[str]:
    """A docstring."""
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    text = text + " " if text.endswith('"') else text
    lines = wrap(text, indent)
    if len(lines) == 1 and len(lines[0]) + 6 <= WIDTH:
        return [f'{indent}"""{text}"""']
    return [f'{indent}"""', *lines, f'{indent}"""']


def comment(text: str, indent: str) -> list[str]:
    """A JSDoc comment, or nothing."""
    if not text:
        return []
    text = text.replace("*/", "*∕")
    lines = wrap(text, f"{indent} * ")
    if len(lines) == 1 and len(lines[0]) + 6 <= WIDTH:
        return [f"{indent}/** {text} */"]
    return [f"{indent}/**", *lines, f"{indent} */"]


def generate(document: Schema) -> dict[Path, str]:
    """Both files by their path."""
    schemas_given = document.get("components", {}).get("schemas", {})
    if not schemas_given:
        raise Unsupported("the document has no components.schemas")
    raw = {RENAMED.get(name, name): schema for name, schema in schemas_given.items()}
    if len(raw) < len(schemas_given):
        raise Unsupported("a schema has a name that RENAMED gives to another")
    for name in raw:
        if hasattr(builtins, name):
            raise Unsupported(f"the schema {name!r} hides what Python calls so: give it another name in RENAMED")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise Unsupported(f"the schema {name!r} is no name of a type")
    schemas: dict[str, Schema] = {}
    for name in sorted(raw):
        for new, schema in named(raw, name).items():
            if new != name and new in raw:
                raise Unsupported(f"{name}: {new} is the name of another schema")
            schemas[new] = schema
    return {
        ROOT / "python" / "src" / "stellar_memory" / "types.py": Python(PYTHON).file(schemas),
        ROOT / "typescript" / "src" / "types.ts": TypeScript(TYPESCRIPT).file(schemas),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description="Writes the types of both clients from the OpenAPI document.")
    arguments.add_argument("--check", action="store_true", help="only compare")
    arguments.add_argument("--document", type=Path, default=DOCUMENT, help="docs/openapi.json by default")
    given = arguments.parse_args()
    try:
        files = generate(json.loads(given.document.read_text(encoding="utf-8")))
    except (OSError, ValueError, Unsupported) as error:
        print(f"generate.py: {given.document}: {error}", file=sys.stderr)
        return 1
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if given.check:
        for path in stale:
            print(f"{path} is not what {given.document.name} generates: run clients/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(files[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
