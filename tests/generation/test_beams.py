"""Beam search against transformers' own, and against going through every text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.errors import BadInput, Unavailable

PROMPT = [5, 17, 33]


def lab_of(family: str = "llama3") -> lk.Lab:
    return lk.Lab(build(FAMILIES[family]), Tokens(), name=family)


@pytest.mark.parametrize("family", ["llama3", "gpt2", "mistral", "mamba"])
def test_it_finds_what_transformers_finds(family: str) -> None:
    lab = lab_of(family)
    lab.model.generation_config.eos_token_id = None
    lab.model.config.eos_token_id = None
    tree = lk.generation.beams(lab, PROMPT, 3, max_new_tokens=6)
    with torch.no_grad():
        model: Any = lab.model
        theirs = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=6,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert [tree[name].ids for name in tree] == theirs.sequences[:, 3:].tolist()
    assert torch.allclose(torch.tensor(tree.table["mean_logprob"]).float(), theirs.sequences_scores, atol=1e-4)
    assert tree.names == ["beam 1", "beam 2", "beam 3"]


def test_texts_that_end() -> None:
    lab = lab_of()
    greedy = lab.generate(PROMPT, max_new_tokens=6)
    lab.model.generation_config.eos_token_id = greedy.ids[2]
    tree = lk.generation.beams(lab, PROMPT, 4, max_new_tokens=6, length_penalty=0.0)
    with torch.no_grad():
        model: Any = lab.model
        theirs = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=6,
            do_sample=False,
            length_penalty=0.0,
            pad_token_id=1,  # 0 counts as none there
        )
    ends = [tree[name].finish_reason for name in tree]
    assert "end" in ends
    assert [tree[name].ids for name in tree] == [[id_ for id_ in row if id_ != 1] for row in theirs[:, 3:].tolist()]
    assert tree.table["logprob"].tolist() == sorted(tree.table["logprob"], reverse=True)


def test_wide_enough_it_finds_the_best_of_all() -> None:
    lab = lab_of()
    tree = lk.generation.beams(lab, PROMPT, 100, max_new_tokens=2)
    first = lab.next_logits(PROMPT).log_softmax(-1)
    rows = lab.trace([[*PROMPT, i] for i in range(100)], keep="logits")
    second = torch.stack([trace.logits[-1].float().log_softmax(-1) for trace in rows])
    totals = {(a, b): float(first[a] + second[a, b]) for a, b in itertools.product(range(100), repeat=2) if a != 2}
    best = sorted(totals, key=lambda pair: -totals[pair])[:5]
    found = [tuple(tree[name].ids) for name in tree if len(tree[name].ids) == 2]
    assert found[:5] == best


def test_numbers_and_branches_of_a_beam() -> None:
    lab = lab_of()
    tree = lk.generation.beams(lab, PROMPT, 3, max_new_tokens=6, dropped=True)
    for name in tree:
        gen = tree[name]
        logits = lab.trace(gen.prompt_ids + gen.ids, keep="logits").logits.float().log_softmax(-1)
        own = logits[torch.arange(2, 2 + len(gen.ids)), torch.tensor(gen.ids)]
        assert torch.allclose(gen.logprobs, own, atol=1e-4)
        assert gen.top_ids[0].tolist() == logits[2].topk(20).indices.tolist()
    assert sum(name.startswith("beam") for name in tree) == 3
    assert any(name.startswith("dropped") for name in tree)
    assert len(tree.nodes) < sum(len(path) for path in tree.paths.values()), "what texts share is held once"
    branch = tree.branch(3, 42, of="beam 2")
    assert branch.reuse is not None
    assert branch.reuse.tokens == len(PROMPT) + 2
    assert branch.ids[4:] == lab.generate(PROMPT + branch.ids[:4], max_new_tokens=2).ids
    one = lk.generation.beams(lab, PROMPT, 1, max_new_tokens=6)
    assert one["beam 1"].ids == lab.generate(PROMPT, max_new_tokens=6).ids
    with pytest.raises(BadInput, match="width"):
        lk.generation.beams(lab, PROMPT, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_what_was_found_is_kept_when_it_is_cut_short(error: type[BaseException]) -> None:
    lab = lab_of()
    whole = lk.generation.beams(lab, PROMPT, 2, max_new_tokens=4)
    lk.generation.beams(lab, PROMPT, 2, max_new_tokens=2)
    steps = 0

    def fail(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps > 4:
            raise error

    handle = lab.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(lk.NotEnoughMemory if error is MemoryError else error) as caught:
            lk.generation.beams(lab, PROMPT, 2, max_new_tokens=9)
    finally:
        handle.remove()
    if error is MemoryError:
        assert "after 4 tokens of 2 texts" in str(caught.value)
    left = lab.last_generation
    assert [one.ids for one in left] == [whole[name].ids for name in whole]
    reason = "interrupted" if error is KeyboardInterrupt else "stopped"
    assert [one.finish_reason for one in left] == [reason] * 2
    assert torch.allclose(left[0].logprobs, whole["beam 1"].logprobs, atol=1e-5)
    assert left[0].branch(1, 7, max_new_tokens=4).ids[:2] == [left[0].ids[0], 7]


def test_scores_that_are_nan_are_no_ranking() -> None:
    lab = lab_of()
    gen = lab.generate(PROMPT, max_new_tokens=3)
    with torch.no_grad():
        next(lab.model.parameters())[PROMPT[0]] = float("nan")
    with pytest.raises(Unavailable, match="NaN at token 1"):
        lk.generation.beams(lab, PROMPT, 2)
    with pytest.raises(Unavailable, match="NaN at token 2"):
        gen.distribution(1)
