"""Probes: held-out accuracies against scikit-learn by hand, doubles never on both sides, baselines, and a calibrated null."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build
from induction_model import induction_lab
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import labkit as lk
from labkit.circuits.activations import PLACES, groups_of
from labkit.circuits.holding_out import random_state
from labkit.trace.instruments import BY_NAME

FIRST, LAST = 10, 30  # token ids that texts are made of


def random_texts(count: int, length: int = 5, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(FIRST, LAST, (count, length)).tolist()


def parity(texts: list[list[int]], place: int = -1) -> list[int]:
    return [text[place] % 2 for text in texts]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# what is learnt and held out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_accuracy_is_that_of_scikit_learn_on_what_a_trace_holds(tiny_lab: lk.Lab, layer: int) -> None:
    texts = random_texts(40)
    labels = np.array(parity(texts, 1))
    found = lk.circuits.probe(tiny_lab, texts, labels, layer=layer, controls=0, seed=3)
    x = torch.stack([tiny_lab.trace(text, keep="residual").residual(layer)[-1] for text in texts]).double().numpy()
    right = np.zeros(len(texts), bool)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=random_state(3))
    for learnt, held in splitter.split(x, labels, groups_of(texts)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[learnt], labels[learnt])
        right[held] = model.predict(x[held]) == labels[held]
    assert found["accuracy"][0] == pytest.approx(right.mean())
    low, high = lk.circuits.probe(tiny_lab, texts, labels, layer, controls=0, seed=3).table.loc[0, ["low", "high"]]
    assert low < right.mean() < high


def test_all_layers_are_read_in_one_pass_over_the_texts(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.trace import running

    texts = random_texts(30)
    assert tiny_lab.anatomy.layers  # looked at before counting
    running.answers_in_lists(tiny_lab.model)
    seen: list[int] = []
    whole = running.forward
    monkeypatch.setattr(
        running, "forward", lambda model, rows, **more: seen.extend(map(len, rows)) or whole(model, rows, **more)
    )
    found = lk.circuits.probe(tiny_lab, texts, parity(texts), controls=0)
    assert list(found["layer"]) == [0, 1, 2]
    assert len(seen) == len(texts)


def test_a_text_is_never_judged_by_its_own_double(tiny_lab: lk.Lab) -> None:
    rng = np.random.default_rng(1)
    different = random_texts(24, seed=1)
    of = rng.permutation(np.repeat([0, 1], 12))  # labels that nothing but the text itself tells
    texts, labels = different * 6, of.tolist() * 6
    found = lk.circuits.probe(tiny_lab, texts, labels, layer=2, controls=0)
    assert (found.attrs["texts"], found.groups) == (144, 24)
    assert found["accuracy"][0] < 0.8
    apart = lk.circuits.probe(tiny_lab, different, of, layer=2, controls=0)
    width = (found["high"] - found["low"])[0]
    assert width == pytest.approx((apart["high"] - apart["low"])[0], abs=0.1), "144 texts, and 24 pieces of evidence"


def test_texts_of_a_group_are_held_out_together() -> None:
    rows = [[1], [2], [3], [1], [4], [5]]
    assert groups_of(rows).tolist() == groups_of(rows, range(6)).tolist() == [0, 1, 2, 0, 3, 4]
    assert len(set(groups_of([[i] for i in range(6)], ["long " * 100 + str(i) for i in range(6)]))) == 6
    assert len(set(groups_of([[i] for i in range(6)], torch.arange(6) // 2))) == 3
    joined = groups_of(rows, ["a", "b", "b", "c", "c", "d"])
    assert joined[0] == joined[3] == joined[4]  # through the double, and its group
    assert joined[1] == joined[2]
    assert len(set(joined.tolist())) == 3


def test_what_the_model_has_moved_is_read_where_it_stands() -> None:
    """In the copier a token learns in layer 0 which token stands before it, and not earlier."""
    lab = induction_lab()
    rng = np.random.default_rng(0)
    texts = [rng.permutation(40)[:12].tolist() for _ in range(160)]
    found = lk.circuits.probe(lab, texts, parity(texts, -2)).table.set_index("layer")
    assert found.loc[0, "accuracy"] < 0.75
    assert found.loc[1, "accuracy"] > 0.95
    assert found.loc[1, "over_tokens_low"] > 0 > found.loc[0, "over_tokens_low"]


# baselines ------------------------------------------------------------------------------------------------------------


def test_what_a_token_says_by_itself_is_no_merit_of_the_model(tiny_lab: lk.Lab) -> None:
    texts = random_texts(80)
    found = lk.circuits.probe(tiny_lab, texts, parity(texts), layer=0)
    assert found.token.accuracy > 0.95 < found["accuracy"][0]
    assert found["over_tokens_low"][0] <= 0
    assert found.control_by == "token"
    assert found["control"][0] > 0.85, "labels by token can be learnt by heart, which control tasks show"
    assert abs(found["selectivity"][0]) < 0.15
    assert found.chance == pytest.approx(max(np.mean(parity(texts)), 1 - np.mean(parity(texts))))


def test_where_all_texts_end_alike_controls_are_by_text_and_it_says_so(tiny_lab: lk.Lab) -> None:
    texts = [[*text, 9] for text in random_texts(60)]
    found = lk.circuits.probe(tiny_lab, texts, parity(texts, -2), layer=1)
    assert found.control_by == "text"
    assert found.token.accuracy <= found.chance + 1e-9
    assert found["control"][0] < 0.75
    assert "for each text" in repr(found)


def test_no_probe_of_an_untrained_model_beats_the_token_more_often_than_five_percent_say(tiny_lab: lk.Lab) -> None:
    beats = 0
    for seed in range(100):
        torch.manual_seed(seed)
        for weight in tiny_lab.model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
        rng = np.random.default_rng(seed)
        texts = rng.integers(FIRST, LAST, (40, 4)).tolist()
        # half of the time labels are a noisy function of the token, else of nothing
        labels = [int(rng.integers(2)) if seed % 2 or rng.random() < 0.3 else text[-1] % 2 for text in texts]
        found = lk.circuits.probe(tiny_lab, texts, labels, layer=1, controls=0, seed=seed)
        beats += bool(found["over_tokens_low"][0] > 0)
    assert beats <= 10, "P(more than 10 of 100 | 5 %) = 0.01"


# what is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", PLACES)
def test_every_instrument_of_layers_can_be_read(tiny_lab: lk.Lab, at: str) -> None:
    from labkit.circuits.activations import gathered

    lab = lk.Lab(build(FAMILIES["mamba"]), Tokens(), name="mamba") if at == "state" else tiny_lab
    texts = random_texts(6, 4) + random_texts(5, 7, seed=1)
    got = gathered(lab, texts, at, [0, 1], "last").values
    for i, text in enumerate(texts):
        trace = lab.trace(text, keep=BY_NAME[at].keep)
        for layer in (0, 1):
            whole = trace.tensor(at, layer)
            by_token = at == "state" or whole.dim() == 2  # else by head
            last = whole[-1].flatten() if by_token else whole[:, -1].flatten()
            np.testing.assert_allclose(got[layer, i], last.float().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("position", "take"),
    [("last", lambda x: x[-1]), ("mean", lambda x: x[1:].mean(0)), (2, lambda x: x[2]), (-3, lambda x: x[-3])],
)
def test_positions(tiny_lab: lk.Lab, position: Any, take: Callable[[torch.Tensor], torch.Tensor]) -> None:
    from labkit.circuits.activations import gathered

    texts = random_texts(5, 4) + random_texts(5, 6, seed=1)
    got = gathered(tiny_lab, texts, "residual", [1], position).values[0]
    wanted = torch.stack([take(tiny_lab.trace(text, keep="residual").residual(1)) for text in texts])
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_a_prompt_is_read_where_its_answer_would_begin(tiny_lab: lk.Lab) -> None:
    from labkit.circuits.activations import rows_of

    (row,) = rows_of(tiny_lab, ["the cat sat"], "texts", chat=True)
    assert row == tiny_lab.generate("the cat sat", max_new_tokens=1).prompt_ids


def test_edits_in_force_hold(tiny_lab: lk.Lab) -> None:
    texts = random_texts(40)
    with tiny_lab.edit(lk.patch("residual[0]", 0.0)):
        found = lk.circuits.probe(tiny_lab, texts, parity(texts), layer=1, controls=0)
    assert found["accuracy"][0] <= found.chance


# directions -----------------------------------------------------------------------------------------------------------


def test_a_direction_leads_from_one_class_to_the_other(tiny_lab: lk.Lab) -> None:
    texts = random_texts(60)
    found = lk.circuits.probe(tiny_lab, texts, ["odd" if p else "even" for p in parity(texts)], layer=1, controls=0)
    assert found.classes == ("even", "odd")
    x = torch.stack([tiny_lab.trace(text, keep="residual").residual(1)[-1] for text in texts])
    odd = torch.tensor(parity(texts), dtype=torch.bool)
    direction = found.direction()
    along = direction / direction.norm()
    apart = (x[odd].mean(0) - x[~odd].mean(0)) @ along
    assert float(apart) > 0
    assert float(direction.norm()) == pytest.approx(float(apart), rel=1e-4)
    torch.testing.assert_close(found.direction(1, "even"), -direction)
    with tiny_lab.edit(lk.sae.steer(direction, float(direction.norm()), layer=1, tokens="-1")):
        moved = tiny_lab.trace(texts[0], keep="residual").residual(1)[-1]
    torch.testing.assert_close(moved, x[0] + direction, atol=1e-5, rtol=1e-4)


def test_of_several_classes_each_has_a_direction_of_its_own(tiny_lab: lk.Lab) -> None:
    texts = random_texts(90)
    found = lk.circuits.probe(tiny_lab, texts, [text[-1] % 3 for text in texts], layer=0, controls=0)
    assert found.classes == ("0", "1", "2")
    x = torch.stack([tiny_lab.trace(text, keep="residual").residual(0)[-1] for text in texts])
    of = torch.tensor([text[-1] % 3 for text in texts])
    for label in range(3):
        reading = x @ found.direction(label=label)
        assert reading[of == label].mean() > reading[of != label].mean()
    with pytest.raises(lk.BadInput, match="give label, one of 0, 1 or 2"):
        found.direction(0)


def test_steering_is_that_of_the_edit_and_stands_beside_random_pushes(tiny_lab: lk.Lab) -> None:
    texts = random_texts(40)
    found = lk.circuits.probe(tiny_lab, texts, parity(texts), layer=2, controls=0)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[-1, 11] - logits[-1, 12]

    steered = found.steers(tiny_lab, texts[:6], metric, strengths=(1.0, -2.0), random=9)
    before = np.array([float(metric(tiny_lab.trace(text, keep="logits").logits)) for text in texts[:6]])
    assert steered.unsteered == pytest.approx(before.mean(), abs=1e-5)
    direction = found.direction()
    for strength, change in zip(steered["strength"], steered["change"], strict=True):
        with tiny_lab.edit(lk.patch("residual[2] @ 1:", lambda x, s=strength: x + s * direction)):
            after = np.array([float(metric(tiny_lab.trace(text, keep="logits").logits)) for text in texts[:6]])
        assert change == pytest.approx((after - before).mean(), abs=1e-5)
    assert (steered["random_low"] < steered["random_high"]).all()
    assert steered["p"].between(0.1, 1).all()


def test_what_a_direction_does_is_told_from_what_any_push_does(tiny_lab: lk.Lab) -> None:
    unembedding = tiny_lab.model.get_output_embeddings().weight.detach().float()
    direction = 3 * (unembedding[11] - unembedding[12])
    texts = random_texts(6)
    found = lk.circuits.steers(
        tiny_lab, direction, texts, lambda logits: logits[-1, 11] - logits[-1, 12], layer=2, random=99
    )
    assert found["change"][0] > found["random_high"][0] > 0
    assert found["p"][0] == 0.01


# what can't be ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [1] * 40}, "All labels are 1: with one class there is nothing to tell apart"),
        ({"labels": [0, 1] * 10}, "There are 40 texts and 20 labels; give one label for each text"),
        ({"labels": "positive"}, "labels='positive' can't be used; give a list with a label for each text"),
        ({"labels": [float("nan"), 1] * 20}, "nan can't be a label"),
        ({"labels": [None, 1] * 20}, "None can't be a label"),
        ({"labels": [1] * 37 + [0] * 3}, "Class '0' has 3 different texts .* too few"),
        ({"texts": random_texts(1) * 20 + random_texts(20, seed=1), "labels": [1] * 20 + [0] * 20}, "has 1 different text "),
        ({"texts": [], "labels": []}, "There are no texts"),
        ({"texts": "a text"}, "put a single text into one"),
        ({"texts": ["the cat", ""] * 20}, "Text 1 of texts can't be used: There is nothing to trace: the text is empty"),
        ({"layer": 7}, "There is no layer 7: tiny has layers 0 to 2"),
        ({"layer": []}, "There is no layer to read"),
        ({"layer": "all"}, "layer='all' can't be used"),
        ({"at": "logits"}, "at='logits' is nothing that can be read at each layer"),
        ({"position": 9}, "Text 0 has 5 tokens and none at position 9"),
        ({"position": "first"}, "position='first' can't be used"),
        ({"groups": ["a"]}, "There are 40 texts and 1 groups"),
        ({"groups": ["a"] * 40}, "too few to hold some out"),
        ({"C": 0}, "C=0 can't be used"),
        ({"seed": -1}, "seed=-1"),
    ],
)  # fmt: skip
def test_what_can_not_be_probed_is_refused_with_a_sentence(tiny_lab: lk.Lab, change: dict[str, Any], said: str) -> None:
    texts = random_texts(40)
    given: dict[str, Any] = {"texts": texts, "labels": [0, 1] * 20, "layer": 1} | change
    with pytest.raises(lk.BadInput, match=said):
        lk.circuits.probe(tiny_lab, **given)


def test_activations_that_are_no_numbers_are_refused_and_leave_no_hook() -> None:
    model = fuzz.tiny_model().eval()
    lab = lk.Lab(model, fuzz.tiny_tokenizer(), name="tiny")
    assert lab.anatomy.layers
    before = hooks(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[FIRST] = float("nan")
    texts = random_texts(40)
    with pytest.raises(lk.Unavailable, match="The residual of layer 1 holds NaN or infinity on text"):
        lk.circuits.probe(lab, texts, parity(texts), layer=1)
    assert hooks(model) == before


def test_steering_goes_along_the_residual_alone(tiny_lab: lk.Lab) -> None:
    texts = random_texts(30)
    found = lk.circuits.probe(tiny_lab, texts, parity(texts), layer=1, at="mlp_output", controls=0)
    with pytest.raises(lk.Unavailable, match="reads mlp_output"):
        found.steers(tiny_lab, texts, lambda logits: logits[-1, 3])
    residual = lk.circuits.probe(tiny_lab, texts, parity(texts), layer=[0, 1], controls=0)
    with pytest.raises(lk.BadInput, match=r"layer=None was not probed; give one of 0 and 1"):
        residual.direction()
    with pytest.raises(lk.BadInput, match="none of the classes; give 0 or 1"):
        residual.direction(1, "x")
    with pytest.raises(lk.BadInput, match="no finite number"):
        residual.steers(tiny_lab, texts, lambda logits: logits, layer=1)
    with pytest.raises(lk.BadInput, match="Give several different prompts"):
        residual.steers(tiny_lab, texts[:1], lambda logits: logits[-1, 3], layer=1)
    with pytest.raises(lk.BadInput, match="No push changes anything"):
        residual.steers(tiny_lab, [[11], [12]], lambda logits: logits[-1, 3], layer=1, random=2)
