"""What a form costs: a mask against llguidance alone, and tokens in a form against the same tokens without one.

    python benchmarks/bench_forms.py [--json]

The mask is measured over one text, token by token: following the token, the mask as a tensor over the whole vocabulary with
end tokens put in, against llguidance's own consume_token and fill_next_token_bitmask into a packed array; processor time, since
all of it is on one core and takes microseconds. Generating is
measured with a form that allows one text alone, and without one on as many tokens: the same number of steps of the model.
"""

from __future__ import annotations

import functools
import json
import time

from common import compare, default_lab, report

from labkit.generation import forms
from labkit.generation.decode import end_ids

TOKENS, ROUNDS, PASSES = 48, 5, 5
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
    """Seconds of a processor for the mask before each token, and for following it."""
    width = default_lab().config.vocab_size

    def passed() -> float:
        held = masks()
        began = time.process_time()
        for id_ in ids():
            held.allowed(0, width)
            held.add(0, id_)
        return time.process_time() - began

    return sum(passed() for _ in range(PASSES)) / (PASSES * len(ids()))


def theirs(*, on_scores: bool) -> float:
    """The same by llguidance alone: as packed bits, or put on scores by its numpy routine."""
    import llguidance.numpy as guidance
    import numpy as np
    from llguidance import LLMatcher

    held = masks()
    size = held.vocabulary.guidance.vocab_size
    bits, scores = guidance.allocate_token_bitmask(1, size), np.zeros((1, size), np.float32)

    def passed() -> float:
        matcher = LLMatcher(held.vocabulary.guidance, held.form.grammar, log_level=0)
        began = time.process_time()
        for id_ in ids():
            guidance.fill_next_token_bitmask(matcher, bits)
            if on_scores:
                guidance.apply_token_bitmask_inplace(scores, bits)
            assert matcher.consume_token(id_)
        return time.process_time() - began

    return sum(passed() for _ in range(PASSES)) / (PASSES * len(ids()))


def first_compiled() -> float:
    """Seconds from a schema to the first mask, with nothing kept."""
    held = masks()
    held.vocabulary.compiled.clear()
    began = time.process_time()
    masks().allowed(0, default_lab().config.vocab_size)
    return time.process_time() - began


def compiled_alone() -> float:
    """The same by llguidance, of the schema as it stands."""
    import llguidance.numpy as guidance
    from llguidance import LLMatcher

    held = masks()
    bits = guidance.allocate_token_bitmask(1, held.vocabulary.guidance.vocab_size)
    began = time.process_time()
    matcher = LLMatcher(held.vocabulary.guidance, LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA)), log_level=0)
    guidance.fill_next_token_bitmask(matcher, bits)
    return time.process_time() - began


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
                ("llguidance, packed bits", functools.partial(theirs, on_scores=False)),
                rounds=ROUNDS,
            ),
            compare(
                "a mask a token, on scores",
                ("labkit", ours),
                ("llguidance.numpy", functools.partial(theirs, on_scores=True)),
                rounds=ROUNDS,
            ),
            compare("schema to first mask", ("labkit", first_compiled), ("llguidance", compiled_alone), rounds=ROUNDS),
            compare(
                f"a token of {TOKENS} in a form",
                ("with the form", lambda: generated([one_text])),
                ("without", lambda: generated(None)),
                rounds=ROUNDS,
            ),
        ]
    )
