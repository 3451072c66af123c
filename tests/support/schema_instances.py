"""Twenty JSON schemas, and seeded instances of them: valid ones made from the schema, invalid ones by damaging those.

Whether an instance is what it is meant to be is for `jsonschema` to say. Properties come in their declared order, and
JSON is written with every kind of bounded white space that people and models write.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema

ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string", "minLength": 1}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
    "required": ["street", "zip"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "anything": {},
    "integer in a range": {"type": "integer", "minimum": -7, "maximum": 130},
    "number above": {"type": "number", "exclusiveMinimum": 0, "maximum": 12.5},
    "multiples": {"type": "integer", "multipleOf": 6, "minimum": 0},
    "string by length": {"type": "string", "minLength": 2, "maxLength": 5},
    "string by pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{3}$"},
    "pattern within": {"type": "string", "pattern": "ab+c", "maxLength": 12},
    "date": {"type": "string", "format": "date"},
    "date and time": {"type": "string", "format": "date-time"},
    "email or nothing": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
    "one of several": {"enum": ["low", "high", 3, None, [1, "x"]]},
    "constant": {"const": {"kind": "pair", "values": [1, 2]}},
    "list of scores": {
        "type": "array",
        "items": {"type": "number", "minimum": 0, "maximum": 1},
        "minItems": 1,
        "maxItems": 4,
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "address": ADDRESS,
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "open object": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "required": ["id"],
        "additionalProperties": {"type": "string", "maxLength": 3},
    },
    "map by pattern": {
        "type": "object",
        "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}},
        "additionalProperties": False,
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
    },
    "told apart": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "circle"}, "radius": {"type": "number", "minimum": 0}},
                "required": ["kind", "radius"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"kind": {"const": "square"}, "side": {"type": "number", "minimum": 0}},
                "required": ["kind", "side"],
                "additionalProperties": False,
            },
        ]
    },
    "all of": {
        "type": "object",
        "allOf": [
            {"properties": {"a": {"type": "integer"}}},
            {"properties": {"a": {"minimum": 5}, "b": {"type": "boolean"}}, "required": ["a", "b"]},
        ],
        "maxProperties": 3,
    },
}
MATCHING = {
    r"^[A-Z]{2}-\d{3}$": ["AB-123", "ZZ-000"],
    "ab+c": ["abc", "xxabbbcé", "abc abc"],
    "^[0-9]{5}$": ["01234", "99999"],
}
MATCHING |= {"^n_": ["n_1", "n_é"], "^s_": ["s_", "s_long name"]}
FORMATTED = {
    "date": ["2024-02-29", "1999-12-31", "0001-01-01"],
    "date-time": ["2024-02-29T23:59:59Z", "2001-01-01T00:00:00.125+01:30"],
    "email": ["a@b.example", "first.last+tag@mail.example.org"],
}
WORDS = [
    "",
    "a",
    "ok",
    "word",
    'say "hi"',
    "back\\slash",
    "two\nlines",
    "tab\t",
    "né",
    "日本",
    "😀",
    "a/b",
    "<|im_end|>",
]


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """By the newest draft, formats included where the environment can check them."""
    kind = jsonschema.Draft202012Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def valid(schema: Any, rng: random.Random, root: Any = None, depth: int = 0) -> Any:
    """A random value that the schema allows, for the keywords that the schemas above use."""
    root = schema if root is None else root
    if schema is True or schema == {}:
        schema = {
            "type": rng.choice(["null", "boolean", "integer", "number", "string"] + ["array", "object"] * (depth < 2))
        }
    if "$ref" in schema:
        return valid(root["$defs"][schema["$ref"].rpartition("/")[2]], rng, root, depth)
    if "const" in schema:
        return copy.deepcopy(schema["const"])
    if "enum" in schema:
        return copy.deepcopy(rng.choice(schema["enum"]))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return valid(rng.choice(schema[word]), rng, root, depth)
    if "allOf" in schema:
        schema = _merged(schema)
    return _MAKERS[schema.get("type", "null")](schema, rng, root, depth)


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for part in schema["allOf"]:
        for name, own in part.get("properties", {}).items():
            properties[name] = properties.get(name, {}) | own
    required = [name for part in schema["allOf"] for name in part.get("required", ())]
    rest = {key: value for key, value in schema.items() if key != "allOf"}
    return {**rest, "properties": properties, "required": required, "additionalProperties": False}


def _number(schema: dict[str, Any], rng: random.Random, *_: Any) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -50))
    high = schema.get("maximum", low + 100)
    found = round(rng.uniform(low, high), rng.choice([1, 2, 3]))
    return found if low < found < high else round((low + high) / 2, 4)


def _integer(schema: dict[str, Any], rng: random.Random, *_: Any) -> int:
    low = schema.get("minimum", -1000)
    by = schema.get("multipleOf", 1)
    return rng.randint(-(-low // by), schema.get("maximum", low + 2000) // by) * by


def _string(schema: dict[str, Any], rng: random.Random, *_: Any) -> str:
    if "pattern" in schema:
        return rng.choice(MATCHING[schema["pattern"]])
    if "format" in schema:
        return rng.choice(FORMATTED[schema["format"]])
    least, most = schema.get("minLength", 0), schema.get("maxLength", 40)
    text = "".join(rng.choices(WORDS, k=rng.randint(1, 3)))[:most]
    return text + "é" * (least - len(text))


def _array(schema: dict[str, Any], rng: random.Random, root: Any, depth: int) -> list[Any]:
    first = [valid(one, rng, root, depth + 1) for one in schema.get("prefixItems", ())]
    items = schema.get("items", {})
    if items is False:
        return first
    least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
    count = rng.randint(least, most) if depth < 3 else least
    return first + [valid(items, rng, root, depth + 1) for _ in range(count)]


def _object(schema: dict[str, Any], rng: random.Random, root: Any, depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    chosen = {name: own for name, own in properties.items() if name in required or (rng.random() < 0.5 and depth < 4)}
    found = {name: valid(own, rng, root, depth + 1) for name, own in chosen.items()}
    for pattern, own in schema.get("patternProperties", {}).items():
        if rng.random() < 0.6:
            found[rng.choice(MATCHING[pattern])] = valid(own, rng, root, depth + 1)
    more = schema.get("additionalProperties", True)
    if more is not False and rng.random() < 0.5:
        name = rng.choice([word for word in WORDS if word not in found])
        found[name] = valid(more, rng, root, depth + 1)
    return found


_MAKERS: dict[str, Any] = {
    "null": lambda *_: None,
    "boolean": lambda schema, rng, *_: rng.random() < 0.5,
    "integer": _integer,
    "number": _number,
    "string": _string,
    "array": _array,
    "object": _object,
}


def damaged(value: Any, rng: random.Random) -> Any:
    """The value with one thing changed somewhere in it; it may still be valid."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    holder, key = rng.choice(places) if places and rng.random() < 0.8 else (None, None)
    if holder is None:
        return _other(value, rng)
    if isinstance(holder, dict) and rng.random() < 0.3:
        own = holder.pop(key)
        if rng.random() < 0.5:
            holder[key + "_"] = own
    elif isinstance(holder, list) and rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = _other(holder[key], rng)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return rng.choice([0, "true", [], {"a": 1}])
    if isinstance(value, int | float):
        return rng.choice([value + 0.5, -value - 1, value * 1000 + 7, str(value), None, [value]])
    if isinstance(value, str):
        return rng.choice([value + "xxxxxx", value[:1], value.lower() + "!", value.replace("0", "٠"), len(value), None])
    if isinstance(value, list):
        return rng.choice([[*value, "more"], value[:-1], {"0": value}, [value], value * 3 + [None]])
    return rng.choice([{**value, "more": [1]}, {}, list(value.values()), json.dumps(value)])


def written(value: Any, rng: random.Random) -> str:
    """The value as JSON, with white space as people and models write it."""
    style = rng.choice(["compact", "plain", "indented", "tabs", "ragged"])
    if style == "compact":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if style in ("indented", "tabs"):
        return json.dumps(value, ensure_ascii=False, indent=rng.choice([1, 2, 4]) if style == "indented" else "\t")
    if style == "ragged":
        return json.dumps(value, ensure_ascii=False, separators=(" , ", ":\n "))
    return json.dumps(value, ensure_ascii=False)
