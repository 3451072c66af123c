"""What is computed for the claims about generation: whether masks make JSON valid, and what they cost."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labkit.generation.record import Generation
    from labkit.lab import Lab

PROMPTS = 20
TOKENS, TEMPERATURE = 48, 0.7
NAMES = ("Ana", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
TOWNS = ("Lima", "Oslo", "Cairo", "Kyoto", "Boston", "Madrid", "Delhi", "Sydney")
JOBS = ("teacher", "nurse", "farmer", "lawyer", "baker", "pilot", "artist", "engineer")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "town": {"type": "string", "maxLength": 20},
        "job": {"enum": [*JOBS]},
    },
    "required": ["name", "age", "town", "job"],
    "additionalProperties": False,
}


class Person(NamedTuple):
    name: str
    age: int
    town: str
    job: str

    @property
    def prompt(self) -> str:
        return (
            f"{self.name} is {self.age} years old, lives in {self.town} and works as a{'n' * (self.job[0] in 'ae')} {self.job}. "
            'Write this as one JSON object with the keys "name", "age", "town" and "job", and nothing else.'
        )


def people(n: int = PROMPTS, seed: int = 0) -> list[Person]:
    """Made-up people, the same for the same seed."""
    rng = random.Random(seed)
    return [Person(rng.choice(NAMES), rng.randint(18, 90), rng.choice(TOWNS), rng.choice(JOBS)) for _ in range(n)]


def is_valid(text: str) -> bool:
    """Whether a text is JSON that satisfies SCHEMA, told without the library that held it to the schema."""
    return _read(text) is not None


def _read(text: str) -> Person | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(Person._fields):
        return None
    person = Person(**found)
    words = (
        isinstance(person.name, str) and isinstance(person.town, str) and max(len(person.name), len(person.town)) <= 20
    )
    age = isinstance(person.age, int) and not isinstance(person.age, bool) and 0 <= person.age <= 120
    return person if words and age and person.job in JOBS else None


def _first_object(text: str) -> str:
    """The text from its first brace to the end of the JSON that begins there: what a lenient reader makes of it."""
    begin = text.find("{")
    try:
        return text[begin : json.JSONDecoder().raw_decode(text, begin)[1]] if begin >= 0 else ""
    except (ValueError, RecursionError):
        return ""


def json_for_free(lab: Lab | None = None, *, prompts: int = PROMPTS) -> tuple[float, str]:
    """How many of the default model's answers are valid JSON with a mask and without one, and what a token costs.

    Each prompt is answered by turns with the mask and without, with the same seed. The value is the share that is valid with
    the mask; times are of decoding alone, the first token and the compiling of the schema left out.
    """
    import numpy as np

    from labkit.lab import load
    from labkit.statistics import median_interval, paired_difference, wilson

    lab = load(device="cpu") if lab is None else lab
    asked = people(prompts)
    with_mask: list[Generation] = []
    without: list[Generation] = []
    lab.generate(asked[0].prompt, form=SCHEMA, max_new_tokens=2)  # compiles the schema, which is done once
    for seed, person in enumerate(asked):
        for form, made in ((SCHEMA, with_mask), (None, without)):
            made.append(
                lab.generate(person.prompt, form=form, max_new_tokens=TOKENS, temperature=TEMPERATURE, seed=seed)
            )
    valid, plain = ([is_valid(gen.text) for gen in made] for made in (with_mask, without))
    lenient = sum(is_valid(_first_object(gen.text)) for gen in without)
    right = [
        sum(_read(gen.text) == person for gen, person in zip(made, asked, strict=True)) for made in (with_mask, without)
    ]
    pairs = list(zip(valid, plain, strict=True))
    gain, low, high = paired_difference(
        *(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    )
    longer = [
        100 * (masked.decode_seconds / (len(masked.ids) - 1)) / (free.decode_seconds / (len(free.ids) - 1)) - 100
        for masked, free in zip(with_mask, without, strict=True)
        if min(len(masked.ids), len(free.ids)) > 1
    ]
    cost, cheapest, dearest, _ = median_interval(np.array(longer))
    steps = sum(len(gen.ids) for gen in with_mask)
    overridden = sum(len(gen.overridden) for gen in with_mask)

    def share(hits: int) -> str:
        least, most = wilson(hits, prompts)
        return f"{hits} of {prompts} ({100 * least:.0f} to {100 * most:.0f} %)"

    cut = [sum(not gen.form_complete for gen in with_mask), sum(gen.finish_reason == "length" for gen in without)]
    return round(sum(valid) / prompts, 3), (
        f"{share(sum(valid))} answers are valid with the mask and {share(sum(plain))} without, {100 * gain:.0f} points more "
        f"({100 * low:.0f} to {100 * high:.0f}); {share(lenient)} without it where text around the JSON is forgiven; "
        f"{cut[0]} with and {cut[1]} without were cut at {TOKENS} tokens; what they say is right in {share(right[0])} and "
        f"{share(right[1])}; a token takes {cost:.0f} % longer with the mask ({cheapest:.0f} to {dearest:.0f} %, the median of "
        f"{len(longer)} pairs), and at {100 * overridden / max(1, steps):.0f} % of {steps} steps it took away "
        "more than half of the model's probability"
    )
