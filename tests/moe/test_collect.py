"""Collecting routes: what is counted is what the model's routers chose, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Family, Tokens, build

import labkit as lk
from labkit.moe.edits import choose, random_router
from labkit.moe.routing import Routing, collect

TEXTS = {
    "low": [[3, 4, 5, 6, 7, 8, 9], [4, 4, 5], [9, 8, 7, 6, 5]],
    "high": [[90, 91, 92, 93, 94, 95], [91], [99, 98, 97, 96, 95, 94, 93, 92, 91]],
}


class WithStart(Tokens):
    all_special_ids = (1, 2)


def lab_of(name: str, tokenizer: Any = None, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    return lk.Lab(
        build(Family(family.model_type, family.fields | fields, family.eager)), tokenizer or Tokens(), name=name
    )


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lab_of("qwen3_moe", num_experts=8)


def every(texts: dict[str, list[list[int]]]) -> list[list[int]]:
    return [document for documents in texts.values() for document in documents]


@pytest.mark.parametrize("batch_tokens", [None, 1, 20])
def test_routes_are_those_of_a_trace_of_each_document_alone(lab: lk.Lab, batch_tokens: int | None) -> None:
    routing = collect(lab, TEXTS, progress=False, batch_tokens=batch_tokens)
    assert routing.kinds == ("low", "high")
    assert routing.kind_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert routing.ids.tolist() == [i for document in every(TEXTS) for i in document]
    assert len(routing) == sum(map(len, every(TEXTS))), "padding is not counted"
    assert routing.experts.dtype == np.uint8
    assert (routing.layers, routing.n_experts, routing.k) == ((0, 1), 8, 2)
    for index, document in enumerate(every(TEXTS)):
        trace = lab.trace(document, keep=("routes", "logits"))
        of = routing.document == index
        assert np.array_equal(routing.experts[of], trace.routes.experts.numpy())
        assert np.allclose(routing.weights[of], trace.routes.weights.numpy(), atol=1e-5)
        assert np.allclose(routing.loss[of], trace.loss.numpy(), atol=1e-4, equal_nan=True)
    assert np.isnan(routing.loss).sum() == len(every(TEXTS)), "only first tokens have no loss"


def test_special_tokens_are_seen_and_not_counted() -> None:
    lab = lab_of("qwen3_moe", WithStart())
    with_start = {"a": [[1, 5, 6, 7], [1, 8, 2, 9]], "b": [[10, 11]]}
    routing = collect(lab, with_start, progress=False, untrained=2)
    assert routing.ids.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert routing.document.tolist() == [0, 0, 0, 1, 1, 2, 2]
    whole = lab.trace([1, 8, 2, 9], keep=("routes", "logits"))
    assert np.array_equal(routing.experts[3:5], whole.routes.experts[[1, 3]].numpy())
    assert routing.untrained is not None
    assert routing.untrained.shape == (2, 7, 2, 2)
    assert not np.isnan(routing.loss[:5]).any(), "the token after the start token is predicted"
    with pytest.raises(lk.BadInput, match="special tokens"):
        collect(lab, {"a": [[1, 2]]}, progress=False)


FAMILIES_OF_RULES = ("qwen3_moe", "mixtral", "olmoe", "granitemoe", "jetmoe", "dbrx")
OF_BIASES_AND_GROUPS = ("gpt_oss", "deepseek_v3", "deepseek_v2", "deepseek_v2_groups")


@pytest.mark.parametrize("name", [*FAMILIES_OF_RULES, *OF_BIASES_AND_GROUPS])
def test_untrained_routers_are_the_edit_of_one_layer(name: str) -> None:
    lab = lab_of(name)
    routing = collect(lab, TEXTS, untrained=3, seed=5, progress=False)
    assert routing.untrained is not None
    assert routing.notes == ()
    for router in range(3):
        for index, layer in enumerate(routing.layers):
            with lab.edit(random_router(5 + router, layer)):  # layers before it, and so its inputs, stay
                edited = collect(lab, TEXTS, progress=False)
            assert np.array_equal(np.sort(routing.untrained[router, :, index]), np.sort(edited.experts[:, index]))


@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3", "granitemoe"])
def test_routers_of_other_kinds(name: str) -> None:
    lab = lab_of(name)
    routing = collect(lab, TEXTS, untrained=1, progress=False)
    trace = lab.trace(TEXTS["high"][2], keep="routes")
    assert np.array_equal(routing.experts[routing.document == 5], trace.routes.experts.numpy())
    assert routing.layers == trace.routes.layers
    assert routing.untrained is not None
    assert routing.untrained.shape == (1, *routing.experts.shape)


def test_a_router_whose_rule_nobody_knows_has_a_note() -> None:
    lab = lab_of("phimoe")
    assert collect(lab, TEXTS, progress=False).notes == ()
    routing = collect(lab, TEXTS, untrained=2, progress=False)
    (note,) = routing.notes
    assert note.startswith("The rule by which layers 0, 1 choose is not known")
    assert routing.untrained is not None
    assert routing.untrained.shape == (2, *routing.experts.shape)


def test_untrained_routers_choose_as_many_as_an_edit_has_the_trained_choose() -> None:
    lab = lab_of("deepseek_v3")
    with lab.edit(choose(2)):
        routing = collect(lab, TEXTS, untrained=1, progress=False)
    assert routing.untrained is not None
    assert routing.untrained.shape[-1] == routing.k == 2
    with lab.edit(choose(2), random_router(0, routing.layers[0])):
        edited = collect(lab, TEXTS, progress=False)
    assert np.array_equal(np.sort(routing.untrained[0, :, 0]), np.sort(edited.experts[:, 0]))


def test_layers_that_choose_different_numbers_are_refused(lab: lk.Lab) -> None:
    with lab.edit(choose(1, layer=1)), pytest.raises(lk.BadInput, match=r"from 1 to 2, .*choose\(2\)"):
        collect(lab, TEXTS, progress=False)


def test_what_is_no_lab_is_refused() -> None:
    with pytest.raises(lk.BadInput, match=r"This takes a Lab, .* and a str is none"):
        collect("x", TEXTS)


def test_untrained_routers_repeat_with_their_seed(lab: lk.Lab) -> None:
    first, again, other = (collect(lab, TEXTS, untrained=2, seed=s, progress=False).untrained for s in (0, 0, 7))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_collecting_leaves_no_hooks_behind(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in lab.model.modules())

    before = hooks()
    collect(lab, TEXTS, untrained=1, progress=False)
    assert hooks() == before

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(lab, TEXTS, untrained=1, progress=False)
    assert hooks() == before


def test_a_long_document_is_cut_and_that_is_said() -> None:
    lab = lab_of("qwen3_moe", max_position_embeddings=8)
    routing = collect(lab, {"a": [list(range(3, 33)), [5, 6]]}, progress=False)
    assert len(routing) == 8 + 2
    assert routing.notes == ("1 document was cut to the model's context of 8 tokens.",)
    assert "cut to the model's context" in repr(routing)


def test_texts_and_their_tokens_are_kept(lab: lk.Lab) -> None:
    routing = collect(lab, {"a": ["t5 t6 t5"]}, progress=False)
    assert routing.ids.tolist() == [5, 6, 5]
    assert routing.tokens == {5: "t5 ", 6: "t6 "}


def test_a_dense_model_is_told_from_a_mixture() -> None:
    with pytest.raises(lk.Unavailable, match=r"no routes to collect: .*lk\.load\(\"labkit-moe\"\)"):
        collect(lab_of("llama2"), TEXTS)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "given by kind"),
        ([[1, 2]], "given by kind"),
        ({"prose": "a text"}, "'prose' is to be a list of documents"),
        ({"prose": []}, "with one at least"),
        ({"prose": [3, 4, 5]}, "put them in a list"),
        ({"prose": ["t3", ""]}, "Document 1 of 'prose'"),
        ({"prose": [[3, -4]]}, "Document 0 of 'prose'"),
        ({"prose": [[3, 4000]]}, "no token 4000"),
    ],
)
def test_texts_that_cannot_be_used(lab: lk.Lab, texts: Any, words: str) -> None:
    with pytest.raises(lk.BadInput, match=words):
        collect(lab, texts, progress=False)


@pytest.mark.parametrize("setting", [{"untrained": -1}, {"untrained": 1.5}, {"batch_tokens": 0}, {"seed": -1}])
def test_settings_that_cannot_be_used(lab: lk.Lab, setting: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput, match=next(iter(setting))):
        collect(lab, TEXTS, progress=False, **setting)


def test_edits_hold_while_collecting(lab: lk.Lab) -> None:
    with lab.edit(random_router(1)):
        edited = collect(lab, TEXTS, progress=False)
    plain = collect(lab, TEXTS, progress=False)
    assert isinstance(edited, Routing)
    assert not np.array_equal(edited.experts, plain.experts)
    assert torch.is_grad_enabled()
