"""Directions: means by hand, ablation against weights that can't write along it, costs by hand, shuffled labels."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk

POSITIVE = [f"the cat sat on the {word}" for word in ("mat", "tree", "dog", "cat", "other", "where")]
NEGATIVE = [f"the dog ran up the {word} and" for word in ("mat", "tree", "dog", "cat", "other", "where")]


def random_texts(count: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(10, 30, (count, 4)).tolist()


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# found ----------------------------------------------------------------------------------------------------------------


def test_it_is_the_difference_of_what_traces_hold(tiny_lab: lk.Lab) -> None:
    found = lk.circuits.difference_of_means(tiny_lab, POSITIVE, NEGATIVE)
    assert [each.layer for each in found] == [0, 1, 2]
    for each in found:
        means = [
            torch.stack([tiny_lab.trace(t, keep="residual").residual(each.layer)[-1] for t in texts]).mean(0)
            for texts in (POSITIVE, NEGATIVE)
        ]
        torch.testing.assert_close(each.vector, means[0] - means[1], atol=1e-6, rtol=1e-5)
        assert each.separation == 1.0
        assert each.separation_low < 1.0
        assert each.chance < each.separation
    one = lk.circuits.difference_of_means(tiny_lab, POSITIVE, NEGATIVE, 1)
    assert "nan" not in repr(lk.circuits.difference_of_means(tiny_lab, POSITIVE, NEGATIVE, 1, shuffles=0))
    torch.testing.assert_close(one.vector, found[1].vector)
    assert "layer 1 of tiny" in repr(one)
    assert float(one.unit.norm()) == pytest.approx(1)


def test_a_separation_is_of_texts_that_had_no_part_in_it(tiny_lab: lk.Lab) -> None:
    """Labels that mean nothing: in 32 dimensions the means of a dozen texts do separate those very texts."""
    texts = random_texts(24, seed=4)
    x = torch.stack([tiny_lab.trace(text, keep="residual").residual(2)[-1] for text in texts])
    found = lk.circuits.difference_of_means(tiny_lab, texts[:12], texts[12:], 2)
    means = x[:12].mean(0), x[12:].mean(0)
    own = ((x - (means[0] + means[1]) / 2) @ (means[0] - means[1]) > 0) == (torch.arange(24) < 12)
    assert float(own.float().mean()) > found.separation + 0.1
    assert found.p > 0.05


def test_shuffled_labels_are_reached_as_often_as_p_says(tiny_lab: lk.Lab) -> None:
    low = 0
    for seed in range(100):
        texts = random_texts(20, seed=seed)
        found = lk.circuits.difference_of_means(tiny_lab, texts[:10], texts[10:], 1, shuffles=39, seed=seed)
        low += found.p <= 0.05
    assert low <= 10, "P(more than 10 of 100 | 5 %) = 0.01"


def test_pairs_are_held_out_and_shuffled_together(tiny_lab: lk.Lab) -> None:
    """Twins that differ in their third token: what else they say is the same on both sides and cancels out."""
    rng = np.random.default_rng(0)
    frames = rng.integers(10, 30, (12, 4)).tolist()
    positive, negative = ([[*f[:2], word, *f[2:]] for f in frames] for word in (31, 32))
    found = lk.circuits.difference_of_means(tiny_lab, positive, negative, 1, position=2, pairs=True)
    assert found.separation == 1.0
    assert found.p <= 0.01
    with pytest.raises(lk.BadInput, match="12 positive and 11 negative texts, which make no pairs"):
        lk.circuits.difference_of_means(tiny_lab, positive, negative[:11], 1, pairs=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positive": POSITIVE[:3]}, "positive has 3 different texts .* too few"),
        ({"negative": NEGATIVE[:1] * 8}, "negative has 1 different text "),
        ({"negative": [*NEGATIVE, POSITIVE[0]]}, "1 text stands in both lists"),
        ({"positive": []}, "positive has 0 different texts"),
        ({"positive": "a text"}, "put a single text into one"),
        ({"layer": 3}, "There is no layer 3: tiny has layers 0 to 2"),
        ({"position": 0, "layer": 1}, "both means are the same"),
        ({"shuffles": -1}, "shuffles=-1"),
        ({"pairs": 1}, "pairs=1"),
    ],
)
def test_what_gives_no_direction_is_refused(tiny_lab: lk.Lab, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"positive": POSITIVE, "negative": NEGATIVE, "layer": 1} | change
    with pytest.raises(lk.BadInput, match=said):
        lk.circuits.difference_of_means(tiny_lab, **given)


# taken out ------------------------------------------------------------------------------------------------------------


def test_ablation_is_a_model_whose_weights_can_not_write_along_it(tiny_lab: lk.Lab) -> None:
    """Arditi et al. 2024, section 4.1: projecting activations equals orthogonalizing all that writes to the stream."""
    direction = lk.circuits.difference_of_means(tiny_lab, POSITIVE, NEGATIVE, 1)
    r = direction.unit
    other = copy.deepcopy(tiny_lab.model)
    with torch.no_grad():
        embedding = other.get_input_embeddings().weight
        embedding -= (embedding @ r)[:, None] * r
        for layer in other.model.layers:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight -= torch.outer(r, r @ weight)
    plain = lk.Lab(other, tiny_lab.tokenizer, name="orthogonal")
    before = tiny_lab.trace(POSITIVE[0], keep="logits").logits
    with tiny_lab.edit(lk.circuits.ablate_direction(direction)):
        ablated = tiny_lab.trace(POSITIVE[0], keep=("logits", "residual"))
    assert not torch.allclose(ablated.logits, before, atol=1e-4)
    torch.testing.assert_close(ablated.logits, plain.trace(POSITIVE[0], keep="logits").logits, atol=1e-5, rtol=1e-4)
    for layer in range(3):
        assert float((ablated.residual(layer) @ r).abs().max()) < 1e-6
    torch.testing.assert_close(tiny_lab.trace(POSITIVE[0], keep="logits").logits, before)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "mixtral", "mamba"])
def test_no_layer_of_any_family_is_given_anything_along_it(name: str) -> None:
    lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
    r = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(3)), dim=0)
    parts = ("residual",) if name == "mamba" else ("residual", "attention_output")
    with lab.edit(lk.circuits.ablate_direction(r, parts=parts)):
        trace = lab.trace([5, 17, 33, 8], keep="residual")
    for layer in range(trace.layers + 1):
        x = trace.residual(layer)
        assert float((x @ r).abs().max()) < 1e-6 * float(x.norm())
    if name == "mamba":
        with pytest.raises(lk.Unavailable, match="attention_output"), lab.edit(lk.circuits.ablate_direction(r)):
            pass


def test_ablation_of_some_layers_leaves_the_others(tiny_lab: lk.Lab) -> None:
    r = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    plain = tiny_lab.trace(POSITIVE[0], keep="residual")
    with tiny_lab.edit(lk.circuits.ablate_direction(5 * r, layers=1, parts=("residual",))):
        trace = tiny_lab.trace(POSITIVE[0], keep="residual")
    torch.testing.assert_close(trace.residual(0), plain.residual(0))
    assert float((trace.residual(1) @ r).abs().max()) < 1e-6
    assert float((trace.residual(2) @ r).abs().max()) > 1e-4


def test_it_holds_while_text_is_generated(tiny_lab: lk.Lab) -> None:
    r = torch.randn(32, generator=torch.Generator().manual_seed(1))
    edit = lk.circuits.ablate_direction(r)
    with tiny_lab.edit(edit):
        made = tiny_lab.generate("the cat", max_new_tokens=6, chat=False)
        ids = made.prompt_ids + made.ids
        logits = tiny_lab.trace(ids, keep="logits").logits
    assert logits[len(made.prompt_ids) - 1 : -1].argmax(-1).tolist() == made.ids


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (((torch.zeros(32),), {}), "no length"),
        (((3,), {}), "takes a Direction"),
        (((torch.ones(32),), {"layers": []}), "layers is empty"),
        (((torch.ones(32),), {"parts": ()}), "parts is empty"),
        (((torch.ones(32),), {"parts": ("mlp",)}), "parts='mlp' can't be used"),
        (((torch.ones(32),), {"layers": 1.5}), "layers=1.5"),
        (((torch.ones(32),), {"layers": -1}), "layers=-1"),  # the last layer, or what leaves it?
    ],
)
def test_what_can_not_be_ablated_is_refused(given: tuple[Any, dict[str, Any]], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.circuits.ablate_direction(*given[0], **given[1])


def test_a_direction_of_another_model_is_refused_and_leaves_nothing(tiny_lab: lk.Lab) -> None:
    assert tiny_lab.anatomy.layers
    before = hooks(tiny_lab.model)
    with (
        pytest.raises(lk.BadInput, match="This direction has 31 numbers"),
        tiny_lab.edit(lk.circuits.ablate_direction(torch.ones(31))),
    ):
        pass
    with (
        pytest.raises(lk.BadInput, match="no layer 7"),
        tiny_lab.edit(lk.circuits.ablate_direction(torch.ones(32), layers=7)),
    ):
        pass
    assert hooks(tiny_lab.model) == before


def test_a_direction_is_told_from_those_of_models_of_the_same_shape(tiny_lab: lk.Lab) -> None:
    direction = lk.circuits.difference_of_means(tiny_lab, POSITIVE, NEGATIVE, 1)
    other = copy.deepcopy(tiny_lab.model)
    same = lk.Lab(copy.deepcopy(other), tiny_lab.tokenizer, name="the same")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(2)
    tuned = lk.Lab(other, tiny_lab.tokenizer, name="tuned")
    edit = lk.circuits.ablate_direction(direction)
    with same.edit(edit):
        pass
    with pytest.raises(lk.BadInput, match="found in tiny, and tuned has other weights in its layers"), tuned.edit(edit):
        pass
    with pytest.raises(lk.BadInput, match="found in tiny, and tuned"):
        lk.circuits.steers(tuned, direction, POSITIVE, lambda logits: logits[-1, 3])
    with tuned.edit(lk.circuits.ablate_direction(direction.vector)):
        pass
    assert hooks(other) == hooks(tiny_lab.model)


def test_a_float64_model_is_projected_in_float64(tiny_lab: lk.Lab) -> None:
    lab = lk.Lab(copy.deepcopy(tiny_lab.model).double(), tiny_lab.tokenizer, name="wide")
    direction = lk.circuits.difference_of_means(lab, POSITIVE, NEGATIVE, 1)
    assert direction.vector.dtype is torch.float64
    means = [
        torch.stack([lab.trace(t, keep="residual").residual(1)[-1] for t in texts]).mean(0)
        for texts in (POSITIVE, NEGATIVE)
    ]
    torch.testing.assert_close(direction.vector, means[0] - means[1], atol=1e-14, rtol=1e-12)
    for given in (direction, direction.vector):
        with lab.edit(lk.circuits.ablate_direction(given)):
            trace = lab.trace(POSITIVE[0], keep="residual")
        assert float((trace.residual(1) @ direction.unit).abs().max()) < 1e-13


def test_an_interrupt_leaves_no_hook(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.circuits import pushing

    assert tiny_lab.anatomy.layers
    before = hooks(tiny_lab.model)

    def interrupt(*_given: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(pushing, "_number", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lk.circuits.steers(tiny_lab, torch.ones(32), POSITIVE, lambda logits: logits[-1, 3], layer=1)
    assert hooks(tiny_lab.model) == before


# what it costs --------------------------------------------------------------------------------------------------------


def test_the_cost_is_the_divergence_by_hand(tiny_lab: lk.Lab) -> None:
    texts = [text.replace("the", "other") for text in POSITIVE]
    edit = lk.circuits.ablate_direction(torch.randn(32, generator=torch.Generator().manual_seed(2)))
    found = lk.circuits.edit_cost(tiny_lab, edit, texts)
    by_hand, same = [], []
    for text in texts:
        plain = tiny_lab.trace(text, keep="logits").logits[:-1].double().log_softmax(-1)
        with tiny_lab.edit(edit):
            changed = tiny_lab.trace(text, keep="logits").logits[:-1].double().log_softmax(-1)
        by_hand += (plain.exp() * (plain - changed)).sum(-1).tolist()
        same += (plain.argmax(-1) == changed.argmax(-1)).tolist()
    assert found.kl == pytest.approx(np.mean(by_hand), rel=1e-4)
    assert found.same == pytest.approx(np.mean(same))
    assert (found.texts, found.tokens) == (6, len(by_hand))
    assert 0 < found.low < found.kl < found.high


def test_an_edit_that_does_nothing_costs_nothing(tiny_lab: lk.Lab) -> None:
    found = lk.circuits.edit_cost(tiny_lab, [lk.patch("residual[1]", lambda x: x)], POSITIVE)
    assert (found.kl, found.same, found.loss) == (0.0, 1.0, 0.0)
    with pytest.raises(lk.BadInput, match="edit_cost takes edits"):
        lk.circuits.edit_cost(tiny_lab, [], POSITIVE)
    with pytest.raises(lk.BadInput, match="edit_cost takes edits"):
        lk.circuits.edit_cost(tiny_lab, [torch.ones(32)], POSITIVE)  # type: ignore[list-item]


def test_of_few_texts_no_interval_is_claimed(tiny_lab: lk.Lab) -> None:
    edit = lk.circuits.ablate_direction(torch.ones(32))
    few, enough = (lk.circuits.edit_cost(tiny_lab, edit, POSITIVE[:count]) for count in (4, 5))
    assert np.isnan([few.low, few.high]).all()
    assert few.kl > 0
    assert enough.low <= enough.kl <= enough.high


def test_a_text_that_occurs_twice_counts_once(tiny_lab: lk.Lab) -> None:
    edit = lk.circuits.ablate_direction(torch.ones(32))
    once, twice = (lk.circuits.edit_cost(tiny_lab, edit, texts) for texts in (POSITIVE, POSITIVE * 3))
    assert (twice.kl, twice.low, twice.high, twice.texts) == (once.kl, once.low, once.high, 6)
    assert twice.notes == ("12 texts stood there before and were left out",)
    assert np.isnan(lk.circuits.edit_cost(tiny_lab, edit, POSITIVE[:1] * 9).low)
    metric, settings = (lambda logits: logits[-1, 3]), {"layer": 1, "random": 3}
    one, two = (
        lk.circuits.steers(tiny_lab, torch.ones(32), prompts, metric, **settings)  # type: ignore[arg-type]
        for prompts in (POSITIVE, POSITIVE * 2)
    )
    assert one.table.equals(two.table)
    assert (one.prompts, two.prompts) == (6, 6)
    assert "6 texts stood there before" in str(two)
    each = [lambda logits, i=i: logits[-1, 3 + i] for i in range(2)]
    own = lk.circuits.steers(tiny_lab, torch.ones(32), POSITIVE[:1] * 2, each, layer=1, random=2)  # type: ignore[arg-type]
    assert own.prompts == 2, "the same text with another metric"
    with pytest.raises(lk.BadInput, match="several different prompts"):
        lk.circuits.steers(tiny_lab, torch.ones(32), POSITIVE[:1] * 4, metric, layer=1)


def test_what_was_cut_is_said(tiny_lab: lk.Lab) -> None:
    found = lk.circuits.edit_cost(tiny_lab, lk.circuits.ablate_direction(torch.ones(32)), [[5] * 200, POSITIVE[0]])
    assert found.notes == ("1 document was cut to the model's context of 128 tokens.",)


def test_messages_are_prompts_and_may_differ_in_who_is_to_speak(tiny_lab: lk.Lab) -> None:
    """A persona: the same questions behind two system prompts, held out question by question."""

    def asked(system: str) -> list[list[dict[str, str]]]:
        return [[{"role": "system", "content": system}, {"role": "user", "content": text}] for text in POSITIVE]

    found = lk.circuits.difference_of_means(
        tiny_lab, asked("a cat"), asked("the dog"), 1, chat=True, pairs=True, shuffles=63
    )
    with_cat = tiny_lab.generate(asked("a cat")[0], max_new_tokens=1).prompt_ids
    assert tiny_lab.tokenizer.decode(with_cat).endswith("assistant\n"), "read where the answer begins"
    first = tiny_lab.trace(with_cat, keep="residual").residual(1)[-1]
    other = tiny_lab.trace(
        tiny_lab.generate(asked("the dog")[0], max_new_tokens=1).prompt_ids, keep="residual"
    ).residual(1)[-1]
    assert float((first - other) @ found.vector) > 0
    assert found.separation == 1.0
