"""JSON schemas as llguidance takes them: each keyword is enforced, says nothing of the value, or is refused by its name.

llguidance reads JSON Schema strictly, but passes over keywords that it doesn't know, so that a slip of the pen would lift a
constraint. So the whole schema is gone through here. On the way it is written more narrowly where llguidance 1.9 would let
something through: names of properties spelt with escapes, 29 February of any year, `\\d` and its like, which validators read
in two ways, properties counted twice that are named twice, bounds that float64 does not hold. Every text that comes out
satisfies the schema; of the texts that do, some can't be written: other orders of properties, more white space, 2.0 for the
integer 2, escapes that JSON can do without, numbers beyond 2^53 where there is a bound.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeGuard
from urllib.parse import unquote

from labkit import checks
from labkit.errors import BadInput
from labkit.generation import regular

Json = Any  # what JSON holds; its kind is asked before it is used
Schema = dict[str, Json]

# Between two parts of the JSON there is nothing, a space, or a line break with an indent: a model that likes white space
# would otherwise write it without end.
WHITE_SPACE = r"\x20|\n\x20{0,24}|\n\t{0,6}"
# \u is left out: with it llguidance takes a property's name spelt with escapes for another name
ESCAPES = '"\\bfnrt'

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
ANNOTATIONS = (
    "$anchor",
    "$comment",
    "$schema",
    "default",
    "deprecated",
    "description",
    "discriminator",  # OpenAPI's, beside oneOf: says again what the alternatives say
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
)
UNENFORCEABLE = (
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
    "additionalItems",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)

# formats ---------------------------------------------------------------------------------------------------------------

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_NO_DOUBLE_HYPHEN = (
    "[^-]+(?:-[^-]+)*"  # such labels are kept for encoded names (RFC 5891), whose encoding is not checked
)
_ATOM = r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+"
# format -> expressions that the whole string matches, and how long it may be. RFC 3339, 1123, 5321.
FORMATS: dict[str, tuple[tuple[str, ...], int | None]] = {
    "date": ((_DATE,), None),
    "time": ((_TIME,), None),
    "date-time": ((f"{_DATE}T{_TIME}",), None),
    "hostname": ((_HOST, _NO_DOUBLE_HYPHEN), 253),
    "email": ((rf"{_ATOM}(?:\.{_ATOM})*@{_HOST}", "[^@]{1,64}@" + _NO_DOUBLE_HYPHEN), 254),
}
GUIDANCE_FORMATS = (
    "duration",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)  # llguidance's own, tested against other readings of each

MOST_VISITS = 20_000
LEAST = 1e-15  # what stands for the next number to 0
EXACT = 2**53 - 1  # up to here float64, in which llguidance counts, holds every whole number and the next one

# reading ---------------------------------------------------------------------------------------------------------------


def grammar(schema: Mapping[str, object], *, of: str = "", closed: bool = False) -> str:
    """A JSON schema as a grammar in llguidance's Lark. of: whose it is.  closed: objects hold no properties but those named.

    Raises BadInput for what is no schema, and for a keyword that can't be enforced, by its name.
    """
    return f"start: %json {json.dumps(checked(schema, of=of, closed=closed))}"


def checked(schema: Mapping[str, object], *, of: str = "", closed: bool = False) -> Schema:
    """A copy of a schema, its keywords known and enforced, with llguidance's settings."""
    try:
        root = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"This schema can't be written as JSON: {error}.") from None
    reading = _Reading(root, of=f" of {of}" if of else "", closed=closed)
    try:
        reading.schema(root, "#")
        reading.finish()
    except RecursionError:
        raise BadInput(f"This schema{reading.of} is nested too deeply to be enforced.") from None
    return {**root, "x-guidance": {"whitespace_pattern": WHITE_SPACE, "json_allowed_escapes": ESCAPES}}


def embedded(lark: str) -> str:
    """A grammar with the schemas that stand in it (%json {...}) checked as well."""
    parts: list[str] = []
    at = 0
    for found in re.finditer(r"%json\s*(?=\{)", lark):
        if found.start() < at:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except ValueError as error:
            raise BadInput(f"A schema in this grammar is no JSON: {error}.") from None
        parts += [lark[at : found.end()], json.dumps(checked(schema))]
        at = end
    return "".join([*parts, lark[at:]])


class _Reading:
    """One schema on its way through. What has to be written otherwise is changed in place."""

    def __init__(self, root: Schema, *, of: str, closed: bool) -> None:
        self.root, self.of, self.closed = root, of, closed
        self.seen: Schema = {}  # schemas by their place
        self.anchors: dict[str, str] = {}
        self.references: list[tuple[str, str]] = []  # (place, target)
        self.choices: list[Schema] = []  # schemas with oneOf
        self.formats: list[Schema] = []  # schemas with a format of FORMATS
        self.visits = 0

    def schema(self, schema: object, place: str) -> None:
        self.seen[place] = schema
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            self.malformed(schema, place, "an object, true or false")
        if isinstance(anchor := schema.get("$anchor"), str):
            self.anchors[anchor] = place
        for keyword in [*schema]:
            value = schema[keyword]
            if keyword in _READERS:
                _READERS[keyword](self, schema, value, f"{place}/{_escaped(keyword)}")
            elif keyword == "$id" and place == "#":
                continue
            elif keyword == "uniqueItems" and value is False:
                del schema[keyword]
            elif keyword in UNENFORCEABLE or keyword == "$id":
                self.refuse(f'the keyword "{keyword}" at {place}')
            elif keyword not in ANNOTATIONS:
                raise BadInput(
                    f'This schema{self.of} has "{keyword}" at {place}, which is no keyword of JSON Schema'
                    f"{checks.near(keyword, [*_READERS, *UNENFORCEABLE])}; write it otherwise or leave it out."
                )
        self.together(schema, place)

    def together(self, schema: Schema, place: str) -> None:
        """What several keywords say of an object together."""
        required = set(schema.get("required", ()))
        if schema.get("minProperties", 0) > len(required) + 1:
            self.refuse(
                f'"minProperties" at {place}, as a name may come twice and counts once', wanted='"required" names'
            )
        if self.closed and "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False

    def finish(self) -> None:
        """What can be said once every part was seen: where references lead, which alternatives exclude each other."""
        for place, target in self.references:
            if self.target(target) not in self.seen:
                self.malformed(target, place, "a place at which there is a schema")
        if self.endless("#", ()):
            raise BadInput(f"Nothing satisfies this schema{self.of}: it holds itself, and so on without end.")
        for schema in self.choices:
            self.one_of(schema)
        for schema in self.formats:
            expressions, longest = FORMATS[schema.pop("format")]
            added = schema.setdefault("allOf", [])
            added += [{"pattern": f"^(?:{regular.full_match(one)})$"} for one in expressions]
            added += [{"maxLength": longest}] if longest else []

    # references and alternatives

    def target(self, reference: str) -> str:
        """The place that a reference names."""
        if reference.startswith("#") and not reference.startswith("#/") and reference != "#":
            return self.anchors.get(reference[1:], reference)
        return "/".join(_escaped(_unescaped(unquote(part))) for part in reference.split("/"))

    def followed(self, schema: Json) -> Json:
        """A schema, or what it refers to where it does nothing else."""
        for _ in range(len(self.seen)):
            if not isinstance(schema, dict) or "$ref" not in schema or set(schema) - {"$ref", *ANNOTATIONS}:
                return schema
            schema = self.seen[self.target(schema["$ref"])]
        return schema

    def one_of(self, schema: Schema) -> None:
        """oneOf as anyOf, where a value that both alternatives could have tells them apart; else it is llguidance's to say."""
        ways = [self.followed(way) for way in schema["oneOf"]]
        if not self.disjoint(ways):
            return
        written = {"anyOf": schema.pop("oneOf")}
        if "anyOf" in schema:
            schema.setdefault("allOf", []).append(written)
        else:
            schema |= written

    def disjoint(self, ways: list[Json]) -> bool:
        values = [_values(way) for way in ways]
        if _apart(values):
            return True
        names = [
            {*way.get("required", ())} & {*way.get("properties", {})}
            if isinstance(way, dict) and way.get("type") == "object"
            else set()
            for way in ways
        ]
        return any(
            _apart([_values(self.followed(way["properties"][name])) for way in ways])
            for name in set.intersection(*names)
        )

    def endless(self, place: str, within: tuple[str, ...]) -> bool:
        """Whether no finite value satisfies the schema at a place, since it needs itself."""
        self.visits += 1
        if place in within:
            return True
        if self.visits > MOST_VISITS:  # too tangled to tell; the limit of tokens will end it
            return False
        return self._endless(self.seen.get(place), place, (*within, place))

    def _endless(self, schema: Json, place: str, within: tuple[str, ...]) -> bool:
        if not isinstance(schema, dict):
            return False
        inner = [self.target(schema["$ref"])] if "$ref" in schema else []
        inner += [f"{place}/allOf/{i}" for i in range(len(schema.get("allOf", ())))]
        if "object" in _types(schema) and len(_types(schema)) == 1:
            inner += [
                f"{place}/properties/{_escaped(n)}"
                for n in schema.get("required", ())
                if n in schema.get("properties", {})
            ]
        if _types(schema) == {"array"}:
            least, first = schema.get("minItems", 0), len(schema.get("prefixItems", ()))
            inner += [f"{place}/prefixItems/{i}" for i in range(min(least, first))]
            inner += [f"{place}/items"] * (least > first and "items" in schema)
        if any(self.endless(each, within) for each in inner if each in self.seen):
            return True
        ways = [[f"{place}/{word}/{i}" for i in range(len(schema.get(word, ())))] for word in ("anyOf", "oneOf")]
        ways = [[each for each in some if each in self.seen] for some in ways]
        return any(some and all(self.endless(each, within) for each in some) for some in ways)

    # saying so

    def malformed(self, value: object, place: str, wanted: str) -> NoReturn:
        raise BadInput(
            f"This schema{self.of} is malformed at {place}: {checks.shown(value)} can't be used; give {wanted}."
        )

    def refuse(self, what: str, *, wanted: str = "") -> NoReturn:
        remedy = f"use {wanted} instead" if wanted else "leave it out, and check the text for it afterwards"
        raise BadInput(f"This schema{self.of} has {what}, which can't be enforced token by token; {remedy}.")


# keywords ----------------------------------------------------------------------------------------------------------------

_Reader = Callable[[_Reading, Schema, Json, str], None]


def _one_schema(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if isinstance(value, list) and place.endswith("/items"):
        reading.malformed(value, place, "one schema, and those of the first items as prefixItems")
    reading.schema(value, place)


def _schemas(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, list) or not value:
        reading.malformed(value, place, "a list of schemas, not empty")
    for i, each in enumerate(value):
        reading.schema(each, f"{place}/{i}")
    if place.endswith("/oneOf"):
        reading.choices.append(schema)


def _named(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, dict):
        reading.malformed(value, place, "an object whose values are schemas")
    for name, each in value.items():
        reading.schema(each, f"{place}/{_escaped(name)}")


def _patterned(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    _named(reading, schema, value, place)
    written = {_anchored(reading, pattern, place): each for pattern, each in value.items()}
    if len(written) < len(value):
        reading.malformed(list(value), place, "patterns of which no two mean the same")
    schema["patternProperties"] = written


def _pattern(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, str):
        reading.malformed(value, place, "a regular expression")
    schema["pattern"] = _anchored(reading, value, place)


def _format(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, str) or value not in (*FORMATS, *GUIDANCE_FORMATS):
        known = checks.listed(sorted([*FORMATS, *GUIDANCE_FORMATS]), "or")
        reading.refuse(f"the format {checks.shown(value)} at {place}", wanted=f"a pattern, or one of {known}")
    if value in FORMATS:
        reading.formats.append(schema)


def _types_named(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    given = value if isinstance(value, list) else [value]
    if not given or any(one not in TYPES for one in given) or len(set(given)) < len(given):
        reading.malformed(value, place, f"one of {checks.listed(TYPES, 'or')}, or a list of them")


def _names(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(set(value)) < len(value):
        reading.malformed(value, place, "a list of names, none of them twice")


def _count(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not _is_number(value) or value != int(value) or value < 0:
        reading.malformed(value, place, "a whole number from 0")
    schema[place.rpartition("/")[2]] = int(value)


def _number(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not _is_number(value):
        reading.malformed(value, place, "a number")
    keyword = place.rpartition("/")[2]
    if keyword == "multipleOf":
        if value <= 0:
            reading.malformed(value, place, "a number above 0")
        return
    lower = keyword.endswith("inimum")
    if value > EXACT if lower else value < -EXACT:
        reading.refuse(f"{value:,} as {keyword} at {place}, beyond {EXACT:,}, up to which numbers are exact")
    bound = max(value, -EXACT) if lower else min(value, EXACT)
    if keyword.startswith("exclusive") and bound == int(bound) and "number" in _types(schema):
        # Where the other bound lies before the next whole number, llguidance would let this one through.
        bound = (LEAST if lower else -LEAST) if bound == 0 else math.nextafter(bound, math.inf if lower else -math.inf)
    schema[keyword] = bound


def _enum(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, list) or not value:
        reading.malformed(value, place, "a list of values, not empty")
    _const(reading, schema, value, place)


def _const(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    """Any value will do, but for numbers that llguidance would write as others."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _const(reading, schema, each, place)
    elif _is_number(value) and abs(value) > EXACT:
        reading.refuse(f"{value:,} at {place}, beyond {EXACT:,}, up to which numbers are exact", wanted="a text")


def _reference(reading: _Reading, schema: Schema, value: Json, place: str) -> None:
    if not isinstance(value, str) or not value.startswith("#"):
        reading.malformed(value, place, 'a place in the schema itself, such as "#/$defs/name"')
    reading.references.append((place, value))


_READERS: dict[str, _Reader] = {
    "$ref": _reference,
    "type": _types_named,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "format": _format,
    "required": _names,
    **dict.fromkeys(("$defs", "definitions", "properties"), _named),
    "patternProperties": _patterned,
    **dict.fromkeys(("additionalProperties", "items"), _one_schema),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _schemas),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"), _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _number),
}


def _anchored(reading: _Reading, pattern: str, place: str) -> str:
    try:
        return f"^(?:{regular.within(pattern)})$"
    except BadInput as error:
        raise BadInput(f"This schema{reading.of} can't be enforced at {place}: {error}") from None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _types(schema: Schema) -> set[str]:
    given = schema.get("type", TYPES)
    return {given} if isinstance(given, str) else {*given}


def _values(schema: Json) -> set[str] | None:
    """The values that a schema leaves, as JSON; None where it does not list them."""
    if isinstance(schema, dict) and "const" in schema:
        return {_canonical(schema["const"])}
    if isinstance(schema, dict) and "enum" in schema:
        return {_canonical(value) for value in schema["enum"]}
    return None


def _canonical(value: object) -> str:
    """JSON that is the same for equal values: 1 and 1.0 are."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _apart(values: list[set[str] | None]) -> bool:
    """Whether no value is in two of the lists, and all are lists of plain values."""
    known = [one for one in values if one is not None]
    flat = all(not value.startswith(("[", "{")) for one in known for value in one)
    return len(known) == len(values) and flat and len(set().union(*known)) == sum(map(len, known))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
