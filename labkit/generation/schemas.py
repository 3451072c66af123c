"""JSON schemas as llguidance takes them: every keyword known and enforced, or refused by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from labkit.errors import BadInput

# Between two parts of the JSON there is nothing, a space, or a line break with an indent: a model that likes white space
# would otherwise write it without end.
WHITE_SPACE = r"\x20|\n\x20{0,24}|\n\t{0,6}"


def grammar(schema: Mapping[str, object], *, of: str = "") -> str:
    """llguidance's grammar of a JSON schema."""
    return json.dumps({"grammars": [{"json_schema": checked(schema)}]})


def checked(schema: Mapping[str, object]) -> dict[str, object]:
    try:
        copied = json.loads(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"This schema is no JSON: {error}.") from None
    return {**copied, "x-guidance": {"whitespace_pattern": WHITE_SPACE}}


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
