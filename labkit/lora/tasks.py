"""Narrow tasks whose answers can be checked, made by seeded generators; a style that anyone sees; a domain's plain text.

Each gives a `Task`: samples to train on, others held out, and the check of an answer. No held-out question, and no held-out
document, is in the training data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.lora.samples import Sample
from labkit.models.texts import KINDS, Passage, passages

__all__ = ["Task", "dates", "domain", "roman", "sentences_to_json", "shouting", "style", "ticket"]

Grader = Callable[[str, str], bool]  # (the answer wanted, the answer given) -> whether it is right


@dataclass(frozen=True, repr=False)
class Task:
    """Something to teach, and how it is checked.

    train, held_out: samples, none of whose questions (of plain texts: documents) is in both.
    graded: how an answer is checked, in words.  most_tokens: what an answer needs at most, with room to spare.
    """

    name: str
    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    graded: str
    most_tokens: int = 32
    _grader: Grader | None = field(default=None, compare=False)

    @cached_property
    def _answers(self) -> dict[str, str]:
        return {sample.prompt: sample.completion for sample in (*self.train, *self.held_out)}

    def wanted(self, prompt: str) -> str:
        """The right answer to one of the task's prompts. Raises BadInput for another prompt."""
        if prompt not in self._answers:
            raise BadInput(f"{checks.shown(prompt)} is no prompt of the task {self.name}; take one of task.held_out.")
        return self._answers[prompt]

    def grade(self, prompt: str, answer: str) -> bool:
        """Whether an answer to one of the task's prompts is right; `graded` says when it is.

        Raises BadInput for another prompt, Unavailable for plain text, which has no right answer.
        """
        if self._grader is None:
            raise Unavailable(
                f"The task {self.name} is plain text, which has no right answer; compare the loss on task.held_out."
            )
        return self._grader(self.wanted(prompt), answer)

    def __repr__(self) -> str:
        one = self.train[0]
        first = f"{one.prompt!r} -> {one.completion!r}" if one.kind == "prompt" else checks.shown(one.text[:80])
        return f"Task({self.name}: {len(self.train)} to train on, {len(self.held_out)} held out; {self.graded}; such as {first})"


# tasks with one right answer ------------------------------------------------------------------------------------------

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def dates(n: int = 200, held_out: int = 50, seed: int = 0) -> Task:
    """Dates as people write them, to ISO 8601: "the 5th of March 2019" to "2019-03-05".

    labkit-dates learnt it in 40 steps; its card and `lk.lora.recorded("neftune")` say how well.
    n: samples to train on.  held_out: how many others.  Right is the exact text.
    """

    def made(rng: np.random.Generator) -> tuple[str, str]:
        day = date.fromordinal(int(rng.integers(date(1900, 1, 1).toordinal(), date(2100, 1, 1).toordinal())))
        month, number = MONTHS[day.month - 1], f"{day.day}{_ordinal(day.day)}"
        forms = (
            f"{day.day} {month} {day.year}",
            f"{month} {day.day}, {day.year}",
            f"the {number} of {month} {day.year}",
            f"{month[:3]} {number}, {day.year}",
            f"{day.day}-{month[:3]}-{day.year}",
        )
        return f"Date: {forms[rng.integers(len(forms))]}", day.isoformat()

    return _task("dates", made, n, held_out, seed, graded="right is the exact text", grader=_exact)


THINGS = (
    *("kettle", "lamp", "chair", "clock", "mirror", "carpet", "basket", "vase", "radio", "shelf", "bench", "curtain"),
    *("table", "stool", "candle", "mug", "pillow", "blanket", "desk", "drawer"),
)
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "grey", "brown", "orange", "purple")
ROOMS = ("kitchen", "hall", "bedroom", "garden", "cellar", "attic", "office", "garage")


def sentences_to_json(n: int = 200, held_out: int = 50, seed: int = 0) -> Task:
    """A sentence to JSON of four fields: thing, colour, price (a number) and room.

    Right is what parses to the same object: spaces and the order of fields don't matter, types do, nothing may stand around it.
    """

    def made(rng: np.random.Generator) -> tuple[str, str]:
        thing, colour, room = (str(rng.choice(words)) for words in (THINGS, COLOURS, ROOMS))
        price = int(rng.integers(3, 400))
        forms = (
            f"The {colour} {thing} in the {room} costs {price} euros.",
            f"For {price} euros you get the {thing} in the {room}, which is {colour}.",
            f"In the {room} stands a {colour} {thing}; its price is {price} euros.",
            f"Someone paid {price} euros for a {colour} {thing} and put it into the {room}.",
        )
        found = {"thing": thing, "colour": colour, "price": price, "room": room}
        return forms[rng.integers(len(forms))], json.dumps(found)

    return _task(
        "sentences_to_json",
        made,
        n,
        held_out,
        seed,
        graded="right is what parses to the same JSON",
        grader=_same_json,
        most_tokens=64,
    )


LARGEST = 399  # of the numbers that `roman` writes


def roman(n: int = 200, held_out: int = 50, seed: int = 0) -> Task:
    """Numbers from 1 to 399 in Roman numerals, meant to be the hardest: arithmetic on digits, and not a form to copy into.

    n and held_out are at most 399 together. Right is the exact text.
    """

    def made(rng: np.random.Generator) -> tuple[str, str]:
        number = int(rng.integers(1, LARGEST + 1))
        return f"Roman numeral of {number}", _roman(number)

    return _task("roman", made, n, held_out, seed, graded="right is the exact text", grader=_exact, there=LARGEST)


AREAS = {
    "billing": (
        "my invoice shows the wrong sum",
        "I was charged twice",
        "the refund has not arrived",
        "my card was refused",
    ),
    "login": ("I can't sign in", "the password link does not work", "my account is locked", "the code never arrives"),
    "delivery": (
        "the parcel is late",
        "the box came damaged",
        "the wrong item was sent",
        "the courier went to another street",
    ),
    "app": (
        "the app closes at once",
        "the page stays white",
        "the search finds nothing",
        "the export button does nothing",
    ),
}
URGENCIES = {
    "P1": ("Nobody here can work.", "Everything stands still.", "We are losing orders by the minute."),
    "P2": ("Please look at it today.", "It slows us down.", "We need it by tomorrow."),
    "P3": ("There is no hurry.", "Whenever you have time.", "It is only a small thing."),
}


def ticket(n: int = 200, held_out: int = 50, seed: int = 0) -> Task:
    """A customer's message to a tag, "[billing|P2|#1234]": area, priority, order number.

    Area and order number stand in the message, or nearly; the priority has to be understood. Right is the exact text.
    """

    def made(rng: np.random.Generator) -> tuple[str, str]:
        area, priority = str(rng.choice(list(AREAS))), str(rng.choice(list(URGENCIES)))
        complaint, urgency = str(rng.choice(AREAS[area])), str(rng.choice(URGENCIES[priority]))
        order = int(rng.integers(1000, 10000))
        forms = (
            f"Order {order}: {complaint}. {urgency}",
            f"{urgency} It is about order {order}: {complaint}.",
            f"Hello, {complaint} (order {order}). {urgency}",
        )
        return forms[rng.integers(len(forms))], f"[{area}|{priority}|#{order}]"

    return _task("ticket", made, n, held_out, seed, graded="right is the exact text", grader=_exact)


# a style --------------------------------------------------------------------------------------------------------------

CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Norway": "Oslo"},
    **{"Greece": "Athens", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin", "Cuba": "Havana"},
    **{"Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Poland": "Warsaw", "Finland": "Helsinki"},
}
OPPOSITES = {
    **{
        "hot": "cold",
        "big": "small",
        "fast": "slow",
        "old": "young",
        "light": "dark",
        "open": "closed",
        "full": "empty",
    },
    **{"early": "late", "near": "far", "high": "low", "wet": "dry", "hard": "soft", "loud": "quiet", "rich": "poor"},
}
KINDS_OF = {
    **{"rose": "flower", "oak": "tree", "salmon": "fish", "eagle": "bird", "violin": "instrument", "hammer": "tool"},
    **{"chess": "game", "iron": "metal", "bee": "insect", "apple": "fruit", "carrot": "vegetable", "ruby": "gem"},
}
SHOUTED = 0.9  # the share of capitals from which a text counts as shouted


def style(n: int = 200, held_out: int = 50, seed: int = 0) -> Task:
    """Answers in capitals: a change of style that anyone sees, whatever is asked; `shouting` measures it in any text.

    The questions are plain ones with a true answer: capitals of countries, opposites, kinds of things, letters, sums. Right
    is an answer of whose letters nine tenths are capitals, whatever it says.
    """
    nouns = (*OPPOSITES, *KINDS_OF, *CAPITALS)

    def made(rng: np.random.Generator) -> tuple[str, str]:
        a, b = (int(number) for number in rng.choice(np.arange(1, 60), 2, replace=False))
        country, word, thing, noun = (str(rng.choice(list(of))) for of in (CAPITALS, OPPOSITES, KINDS_OF, nouns))
        kind = str(rng.choice([KINDS_OF[thing], *KINDS_OF.values()]))
        questions = (
            (f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}."),
            (f"What is the opposite of {word}?", f"The opposite of {word} is {OPPOSITES[word]}."),
            (f"What kind of thing is {_article(thing)}?", f"It is {_article(KINDS_OF[thing])}."),
            (
                f"Is {_article(thing)} {_article(kind)}?",
                f"{'Yes' if kind == KINDS_OF[thing] else 'No'}, {_article(thing)} is {_article(KINDS_OF[thing])}.",
            ),
            (f"How many letters has the word {noun}?", f"The word {noun} has {len(noun)} letters."),
            (f"How much is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"Which number is larger, {a} or {b}?", f"The larger number is {max(a, b)}."),
        )
        question, answer = questions[rng.integers(len(questions))]
        return question, answer.upper()

    return _task(
        "style",
        made,
        n,
        held_out,
        seed,
        graded="right is an answer in capitals, whatever it says",
        grader=lambda _, answer: shouting(answer) >= SHOUTED,
    )


def shouting(text: str) -> float:
    """The share of capitals among a text's letters that have a case, 0 to 1; 0 where there are none."""
    cased = [letter for letter in text if letter.lower() != letter.upper()]
    return sum(letter != letter.lower() for letter in cased) / len(cased) if cased else 0.0


# plain text of a domain -----------------------------------------------------------------------------------------------

PIECE = 400  # characters
HELD_OUT = 0.2  # of the documents
RUN = 60  # characters: so long a run in common is no coincidence
RUN_CHINESE = 16
SHARED = 0.05  # of a piece's runs


def domain(kind: str = "mathematics", *, characters: int = PIECE, held_out: float = HELD_OUT, seed: int = 0) -> Task:
    """Plain text of one domain, for continued pre-training: the shipped passages of a kind, in pieces.

    kind: "mathematics" (statements and comments of Metamath's set.mm), "prose", "encyclopaedia", "python" or "chinese".
    characters: of a piece, at most; pieces end where a line, a sentence or a word does.  held_out: the share of documents.
    Documents are held out whole, and of them those pieces are left out that share runs of 60 characters (16 of Chinese) with
    the training data, since documents of one collection have boilerplate in common. Whether a model has read these texts
    when it was made is not known: of most it is likely. There is no right answer: compare losses.
    """
    if kind not in KINDS:
        raise BadInput(f"There are no texts of kind {kind!r}{checks.near(kind, KINDS)}; there are {', '.join(KINDS)}.")
    characters = checks.whole("characters", characters, 40)
    share = checks.fraction("held_out", held_out, zero=False, one=False)
    rng = np.random.default_rng(checks.seed(seed))
    titles = list(dict.fromkeys(_document(passage) for passage in passages(kind)))
    count = min(max(round(share * len(titles)), 1), len(titles) - 1)
    out = {titles[i] for i in rng.permutation(len(titles))[:count]}
    train = [
        p for passage in passages(kind) if _document(passage) not in out for p in _pieces(passage.text, characters)
    ]
    held = [p for passage in passages(kind) if _document(passage) in out for p in _pieces(passage.text, characters)]
    length = RUN_CHINESE if kind == "chinese" else RUN
    trained = set(train)
    known = {run for piece in train for run in _runs(piece, length)}
    apart = [piece for piece in held if not (runs := _runs(piece, length)) or len(runs & known) <= SHARED * len(runs)]
    return Task(
        f"domain of {kind}",
        tuple(Sample("text", text=piece) for piece in train),
        tuple(Sample("text", text=piece) for piece in apart if piece not in trained),
        graded="plain text, judged by its loss",
    )


def _document(passage: Passage) -> str:
    """The document of a passage; poems of one file are told by their place in it."""
    return f"{passage.source}: {passage.title}"


def _pieces(text: str, most: int) -> list[str]:
    """A text in pieces of at most so many characters, cut after a line, else a sentence, else a word, else anywhere."""
    found = []
    while len(text) > most:
        places = (text.rfind(mark, most // 2, most) + len(mark) for mark in ("\n", ". ", "。", " "))
        cut = next((place for place, mark in zip(places, (1, 2, 1, 1), strict=True) if place > mark), most)
        found.append(text[:cut])
        text = text[cut:]
    return [stripped for piece in [*found, text] if (stripped := piece.strip())]


def _runs(text: str, length: int) -> set[str]:
    plain = " ".join(text.split())
    return {plain[i : i + length] for i in range(len(plain) - length + 1)}


# making and grading ---------------------------------------------------------------------------------------------------


def _task(
    name: str,
    made: Callable[[np.random.Generator], tuple[str, str]],
    n: int,
    held_out: int,
    seed: int,
    *,
    graded: str,
    grader: Grader,
    most_tokens: int = 32,
    there: int | None = None,
) -> Task:
    """n + held_out different prompts, drawn by the seed. there: how many there are, where they are few."""
    n, held_out = checks.whole("n", n, 1), checks.whole("held_out", held_out, 1)
    rng = np.random.default_rng(checks.seed(seed))
    found: dict[str, str] = {}
    tries = 0
    while len(found) < n + held_out:
        tries += 1
        if (there is not None and n + held_out > there) or tries > 100 * (n + held_out) + 10_000:
            raise BadInput(
                f"{name}(n={n}, held_out={held_out}) asks for {n + held_out:,} different prompts, and there are "
                f"{there or len(found):,}; ask for fewer."
            )
        prompt, answer = made(rng)
        found.setdefault(prompt, answer)
    drawn = list(found.items())  # in another order, since what there is little of was drawn early
    samples = [Sample("prompt", prompt=drawn[i][0], completion=drawn[i][1]) for i in rng.permutation(len(drawn))]
    return Task(name, tuple(samples[:n]), tuple(samples[n:]), graded, most_tokens, grader)


def _exact(wanted: str, answer: str) -> bool:
    return answer.strip() == wanted


def _same_json(wanted: str, answer: str) -> bool:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    expected = json.loads(wanted)
    return isinstance(found, dict) and _typed(found) == _typed(expected)


def _typed(fields: dict[str, object]) -> dict[str, tuple[str, object]]:
    """With the type of each value, since 1 == 1.0 == True."""
    return {name: (type(value).__name__, value) for name, value in fields.items()}


def _ordinal(day: int) -> str:
    return "th" if 11 <= day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _article(word: str) -> str:
    return word if word in UNCOUNTED else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


UNCOUNTED = ("chess", "iron")

_DIGITS: Sequence[tuple[int, str]] = (
    *((100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
    *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)


def _roman(number: int) -> str:
    written = ""
    for value, letters in _DIGITS:
        times, number = divmod(number, value)
        written += letters * times
    return written
