"""What a form costs: a mask against llguidance alone, and tokens in a form against the same tokens without one.

    python benchmarks/bench_forms.py [--json]

The mask is measured over one text, token by token: following the token, the mask as a tensor over the whole vocabulary with
end tokens put in, against llguidance's own consume_token and fill_next_token_bitmask into a packed array. Generating is
measured with a form that allows one text alone, and without one on as many tokens: the same number of steps of the model.
"""

from __future__ import annotations

import functools
import json
import time

from common import compare, default_lab, report

from labkit.generation import forms
from labkit.generation.decode import end_ids

TOKENS, ROUNDS = 48, 5
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
VALUE = {
    "name": "Ada Lovelace, of London",
    "age": 36,
    "tags": ["red", "blue", "green"],
    "address": {"street": "St James's Square 12", "zip": "12345"},
}
PROMPT = "Tell me about the sea."


@functools.cache
def ids() -> list[int]:
    """The tokens of a text in the form."""
    return list(default_lab().tokenizer(json.dumps(VALUE), add_special_tokens=False).input_ids)


def masks() -> forms.FormMasks:
    lab, form = default_lab(), forms.read(SCHEMA)
    assert form is not None
    return forms.FormMasks(form, lab.tokenizer, end_ids(lab.model), 1)


def ours() -> float:
    """Seconds for a mask after each token."""
    held, width = masks(), default_lab().config.vocab_size
    began = time.perf_counter()
    for id_ in ids():
        held.allowed(0, width)
        held.add(0, id_)
    return (time.perf_counter() - began) / len(ids())


def alone() -> float:
    """The same by llguidance, as packed bits."""
    import llguidance.numpy as guidance
    from llguidance import LLMatcher

    held = masks()
    matcher = LLMatcher(held.vocabulary.guidance, held.form.grammar, log_level=0)
    bits = guidance.allocate_token_bitmask(1, held.vocabulary.guidance.vocab_size)
    began = time.perf_counter()
    for id_ in ids():
        guidance.fill_next_token_bitmask(matcher, bits)
        assert matcher.consume_token(id_)
    return (time.perf_counter() - began) / len(ids())


def applied() -> float:
    """The same by llguidance, with its numpy routine putting the mask on scores."""
    import llguidance.numpy as guidance
    import numpy as np
    from llguidance import LLMatcher

    held = masks()
    matcher = LLMatcher(held.vocabulary.guidance, held.form.grammar, log_level=0)
    bits = guidance.allocate_token_bitmask(1, held.vocabulary.guidance.vocab_size)
    scores = np.zeros((1, held.vocabulary.guidance.vocab_size), np.float32)
    began = time.perf_counter()
    for id_ in ids():
        guidance.fill_next_token_bitmask(matcher, bits)
        guidance.apply_token_bitmask_inplace(scores, bits)
        assert matcher.consume_token(id_)
    return (time.perf_counter() - began) / len(ids())


def first_compiled() -> float:
    """Seconds from a schema to the first mask, with nothing kept."""
    held = masks()
    held.vocabulary.compiled.clear()
    began = time.perf_counter()
    masks().allowed(0, default_lab().config.vocab_size)
    return time.perf_counter() - began


def compiled_alone() -> float:
    """The same by llguidance, of the schema as it stands."""
    import llguidance.numpy as guidance
    from llguidance import LLMatcher

    held = masks()
    bits = guidance.allocate_token_bitmask(1, held.vocabulary.guidance.vocab_size)
    began = time.perf_counter()
    matcher = LLMatcher(held.vocabulary.guidance, LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA)), log_level=0)
    guidance.fill_next_token_bitmask(matcher, bits)
    return time.perf_counter() - began


def generated(form: object) -> float:
    """Seconds a token of decoding, after the first."""
    gen = default_lab().generate(PROMPT, max_new_tokens=TOKENS, form=form)
    return gen.decode_seconds / (len(gen.ids) - 1)


if __name__ == "__main__":
    one_text = "sea " * 200  # more than TOKENS: both runs are cut at the limit
    report(
        [
            compare(
                f"a mask a token, over {len(ids())} tokens",
                ("labkit", ours),
                ("llguidance, packed bits", alone),
                rounds=ROUNDS,
            ),
            compare("a mask a token, on scores", ("labkit", ours), ("llguidance.numpy", applied), rounds=ROUNDS),
            compare("schema to first mask", ("labkit", first_compiled), ("llguidance", compiled_alone), rounds=ROUNDS),
            compare(
                f"a token of {TOKENS} in a form",
                ("with the form", lambda: generated([one_text])),
                ("without", lambda: generated(None)),
                rounds=ROUNDS,
            ),
        ]
    )
