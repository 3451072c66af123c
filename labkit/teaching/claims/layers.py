"""What is computed for the claim about one layer of the default model: each layer left out, rounded and patched, in turn.

A layer that is broken would be missed by nobody, or stand apart from all others in what a change of it costs. One thing is
told apart: in this model layer 11 writes a huge vector at a text's first token, from which later layers look away (a massive
activation, Sun et al. 2024, "Massive Activations in Large Language Models"), so all is also measured with that token's
activations left as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from labkit.lab import Lab
    from labkit.trace.documents import Documents

LAYER = 11
DOCUMENTS, CHARACTERS, LONGEST = 5, 200, 16  # of each of five kinds, and tokens of each
BITS, GROUP = 3, 64
DRAWS = 1_000
PARTS = ("attention_output", "mlp_output")
PAIRS = (  # agreement: of each pair one is followed by " is" and one by " are", and they have equally many tokens
    ("The key to the old cabinet", "The keys to the old cabinet"),
    ("The picture on the wall", "The pictures on the wall"),
    ("The book near the window", "The books near the window"),
    ("The boy with the red hat", "The boys with the red hat"),
    ("The tree behind the house", "The trees behind the house"),
    ("The letter from the king", "The letters from the king"),
    ("The car in the street", "The cars in the street"),
    ("The dog beside the door", "The dogs beside the door"),
)
ENDINGS = (" is", " are")


def layer_11_broken() -> tuple[float, str]:
    """What leaving out layer 11 of the default model adds to its loss; and its rank among all layers in four ways."""
    from labkit.lab import load
    from labkit.models.texts import texts
    from labkit.statistics import resampled
    from labkit.trace.documents import Documents

    lab = load(dtype="float32", device="cpu")
    documents = Documents(lab, texts(DOCUMENTS, characters=CHARACTERS), longest=LONGEST)
    without = left_out(lab, documents)
    later = left_out(lab, documents, "1:")
    rounded = in_few_bits(lab, documents)
    weights = documents.drawn(DRAWS, 0)
    mean, low, high = _mean(without[LAYER], weights, documents.tokens)
    first, later_mean = (_mean(sums[LAYER], weights, documents.tokens)[0] for sums in (without - later, later))
    patched = patched_in(lab)
    pairs = resampled(np.zeros(len(PAIRS), np.int64), DRAWS, np.random.default_rng(0))
    return round(mean, 2), (
        f"left out, it adds {mean:.2f} nats a token ({low:.2f} to {high:.2f}), {_rank(without, weights)}; {first:.2f} of "
        f"them at the first token alone, where its MLP writes a vector of norm {largest(lab):,.0f}, and with that token "
        f"left as it is {later_mean:.2f}, {_rank(later, weights)}; rounded to {BITS} bits it costs KL "
        f"{_mean(rounded[LAYER], weights, documents.tokens)[0]:.3f}, {_rank(rounded, weights)}; patched between "
        f"{len(PAIRS)} pairs of singular and plural it moves {100 * patched[LAYER].mean():.0f} % of the way, "
        f"{_rank(patched, pairs)}"
    )


def left_out(lab: Lab, documents: Documents, tokens: str = "") -> np.ndarray:
    """(layers, documents) nats: what each document's loss grows by when a layer adds nothing. tokens: where, "" is all."""
    from labkit.trace.edits import patch

    at = f" @ {tokens}" if tokens else ""
    base = documents.losses(lab)
    found = []
    for layer in range(len(lab.anatomy.layers)):
        with lab.edit(*(patch(f"{part}[{layer}]{at}", 0.0) for part in PARTS)):
            found.append(documents.losses(lab) - base)
    return np.array(found)


def in_few_bits(lab: Lab, documents: Documents) -> np.ndarray:
    """(layers, documents) nats: KL(model || model with one layer rounded to nearest), summed over a document's tokens.

    KL and not the loss: on few tokens rounding lowers that as often as it raises it.
    """
    from labkit.quantization.comparing import Reference

    batches = range(len(documents.batches))
    with lab.turn():
        references = [Reference(documents, number, documents.run(lab, number).all_logits) for number in batches]
        found = []
        for layer in range(len(lab.anatomy.layers)):
            with _rounded(lab, layer):
                found.append(sum(each.kl(documents.run(lab, n).all_logits) for n, each in enumerate(references)))
    return np.array(found)


@contextlib.contextmanager
def _rounded(lab: Lab, layer: int) -> Iterator[None]:
    from labkit.quantization import Format, ZeroPoint
    from labkit.quantization.sensitivities import exchanged, places

    format = Format(f"int{BITS}", ZeroPoint(BITS), GROUP)
    mine = [place for place in places(lab, False) if place.layer == layer]
    with exchanged([(place, format.pack(place.weight, place.name).unpack()) for place in mine]):
        yield


def patched_in(lab: Lab, pairs: Sequence[tuple[str, str]] = PAIRS) -> np.ndarray:
    """(layers, pairs): how far what a layer adds for the one text of a pair, put into the other, moves the verb's number.

    As in lk.patching: 0 moves nothing, 1 all the way to what the model says of the text it was taken from.
    """
    from labkit.trace.edits import patch

    singular, plural = (lab.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ENDINGS)

    def value(text: str) -> float:
        logits = lab.trace(text, keep="logits").logits[-1]
        return float(logits[plural] - logits[singular])

    found = []
    for one, other in pairs:
        source = lab.trace(other, keep=PARTS)
        start, end = value(one), value(other)
        moved = []
        for layer in range(len(lab.anatomy.layers)):
            with lab.edit(*(patch(f"{part}[{layer}]", source.tensor(part, layer)) for part in PARTS)):
                moved.append((value(one) - start) / (end - start))
        found.append(moved)
    return np.array(found).T


def largest(lab: Lab) -> float:
    """The largest norm of what the layer's MLP adds at a token of the first pair."""
    return float(lab.trace(PAIRS[0][0], keep="mlp_output").mlp_output(LAYER).norm(dim=-1).max())


def _mean(sums: np.ndarray, weights: np.ndarray, tokens: np.ndarray) -> tuple[float, float, float]:
    """A mean a token with 95 %, documents drawn again."""
    from labkit.statistics import interval

    low, high = interval(weights @ sums / (weights @ tokens))
    return float(sums.sum() / tokens.sum()), float(low), float(high)


def _rank(costs: np.ndarray, weights: np.ndarray) -> str:
    """The layer's rank among all in what it costs, 1 the most, with 95 %. costs: (layers, documents)."""
    from labkit.statistics import interval

    def rank(of: np.ndarray) -> np.ndarray:
        return np.asarray(1 + (of > of[LAYER]).sum(0))

    low, high = interval(rank(costs @ weights.T))
    return f"rank {int(rank(costs.sum(1)))} of {len(costs)} ({low:.0f} to {high:.0f})"
