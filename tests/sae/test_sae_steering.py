"""What steering does and costs, against passes made by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from dictionaries import folder, hooks, make_lab
from planted import rows
from scipy.stats import binomtest
from torch.nn.functional import cross_entropy, normalize

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import SAE, Steered, broken, difference, dose, steered

PROMPTS = ["the cat", "the dog ran", "where the tree"]


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    """A tiny model with a tokenizer, whose weights are large enough that a push changes what it writes."""
    model = fuzz.tiny_model().eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return lk.Lab(model, fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> SAE:
    return lk.sae.load(folder(tmp_path_factory.mktemp("sae")))


# a plain direction -----------------------------------------------------------------------------------------------------


def test_the_difference_of_means_by_hand(sae: SAE) -> None:
    lab = make_lab()
    measured = replace(sae, typical_norm=20.0, outlier=1.45)
    present, absent = rows(4, 30), [*rows(3, 50, seed=1), [5]]
    means, left_out = [], 0
    for texts in (present, absent):
        x = torch.cat([lab.trace(row, keep="residual").residual(1)[1:] for row in texts]).double()
        usual = x.norm(dim=-1) <= 29
        left_out += int((~usual).sum())
        means.append(x[usual].mean(0))
    assert left_out > 5
    found = difference(lab, measured, present, absent)
    torch.testing.assert_close(found.double(), means[0] - means[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(difference(lab, measured, absent, present), -found)


@pytest.mark.parametrize(("present", "absent"), [([], [[3, 4]]), ([[3, 4]], [])])
def test_a_difference_needs_both_groups(sae: SAE, present: Any, absent: Any) -> None:
    with pytest.raises(BadInput, match="texts that have the concept and texts that lack it"):
        difference(make_lab(), sae, present, absent)


def test_a_difference_of_nothing_is_refused(sae: SAE) -> None:
    with pytest.raises(BadInput, match="no token to count"):
        difference(make_lab(), sae, [[3], [4]], [[3, 4]])


# broken ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([7] * 8, "the same token"),
        ([1, 2, 3, *[7] * 8], "the same token"),
        ([7] * 7, None),
        ([*[7] * 20, 8], None),  # it got out of it
        ([7, 8] * 4, "the same 2 tokens"),
        ([1, *[7, 8] * 4], "the same 2 tokens"),
        ([8, *[7, 8] * 3], None),  # seven tokens
        ([7, 8, 9] * 3, "the same 3 tokens"),
        ([9, *[7, 8, 9] * 2, 7], None),
        ([8, 9, *[7, 8, 9] * 3, 7], "the same 3 tokens"),  # wherever in the loop it ends
        ([1, 2, 3, 4] * 3, "the same 4 tokens"),
        ([2, 3, 4, *[1, 2, 3, 4] * 2], None),
        ([7, 7, 8] * 3, "the same 3 tokens"),
        ([1, 2, 3, 4, 5] * 5, None),  # longer loops are not looked for
        ([], None),
        ([1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2, 6], None),
        (list(range(50)), None),
    ],
)
def test_loops_of_up_to_four_tokens_are_found(ids: list[int], said: str | None) -> None:
    assert broken(ids) == (said and f"The model broke: it says {said} over and over.")


def test_ordinary_text_is_not_broken(lab: lk.Lab) -> None:
    text = "the cat sat on the mat because it was tired, and the dog ran after the cat and the cat ran up the tree"
    ids = lab.tokenizer(text).input_ids
    assert all(broken(ids[:n]) is None for n in range(len(ids) + 1))


# doses -----------------------------------------------------------------------------------------------------------------


def has_t(text: str) -> bool:
    return "t" in text


@pytest.fixture(scope="module")
def directions(sae: SAE) -> dict[str, Any]:
    drawn = torch.randn(32, generator=torch.Generator().manual_seed(0))
    return {"feature": sae[3], "direction": 7 * torch.ones(32), "random direction": drawn}


@pytest.fixture(scope="module")
def table(lab: lk.Lab, sae: SAE, directions: dict[str, Any]) -> Any:
    asked = {name: what for name, what in directions.items() if name != "random direction"}  # it comes by itself
    return dose(lab, sae, asked, [0, 8.0, -8.0], PROMPTS, has_t, tokens=8, chat=False, progress=False)


def test_a_row_for_each_direction_and_strength(table: Any) -> None:
    assert list(zip(table["direction"], table["strength"], strict=True)) == [
        (name, strength) for name in ("feature", "direction", "random direction") for strength in (0, 8, -8)
    ]
    columns = [
        "direction",
        "strength",
        "share",
        "low",
        "high",
        "loss",
        "loss_low",
        "loss_high",
        "broken",
        "example",
        "prompt",
    ]
    assert list(table.columns) == columns
    assert table.prompts == 3
    assert table.tokens == 8
    assert table.model == "tiny"
    for _, row in table.iterrows():
        assert row["low"] <= row["share"] <= row["high"]
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
        assert 0 <= row["broken"] <= 1


def written(lab: lk.Lab, prompt: str, direction: torch.Tensor | None, tokens: int = 8) -> tuple[list[int], list[int]]:
    """(prompt, what follows), greedily, every pass over the whole text with a push of our own before layer 1."""
    prompt_ids = ids = lab.tokenizer(prompt).input_ids

    def push(_module: Any, args: Any, keywords: Any) -> Any:
        hidden = (args[0] if args else keywords["hidden_states"]).clone()
        hidden[:, 1:] += direction
        return ((hidden, *args[1:]), keywords) if args else (args, keywords | {"hidden_states": hidden})

    handle = None
    if direction is not None:
        handle = lab.model.model.layers[1].register_forward_pre_hook(push, with_kwargs=True)
    try:
        for _ in range(tokens):
            with torch.no_grad():
                ids = [*ids, int(lab.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
            if ids[-1] == lab.tokenizer.eos_token_id:
                break
    finally:
        if handle is not None:
            handle.remove()
    return prompt_ids, ids[len(prompt_ids) :]


def loss_of(lab: lk.Lab, before: Sequence[int], after: Sequence[int]) -> float:
    """Nats a token of what follows, by the model as it is."""
    ids = torch.tensor([[*before, *after]])
    with torch.no_grad():
        logits = lab.model(input_ids=ids, use_cache=False).logits[0].double()
    return float(cross_entropy(logits[len(before) - 1 : -1], ids[0, len(before) :]))


def test_texts_and_losses_are_those_of_passes_by_hand(lab: lk.Lab, table: Any, directions: dict[str, Any]) -> None:
    """The push is along the direction at length 1; the loss is the unsteered model's; a prompt counts as one."""
    examples = set()
    for _, row in table.iterrows():
        what = directions[row["direction"]]
        unit = normalize(what if isinstance(what, torch.Tensor) else what.direction, dim=0)
        push = row["strength"] * unit if row["strength"] else None
        made = [written(lab, prompt, push) for prompt in PROMPTS]
        texts = [lab.tokenizer.decode(after, skip_special_tokens=True) for _, after in made]
        shown = next((i for i, text in enumerate(texts) if has_t(text)), 0)  # the first that has it, else the first
        assert row["example"] == texts[shown]
        assert row["prompt"] == PROMPTS[shown]
        assert row["share"] == pytest.approx(np.mean([has_t(text) for text in texts]))
        assert row["loss"] == pytest.approx(np.mean([loss_of(lab, *each) for each in made]), rel=1e-4)
        assert row["broken"] == pytest.approx(np.mean([broken(after) is not None for _, after in made]))
        examples.add(row["example"])
    assert len(examples) > 3  # pushes change what is written


def test_the_shares_interval_is_wilsons(table: Any) -> None:
    """None of three is not never. Against scipy's."""
    for _, row in table.iterrows():
        known = binomtest(round(3 * row["share"]), 3).proportion_ci(0.95, method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((known.low, known.high), abs=1e-6)
        assert row["high"] - row["low"] > 0.5
        assert row["loss_low"] < row["loss_high"]


def test_the_random_direction_can_be_left_out_or_given(lab: lk.Lab, sae: SAE) -> None:
    settings: dict[str, Any] = {"tokens": 2, "chat": False, "progress": False}
    without = dose(lab, sae, {"feature": sae[3]}, [8.0], PROMPTS, has_t, random=False, **settings)
    assert without["direction"].tolist() == ["feature"]
    own = dose(lab, sae, {"random direction": sae[3]}, [8.0], PROMPTS, has_t, **settings)
    assert own["direction"].tolist() == ["random direction"]
    assert own["example"].tolist() == without["example"].tolist()


SHORTLY: dict[str, Any] = {"tokens": 8, "progress": False}


def test_several_random_directions_are_each_another(lab: lk.Lab, sae: SAE) -> None:
    def asked(directions: dict[str, Any] | None = None, **given: Any) -> Any:
        return dose(lab, sae, directions or {"feature": sae[3]}, [8.0], PROMPTS, has_t, **SHORTLY, **given)

    several = asked(random=3)
    names = ["feature", "random direction", "random direction 2", "random direction 3"]
    assert several["direction"].tolist() == names
    assert len(set(several["loss"])) == 4
    assert asked(random=0)["direction"].tolist() == ["feature"]
    one = asked()
    assert one["direction"].tolist() == names[:2]
    assert one["loss"].tolist() == several["loss"].tolist()[:2]
    assert set(asked(random=3, seed=1)["loss"]).isdisjoint(several["loss"][1:])
    mine = asked({"random direction 2": sae[3]}, random=3)  # a name of one's own stays
    assert sorted(mine["direction"]) == names[1:]
    assert mine.set_index("direction")["loss"]["random direction 2"] == several["loss"][0]


def test_strengths_may_come_one_by_one(lab: lk.Lab, sae: SAE, table: Any, directions: dict[str, Any]) -> None:
    """Those of a generator are there for every direction, not for the first alone."""
    asked = {name: what for name, what in directions.items() if name != "random direction"}
    found = dose(lab, sae, asked, (s for s in (0, 8.0, -8.0)), PROMPTS, has_t, **SHORTLY)
    assert found.to_dict() == table.to_dict()
    others = dose(lab, sae, asked, np.array([0, 8, -8]), PROMPTS, has_t, **SHORTLY)
    assert others.to_dict() == table.to_dict()
    assert all(type(strength) is float for strength in others["strength"])


def test_a_function_makes_the_edit_of_a_strength(lab: lk.Lab, sae: SAE) -> None:
    asked = {"clamp": lambda value: lk.clamp(sae[3], value)}
    found = dose(lab, sae, asked, [0, 30.0], PROMPTS, has_t, random=0, **SHORTLY)
    assert found["example"][0] == dose(lab, sae, {"f": sae[3]}, [0], PROMPTS, has_t, random=0, **SHORTLY)["example"][0]
    with lab.edit(lk.clamp(sae[3], 30.0)):
        wanted = lab.generate(PROMPTS[0], max_new_tokens=8, chat=False).text
    assert found["example"][1] == wanted


def test_the_loss_is_that_of_the_texts_that_did_not_break(
    lab: lk.Lab, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With texts given by hand: none, some and all of them loops, and one that says nothing."""
    loop, plain, other = [40] * 8, [40, 41, 42, 43, 44, 45, 46, 47], [50, 60, 51, 61, 52, 62, 53]
    before = [lab.tokenizer(prompt).input_ids for prompt in PROMPTS]
    written_now: list[list[int]] = []

    def generate(_lab: lk.Lab, prompts: list[str], **_: Any) -> list[Any]:
        return [
            SimpleNamespace(prompt_ids=ids, ids=new, text="t" if new == loop else "o")
            for ids, new in zip(before[: len(prompts)], written_now, strict=True)
        ]

    monkeypatch.setattr(lk.Lab, "generate", generate)

    def row(*texts: list[int]) -> Any:
        written_now[:] = texts
        return dose(lab, sae, {"feature": sae[3]}, [8.0], PROMPTS, has_t, random=0, **SHORTLY).iloc[0]

    losses = {tuple(new): [loss_of(lab, ids, new) for ids in before] for new in (loop, plain, other)}
    assert abs(losses[tuple(loop)][0] - losses[tuple(plain)][1]) > 0.01
    none = row(plain, other, plain)
    assert none["broken"] == 0
    wanted = [losses[tuple(plain)][0], losses[tuple(other)][1], losses[tuple(plain)][2]]
    assert none["loss"] == pytest.approx(np.mean(wanted), rel=1e-4)
    some = row(loop, other, plain)
    assert some["broken"] == pytest.approx(1 / 3)
    assert some["share"] == pytest.approx(1 / 3)  # of all texts, the broken ones too
    assert some["loss"] == pytest.approx(np.mean(wanted[1:]), rel=1e-4)
    assert some["loss_low"] == pytest.approx(min(wanted[1:]), rel=1e-4)
    assert some["loss_high"] == pytest.approx(max(wanted[1:]), rel=1e-4)
    single = row(loop, loop, plain)
    assert single["loss"] == single["loss_low"] == single["loss_high"] == pytest.approx(wanted[2], rel=1e-4)
    for texts in ((loop, loop, loop), (loop, [], loop)):
        found = row(*texts)
        assert found[["loss", "loss_low", "loss_high"]].isna().all()
        assert found["broken"] == pytest.approx(texts.count(loop) / 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strengths": []}, "There is no strength to steer by; give some"),
        ({"strengths": iter(())}, "There is no strength"),
        ({"strengths": ["x"]}, "A strength is to be a number, and 'x' is none"),
        ({"strengths": [8.0, float("nan")]}, "A strength is to be a number, and nan is none"),
        ({"strengths": [8.0, None]}, "A strength is to be a number, and None is none"),
        ({"strengths": [True]}, "A strength is to be a number, and True is none"),
        ({"directions": {}}, "There is no direction to steer along; give them by name"),
        ({"directions": ["feature"]}, "There is no direction to steer along; give them by name"),
        ({"directions": "feature"}, "There is no direction to steer along; give them by name"),
        ({"directions": None}, "There is no direction to steer along; give them by name"),
        ({"directions": {"good": torch.ones(32), "bad": 3}}, "steer takes a feature"),
        ({"directions": {"good": torch.ones(32), "bad": torch.zeros(32)}}, "This direction has no length"),
        ({"directions": {"good": torch.ones(32), "bad": lambda _: 3}}, "to make an edit of a strength, and it made 3"),
        ({"prompts": ["the cat"]}, "several prompts"),
    ],
    ids=lambda value: None if isinstance(value, str) else ", ".join(value),
)
def test_a_dose_is_refused_before_anything_is_written(
    lab: lk.Lab, sae: SAE, given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("generate", "trace"):
        monkeypatch.setattr(lk.Lab, name, lambda *_, **__: pytest.fail("something was written"))
    usual = {"directions": {"feature": sae[3]}, "strengths": [8.0], "prompts": PROMPTS, "concept": has_t}
    with pytest.raises(BadInput, match=said):
        dose(lab, sae, **(usual | given))


def test_what_is_no_autoencoder_is_refused(lab: lk.Lab, sae: SAE) -> None:
    for what, shown in (("x", "'x'"), (3, "3"), (None, "a NoneType"), (sae[3], "a Feature")):
        for call in (
            lambda what=what: dose(lab, what, {"feature": sae[3]}, [8.0], PROMPTS, has_t),
            lambda what=what: difference(lab, what, ["the cat"], ["the dog"]),
            lambda what=what: steered(lab, what),
        ):
            with pytest.raises(
                BadInput, match=rf"This takes an autoencoder, such as lk\.sae\.load\(\), and {shown} is"
            ):
                call()


def test_a_single_prompt_or_text_is_not_read_letter_by_letter(lab: lk.Lab, sae: SAE) -> None:
    with pytest.raises(BadInput, match="prompts are to be a list of texts"):
        dose(lab, sae, {"feature": sae[3]}, [8.0], "the cat", has_t)
    with pytest.raises(BadInput, match="present are to be a list of texts"):
        difference(lab, sae, "the cat", ["the dog"])


def test_strength_zero_is_run_once(
    lab: lk.Lab, sae: SAE, directions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, own = [], lk.Lab.generate

    def counted(self: lk.Lab, *args: Any, **settings: Any) -> Any:
        runs.append(args)
        return own(self, *args, **settings)

    monkeypatch.setattr(lk.Lab, "generate", counted)
    found = dose(lab, sae, directions, [0, 3.0], PROMPTS, has_t, tokens=3, chat=False, progress=False)
    assert len(runs) == 4  # three directions pushed along, and once none
    still = found[found["strength"] == 0].drop(columns="direction")
    assert still.iloc[0].to_dict() == still.iloc[1].to_dict()


def test_a_feature_of_another_layer_is_added_there(lab: lk.Lab, sae: SAE) -> None:
    elsewhere = replace(sae, layer=2 if len(lab.anatomy.layers) > 2 else 0)
    given: dict[str, Any] = {"tokens": 8, "chat": False, "random": False, "progress": False}
    mixed = dose(lab, sae, {"other": elsewhere[3]}, [8.0], PROMPTS, has_t, **given)
    own = dose(lab, elsewhere, {"other": elsewhere[3]}, [8.0], PROMPTS, has_t, **given)
    assert mixed.to_dict() == own.to_dict()
    assert mixed["loss"][0] != dose(lab, sae, {"own": sae[3]}, [8.0], PROMPTS, has_t, **given)["loss"][0]


def test_nothing_is_left_of_it(lab: lk.Lab, sae: SAE, directions: dict[str, Any]) -> None:
    before, installed = lab.trace("the cat sat").logits, hooks(lab.model)
    dose(lab, sae, directions, [4.0], PROMPTS, has_t, tokens=3, chat=False, progress=False)

    def fails(_: str) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dose(lab, sae, directions, [4.0], PROMPTS, fails, tokens=3, chat=False, progress=False)
    assert torch.equal(lab.trace("the cat sat").logits, before)
    assert hooks(lab.model) == installed


def test_what_makes_no_dose_is_refused(lab: lk.Lab, sae: SAE, directions: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="several prompts"):
        dose(lab, sae, directions, [1.0], PROMPTS[:1], has_t)
    with pytest.raises(BadInput, match="no direction"):
        dose(lab, sae, {}, [1.0], PROMPTS, has_t)


# what the view runs ----------------------------------------------------------------------------------------------------


def test_a_continuation_as_it_is_written(lab: lk.Lab, sae: SAE) -> None:
    run = steered(lab, sae, tokens=8, chat=False)
    events = list(run("the cat", {3: 8.0, 5: 0.0, 60: -4.0}, threading.Event()))
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    assert all(event.mean_loss is None and event.note == "" for event in events[:-1])
    for one, two in pairwise(events[:-1]):
        assert two.tokens[: len(one.tokens)] == one.tokens
        assert len(two.tokens) == len(one.tokens) + 1
    push = 8 * sae[3].direction - 4 * sae[60].direction  # features as they are, not at length 1
    before, after = written(lab, "the cat", push)
    assert lab.last_generation.ids == after
    assert events[-1].tokens == tuple(lab.last_generation.tokens)
    assert events[-1].mean_loss == pytest.approx(loss_of(lab, before, after), rel=1e-4)
    assert (events[-1].note == "") == (broken(after) is None)


def test_without_a_push_it_is_the_model_itself(lab: lk.Lab, sae: SAE) -> None:
    run = steered(lab, sae, tokens=6, chat=False)
    for strengths in ({}, {3: 0.0}):
        last = list(run("the dog", strengths, threading.Event()))[-1]
        assert lab.last_generation.ids == written(lab, "the dog", None, 6)[1]
        assert last.mean_loss is not None


def test_it_stops_when_told_and_leaves_the_model_as_it_was(lab: lk.Lab, sae: SAE) -> None:
    before, installed = lab.trace("the cat sat").logits, hooks(lab.model)
    stop = threading.Event()
    found: list[Steered] = []
    for event in steered(lab, sae, tokens=40, chat=False)("the cat", {3: 8.0}, stop):
        found.append(event)
        if len(found) == 2:
            stop.set()
    assert len(found) == 2
    assert not found[-1].done
    assert hooks(lab.model) == installed
    assert torch.equal(lab.trace("the cat sat").logits, before)


def test_it_may_be_dropped_midway(lab: lk.Lab, sae: SAE) -> None:
    before, installed = lab.trace("the cat sat").logits, hooks(lab.model)
    running: Iterator[Steered] = steered(lab, sae, tokens=40, chat=False)("the cat", {3: 8.0}, threading.Event())
    next(running)
    assert isinstance(running, Iterator)
    running.close()  # type: ignore[attr-defined]
    assert hooks(lab.model) == installed
    assert torch.equal(lab.trace("the cat sat").logits, before)


def test_a_loop_is_noted(sae: SAE) -> None:
    """A model that says one token whatever it is given."""
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    with torch.no_grad():
        lab.model.lm_head.weight.zero_()
        lab.model.lm_head.bias = torch.nn.Parameter(torch.zeros(lab.model.lm_head.out_features))
        lab.model.lm_head.bias[lab.tokenizer(" cat").input_ids[0]] = 5
    events = list(steered(lab, sae, tokens=10, chat=False)("the dog", {3: 1.0}, threading.Event()))
    assert events[-1].note == "The model broke: it says the same token over and over."
    assert events[-1].tokens == (" cat",) * 10
    assert events[-1].mean_loss is None  # a loop is easy to predict: it would look cheap
    table = dose(lab, sae, {"feature": sae[3]}, [0, 1.0], PROMPTS, has_t, tokens=10, progress=False)
    assert table["broken"].tolist() == [1.0] * 4
    assert table[["loss", "loss_low", "loss_high"]].isna().all(axis=None)
    assert table["share"].tolist() == [1.0] * 4  # of all texts


def test_a_text_that_did_not_break_has_a_loss_and_no_note(
    lab: lk.Lab, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ids, note in (
        ([40, 41, 42, 43, 44, 45, 46, 47], ""),
        ([40, 41] * 4, "The model broke: it says the same 2 tokens over and over."),
    ):
        made = SimpleNamespace(prompt_ids=lab.tokenizer("the cat").input_ids, ids=ids, tokens=[f"t{i}" for i in ids])
        monkeypatch.setattr(lk.Lab, "stream", lambda *_, made=made, **__: iter(made.tokens))
        monkeypatch.setattr(lab, "last_generation", made)
        last = list(steered(lab, sae)("the cat", {3: 8.0}, threading.Event()))[-1]
        assert last.done
        assert last.note == note
        assert last.tokens == tuple(made.tokens)
        wanted = None if note else pytest.approx(loss_of(lab, made.prompt_ids, ids), rel=1e-4)
        assert last.mean_loss == wanted


@pytest.mark.parametrize(("given", "chat"), [({}, False), ({"chat": True}, True), ({"chat": None}, None)])
def test_prompts_are_written_on_from_unless_told_to_answer(
    lab: lk.Lab, sae: SAE, given: dict[str, Any], chat: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    own = {"generate": lk.Lab.generate, "stream": lk.Lab.stream}

    def heard(name: str) -> Any:
        def call(self: lk.Lab, *args: Any, **settings: Any) -> Any:
            asked.append(settings)
            return own[name](self, *args, **(settings | {"chat": False}))  # this tokenizer knows no chat

        return call

    for name in own:
        monkeypatch.setattr(lk.Lab, name, heard(name))
    dose(lab, sae, {"feature": sae[3]}, [3.0], PROMPTS, has_t, tokens=2, progress=False, **given)
    list(steered(lab, sae, tokens=2, **given)("the cat", {3: 3.0}, threading.Event()))
    assert [each["chat"] for each in asked] == [chat] * 3
    assert [each["max_new_tokens"] for each in asked] == [2] * 3


def test_features_there_are_not_and_models_it_is_not_of(lab: lk.Lab, sae: SAE, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no feature 80"):
        list(steered(lab, sae)("the cat", {80: 1.0}, threading.Event()))
    with pytest.raises(BadInput, match="was trained on another"):
        steered(lab, lk.sae.load(folder(tmp_path, model="another")))
    with pytest.raises(BadInput, match="was trained on another"):
        difference(lab, lk.sae.load(folder(tmp_path, model="another")), ["the cat"], ["the dog"])


def test_what_is_of_another_model_is_refused_before_anything_is_written(
    lab: lk.Lab, sae: SAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_: list[Any] = []
    monkeypatch.setattr(lk.Lab, "generate", lambda *args, **settings: written_.append(args))
    other = lk.sae.load(folder(tmp_path / "other", model="another"))
    for bad in (other[3], lambda value: lk.clamp(other[3], value), torch.ones(48), lambda value: value):
        with pytest.raises(BadInput, match=r"was trained on another|has 48 numbers|is to make an edit"):
            dose(lab, sae, {"own": sae[3], "bad": bad}, [8.0], PROMPTS, has_t, chat=False)
    for random in (-1, 1.5, "x", None):
        with pytest.raises(BadInput, match=r"random=.* can't be used; give a whole number from 0"):
            dose(lab, sae, {"own": sae[3]}, [8.0], PROMPTS, has_t, random=random)  # type: ignore[arg-type]
    assert not written_
