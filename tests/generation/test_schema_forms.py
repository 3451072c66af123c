"""JSON schemas as forms: what is accepted and what is not, against jsonschema; what is refused, and with which words."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import json
import random
from decimal import Decimal
from typing import Any

import fuzz
import pytest
from schema_instances import SCHEMAS, damaged, valid, validator, written

import labkit as lk
from labkit.errors import BadInput
from labkit.generation import forms

EACH = 11  # instances of each kind for each of the twenty schemas: more than 200 of both, as {} has no invalid ones


@functools.cache
def _tokenizer() -> Any:
    return fuzz.tiny_tokenizer()


def masks(form: object, *, rows: int = 1) -> forms.FormMasks:
    read = forms.read(form)
    assert read is not None
    return forms.FormMasks(read, _tokenizer(), [2], rows)


def accepts(form: object, text: str) -> bool:
    return masks(form).accepts(text)


def walk(held: forms.FormMasks, rng: random.Random, most: int = 400) -> str | None:
    """A text written by choosing any allowed token at each step; None where it is not complete after so many."""
    width = len(held.vocabulary.tokens)
    spelt: list[bytes] = []
    closing = [id_ for id_, own in enumerate(held.vocabulary.tokens) if own in (b'"', b"}", b"]", b",")]
    for _ in range(most):
        allowed = held.allowed(0, width)
        ids = allowed.nonzero()[:, 0].tolist()
        if held.complete(0) and rng.random() < 0.3:
            ids = [2]
        favoured = [id_ for id_ in closing if bool(allowed[id_])]
        id_ = rng.choice(favoured if favoured and rng.random() < 0.25 else ids)
        if id_ == 2:
            break
        held.add(0, id_)
        spelt.append(held.vocabulary.tokens[id_])
        if held.finished(0):
            break
    return b"".join(spelt).decode() if held.complete(0) else None


@pytest.mark.parametrize("name", SCHEMAS)
def test_valid_instances_are_accepted_and_invalid_ones_are_not(name: str) -> None:
    schema, rng = SCHEMAS[name], random.Random(name)
    judge, held = validator(schema), masks(schema)
    good = [valid(schema, rng) for _ in range(EACH)]
    bad: list[Any] = []
    while schema and len(bad) < EACH:  # of {} nothing is invalid but what is no JSON, below
        if not judge.is_valid(found := damaged(valid(schema, rng), rng)):
            bad.append(found)
    for instance in good:
        assert judge.is_valid(instance), instance
        assert held.accepts(text := written(instance, rng)), text
    for instance in bad:
        assert not held.accepts(text := written(instance, rng)), text


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_the_masks_allow_is_valid(name: str) -> None:
    """Texts of tokens drawn from the masks alone, with no model to lead them: the hardest test for what is too loose."""
    schema, rng = SCHEMAS[name], random.Random(name)
    texts = [walk(masks(schema), rng) for _ in range(6)]
    whole = [text for text in texts if text is not None]
    assert whole, "no walk came to an end"
    for text in whole:
        assert validator(schema).is_valid(json.loads(text)), text


@pytest.mark.parametrize(
    "text", ['{"a": 1', '{"a": 1}}', "{'a': 1}", '{"a":  1}', '{"a":\n\n1}', "[1,]", "01", "NaN", '"\t"', " 1"]
)
def test_what_is_no_json_or_has_too_much_white_space(text: str) -> None:
    assert not accepts({}, text)


# where llguidance alone would let something through -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061": "x"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, '{"\\u0061b": "x"}'),
        ({"type": "string", "format": "date"}, '"2023-02-29"'),
        ({"type": "string", "format": "date-time"}, '"1900-02-29T00:00:00Z"'),
        ({"type": "string", "format": "hostname"}, json.dumps(".".join(["a" * 63] * 4))),
        ({"type": "string", "pattern": r"^\d+$"}, '"١٢"'),
        ({"type": "string", "pattern": r"^\D$"}, '"١"'),
        ({"type": "string", "pattern": r"^[^\d]$"}, '"١"'),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0"),
        ({"type": "number", "exclusiveMinimum": -0.0, "exclusiveMaximum": 0.5}, "0"),
        ({"exclusiveMaximum": 0, "minimum": -0.5}, "-0"),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"maximum": 1.5}]}, "1"),
        ({"type": "number", "minimum": -14999999999999999, "maximum": 0}, "-15000000000000000"),
        ({"type": "number", "exclusiveMaximum": 9999999999999999}, "9999999999999999"),
        ({"type": "integer", "minimum": -(2**63) - 5, "maximum": 0}, str(-(2**63) - 6)),
    ],
)
def test_what_would_be_too_loose(schema: dict[str, Any], text: str) -> None:
    assert not accepts(schema, text)


def test_dates_are_those_of_the_calendar() -> None:
    held = masks({"type": "string", "format": "date"})
    for year in (1, 1899, 1900, 2000, 2023, 2024, 2100, 9999):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    there = bool(datetime.date.fromisoformat(text))
                except ValueError:
                    there = False
                assert held.accepts(json.dumps(text)) == there, text


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "time",
            ["00:00:00Z", "23:59:59.5+23:59"],
            ["24:00:00Z", "12:60:00Z", "12:00:00", "12:00:00+24:00", "1:00:00Z"],
        ),
        (
            "date-time",
            ["2024-02-29T12:00:00Z"],
            ["2024-02-29 12:00:00Z", "2024-02-30T12:00:00Z", "2024-02-29T12:00:00"],
        ),
        (
            "email",
            ["a@b.c", "a.b+c@d"],
            ["a", "@b", "a@", "a..b@c", ".a@b", "a@-b.c", "a b@c", "a@b@c", "a" * 65 + "@b"],
        ),
        ("hostname", ["a", "a-b.c", "1.2"], ["-a", "a-", "a..b", "a.", "a_b", "xn--a", "a" * 64]),
        ("ipv4", ["1.2.3.4", "255.0.0.255"], ["256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "123e4567e89b12d3a456426614174000"]),
        ("duration", ["P1D", "PT1H30M", "P2W"], ["P", "PT", "1D", "P1D2Y"]),
        ("uri", ["http://a/b?c=d#e", "mailto:a@b"], ["a b", "//a", "http://a b", "1a:b", "http://a/%zz"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    held = masks({"type": "string", "format": name})
    assert [text for text in good if not held.accepts(json.dumps(text))] == []
    assert [text for text in bad if held.accepts(json.dumps(text))] == []


def test_addresses_are_what_pythons_ipaddress_reads() -> None:
    rng, held = random.Random(0), masks({"type": "string", "format": "ipv6"})
    read = 0
    for _ in range(400):
        text = ":".join(rng.choice(["", "", "1", "ab", "ffff", "00001", "0"]) for _ in range(rng.randint(2, 9)))
        try:
            there = bool(ipaddress.IPv6Address(text))
        except ValueError:
            there = False
        read += there
        assert held.accepts(json.dumps(text)) == there, text
    assert read > 10


def test_bounds_hold_to_the_last_digit() -> None:
    """Numbers at and beside their bounds, told by decimal arithmetic."""
    rng = random.Random(0)
    for _ in range(60):
        one, other = (rng.choice([rng.randint(-2, 2), rng.randint(-200, 200) / rng.choice([10, 100])]) for _ in "ab")
        low, high = rng.choice(["minimum", "exclusiveMinimum"]), rng.choice(["maximum", "exclusiveMaximum"])
        schema = {"type": rng.choice(["number", "integer"]), low: min(one, other), high: max(one, other)}
        least, most = Decimal(str(schema[low])), Decimal(str(schema[high]))
        near = [bound + Decimal(step) for bound in (least, most) for step in ("0", "1", "-1", "0.001", "-0.001")]
        held = None
        with contextlib.suppress(BadInput):  # where nothing lies between the bounds
            held = masks(schema)
        for number in near:
            text = f"{number.normalize():f}"
            there = number >= least if low == "minimum" else number > least
            there &= number <= most if high == "maximum" else number < most
            there &= schema["type"] == "number" or number == int(number)
            assert (held is not None and held.accepts(text)) == there, (schema, text)


def test_wide_bounds_are_drawn_in_to_where_numbers_are_exact() -> None:
    schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}  # of a 64-bit integer
    assert accepts(schema, "-9007199254740991")
    assert accepts(schema, "12")
    assert not accepts(schema, str(2**63))
    assert accepts({"const": [2**53 - 1]}, "[9007199254740991]")


# what is refused -----------------------------------------------------------------------------------------------------------


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


REFUSED: list[tuple[Any, str]] = [
    ({"maxlength": 3}, r'"maxlength" at #, which is no keyword.*did you mean \'maxLength\''),
    ({"x-mine": 1}, '"x-mine" at #'),
    ({"x-guidance": {"whitespace_flexible": True}}, '"x-guidance" at #'),
    ({"type": "object", "properties": {"a": {"not": {}}}}, '"not" at #/properties/a'),
    ({"if": {}, "then": {}}, '"if" at #'),
    ({"contains": {}}, '"contains"'),
    ({"uniqueItems": True}, '"uniqueItems"'),
    ({"propertyNames": {}}, '"propertyNames"'),
    ({"dependentRequired": {}}, '"dependentRequired"'),
    ({"unevaluatedProperties": False}, '"unevaluatedProperties"'),
    ({"contentEncoding": "base64"}, '"contentEncoding"'),
    ({"minProperties": 2}, '"minProperties".*"required"'),
    ({"format": "path"}, "format 'path'.*date-time"),
    ({"format": ["date"]}, r"format \['date'\]"),
    ({"items": [{}]}, "#/items.*prefixItems"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"patternProperties": {"^a": {}, "b$": {"type": "null"}}}, "not disjoint"),
    ({"$ref": "http://example.org/other"}, r"#/\$ref"),
    ({"$ref": "#/$defs/none"}, r"\$ref"),
    ({"$ref": "#/properties", "properties": {"a": {}}}, r"\$ref"),
    ({"type": "strin"}, "#/type.*'strin'.*string"),
    ({"type": []}, "#/type"),
    ({"minimum": "3"}, "#/minimum.*a number"),
    ({"exclusiveMinimum": True}, "#/exclusiveMinimum"),
    ({"multipleOf": 0}, "#/multipleOf.*above 0"),
    ({"type": "integer", "minimum": 2**63, "maximum": 2**63 + 9}, r"minimum at #/minimum.*exact"),
    ({"exclusiveMaximum": -1e19}, r"exclusiveMaximum at #/exclusiveMaximum.*exact"),
    ({"const": -(2**63)}, "#/const.*exact.*a text"),  # would end the process
    ({"enum": [{"id": [2**70]}]}, "#/enum.*exact"),
    ({"required": "a"}, "#/required"),
    ({"minLength": -1}, "#/minLength"),
    ({"maxItems": 1.5}, "#/maxItems"),
    ({"properties": []}, "#/properties"),
    ({"anyOf": []}, "#/anyOf"),
    ({"enum": []}, "#/enum"),
    ({"properties": {"a": 3}}, "#/properties/a"),
    ({"const": float("nan")}, "JSON"),
    ({"const": object()}, "JSON"),
    ({"pattern": "(?=a)b"}, "#/pattern.*look-around"),
    ({"pattern": r"(a)\1"}, "#/pattern.*back-reference"),
    ({"pattern": "("}, "#/pattern.*no regular expression"),
    ({"patternProperties": {"(": {}}}, "#/patternProperties"),
    (_nested(300), "nested too deeply"),
    (_nested(100_000), "JSON"),
    # what nothing satisfies
    ({"type": "integer", "minimum": 5, "maximum": 3}, r"Nothing satisfies this schema: minimum \(5\)"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "Nothing satisfies"),
    ({"type": "string", "pattern": "^a$", "minLength": 2}, "Nothing satisfies"),
    ({"allOf": [{"type": "integer"}, {"type": "string"}]}, "Nothing satisfies"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "Nothing satisfies"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "Nothing satisfies"),
    ({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}, "holds itself"),
    ({"$ref": "#"}, "holds itself"),
    ({"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}, "holds itself"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "holds itself"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=[str(said)[:40] for _, said in REFUSED])
def test_what_is_refused_names_the_keyword(schema: Any, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        forms.read(schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    captured = capfd.readouterr()
    assert captured.err == captured.out == "", "llguidance writes to stderr"


def test_what_says_nothing_of_the_value_is_passed_over() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/x",
        "title": "T",
        "description": "d",
        "default": 1,
        "examples": [1],
        "deprecated": True,
        "readOnly": False,
        "$comment": "c",
        "type": "integer",
        "uniqueItems": False,
    }
    assert accepts(schema, "3")
    assert "uniqueItems" in schema, "the schema that was given is changed"
    assert not accepts(schema, '"3"')


def test_references_by_place_and_by_anchor() -> None:
    schema = {
        "$defs": {"a/b": {"$anchor": "here", "type": "null"}},
        "anyOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#here"}],
    }
    assert accepts(schema, "null")
    assert not accepts(schema, "1")


def test_alternatives_that_are_told_apart_by_a_reference() -> None:
    """What pydantic makes of a discriminated union."""
    schema = {
        "$defs": {
            "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            "Dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "hound"]}}, "required": ["kind"]},
        },
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    }
    assert accepts(schema, '{"kind": "hound"}')
    assert not accepts(schema, '{"kind": "cow"}')
    schema["$defs"]["Dog"]["properties"]["kind"]["enum"] = ["dog", "cat"]  # type: ignore[index]
    with pytest.raises(BadInput, match="oneOf"):
        forms.read(schema)


def test_a_schema_within_a_grammar_is_checked_as_well() -> None:
    assert accepts(lk.Grammar('start: "x=" %json {"type": "integer", "minimum": 3}'), "x=4")
    with pytest.raises(BadInput, match='"maxlength"'):
        forms.read(lk.Grammar('start: "x=" %json {"type": "string", "maxlength": 3}'))
    with pytest.raises(BadInput, match="no JSON"):
        forms.read(lk.Grammar('start: "x=" %json {"type": '))


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Point", x=(int, ...), label=(str | None, None))
    assert accepts(model, '{"x": 1, "label": null}')
    assert accepts(model, '{"x": 1}')
    assert not accepts(model, '{"x": 1, "other": 2}'), "what the model would throw away is not written"
    with pytest.raises(BadInput, match=r'schema of Bag has.*"uniqueItems"'):
        forms.read(pydantic.create_model("Bag", items=(set[int], ...)))
    with pytest.raises(BadInput, match="Odd has no JSON schema"):
        forms.read(pydantic.create_model("Odd", f=(type(lambda: 0), ...), __config__={"arbitrary_types_allowed": True}))
