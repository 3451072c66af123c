"""Branches against fresh runs on the same tokens, for models of many kinds, and what they take over."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
import torch
from adapted import adapter_of
from families import ENCODERS, FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.errors import BadInput, LabClosed, Unavailable
from labkit.generation import kept

PROMPT = [5, 17, 33]
TOTAL = 12
SHARING = ("llama3", "mixtral", "gpt2", "bloom", "falcon_grouped", "opt", "deepseek_v3", "granitemoe", "roberta")
NOT_SHARING = ("mamba", "rwkv", "gemma2", "llama_both_ways", "gpt2_in_turns")  # a state, full windows, no cache


def lab_of(family: str) -> lk.Lab:
    return lk.Lab(build((FAMILIES | UNUSUAL | ENCODERS)[family]), Tokens(), name=family)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILIES["llama3"])


@pytest.fixture
def lab(model: Any) -> lk.Lab:
    """A lab around a model that all tests of this file share: none of them changes it."""
    return lk.Lab(model, Tokens(), name="llama3")


def fresh(lab: lk.Lab, branch: lk.Generation, **settings: Any) -> lk.Generation:
    """What the model writes after the prompt and the first tokens of a branch, by a run of its own."""
    assert branch.branched_at is not None
    begun = branch.branched_at + 1
    gen: lk.Generation = lab.generate(branch.prompt_ids + branch.ids[:begun], max_new_tokens=TOTAL - begun, **settings)
    return gen


def own_logprobs(lab: lk.Lab, gen: lk.Generation) -> torch.Tensor:
    """(n,): of the ids of a text in one pass over it."""
    logits = lab.trace(gen.prompt_ids + gen.ids, keep="logits").logits.float().log_softmax(-1)
    places = torch.arange(len(gen.prompt_ids), len(gen.prompt_ids) + len(gen.ids))
    return logits[places - 1, torch.tensor(gen.ids)]


def check(lab: lk.Lab, parent: lk.Generation, at: int, token: int) -> lk.Generation:
    branch = parent.branch(at, token)
    assert branch.ids[: at + 1] == [*parent.ids[:at], token]
    rest = fresh(lab, branch)
    assert branch.ids[at + 1 :] == rest.ids
    assert branch.finish_reason == rest.finish_reason
    assert torch.allclose(branch.logprobs[at + 1 :], rest.logprobs, atol=1e-4)
    assert torch.allclose(branch.entropies[at + 1 :], rest.entropies, atol=1e-4)
    assert torch.equal(branch.logprobs[:at], parent.logprobs[:at])
    assert torch.equal(branch.top_ids[:at], parent.top_ids[:at])
    assert len(branch.tokens) == len(branch.top_tokens) == len(branch.ids) == len(branch.ranks)
    return branch


@pytest.mark.parametrize("family", [*SHARING, *NOT_SHARING])
def test_a_branch_is_what_a_fresh_run_gives(family: str) -> None:
    lab = lab_of(family)
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    at = len(parent.ids) - 3
    least = int(lab.next_logits(parent.prompt_ids + parent.ids[:at]).argmin())  # not among those that are kept
    branch = check(lab, parent, at, least)
    if family != "llama_both_ways":  # of which no pass over the whole gives the chances of a token before its end
        assert torch.allclose(branch.logprobs, own_logprobs(lab, branch), atol=1e-4)
    reuse = branch.reuse
    assert reuse is not None
    if family in SHARING:
        assert (reuse.tokens, reuse.run, reuse.note) == (len(PROMPT) + at - 1, 2, "")
    else:
        assert reuse.tokens == 0
        assert reuse.run == len(PROMPT) + at + 1
        assert "once more" in reuse.note


def test_a_window_shares_until_it_is_full() -> None:
    lab = lab_of("mistral")  # of 8 tokens
    short, long = (lab.generate(PROMPT, max_new_tokens=n) for n in (4, TOTAL))
    inside, outside = short.branch(2, 50), long.branch(2, 50)
    assert inside.reuse is not None
    assert inside.reuse.tokens == len(PROMPT) + 1
    assert outside.reuse is not None
    assert outside.reuse.tokens == 0
    assert "window" in outside.reuse.note
    assert inside.ids == outside.ids[:4]
    check(lab, long, 2, 50)


def test_the_new_token_has_the_numbers_of_the_parents_step(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL, temperature=0.8, top_k=20, seed=4)
    at = 5
    logits = lab.next_logits(parent.prompt_ids + parent.ids[:at])
    order = logits.argsort(descending=True)
    for rank in (3, 50):
        branch = parent.branch(at, int(order[rank]))
        assert branch.logprobs[at].item() == pytest.approx(logits.log_softmax(-1)[order[rank]].item(), abs=1e-4)
        assert branch.ranks[at] == rank
        assert branch.entropies[at].item() == pytest.approx(parent.entropies[at].item(), abs=1e-4)
        assert branch.top_ids[at].tolist() == parent.top_ids[at].tolist()
        drawn = (logits[order[:20]] / 0.8).log_softmax(-1)  # of the rest none could have been drawn
        wanted = drawn[rank].item() if rank < 20 else -torch.inf
        assert branch.sampled_logprobs[at].item() == pytest.approx(wanted, abs=1e-4)
    greedy = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert greedy.branch(at, greedy.ids[at]).sampled_logprobs[at] == 0
    assert greedy.branch(at, (greedy.ids[at] + 1) % 100).sampled_logprobs[at] == -torch.inf


def test_the_same_token_gives_the_same_text(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    for at in (0, 1, TOTAL - 1):
        branch = parent.branch(at, parent.ids[at])
        assert branch.ids == parent.ids
        assert branch.text == parent.text
        assert torch.allclose(branch.logprobs, parent.logprobs, atol=1e-5)
        assert (branch.finish_reason, branch.branched_at, branch.prompt) == ("length", at, parent.prompt)


def test_a_sampled_branch_draws_with_a_seed_of_its_own(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL, temperature=1.5, seed=9)
    branch = parent.branch(4, 7)
    assert branch.ids[5:] == fresh(lab, branch, temperature=1.5, seed=9).ids
    other = parent.branch(4, 7, seed=10, temperature=0.9)
    assert other.ids[5:] == fresh(lab, other, temperature=0.9, seed=10).ids
    assert (other.sampling.seed, other.sampling.temperature) == (10, 0.9)
    assert parent.branch(4, 7, temperature=0).ids[5:] == fresh(lab, branch).ids


def test_a_penalty_counts_the_whole_text(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL, repetition_penalty=1.7)
    branch = parent.branch(6, parent.ids[2])
    rest = fresh(lab, branch, repetition_penalty=1.7)
    assert branch.ids[7:] == rest.ids


def test_branches_of_a_list(lab: lk.Lab) -> None:
    """Rows of a padded batch: their keys and values are taken without the padding."""
    for parent in lab.generate([PROMPT, [9] * 7, [60, 61]], max_new_tokens=TOTAL):
        branch = check(lab, parent, 5, 42)
        assert branch.reuse is not None
        assert branch.reuse.tokens == len(parent.prompt_ids) + 4


def test_a_branch_of_a_branch_and_a_branch_after_the_end(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    branch = parent.branch(8, 42).branch(3, 43)
    assert branch.ids[:4] == [*parent.ids[:3], 43]
    assert branch.reuse is not None
    assert branch.reuse.tokens == len(PROMPT) + 2
    event = threading.Event()
    cut = lab.generate(
        PROMPT, max_new_tokens=TOTAL, on_token=lambda gen: event.set() if len(gen) == 5 else None, stop_event=event
    )
    assert len(cut.ids) == 5
    gone_on = cut.branch(5, parent.ids[5])
    assert gone_on.ids == parent.ids
    assert torch.allclose(gone_on.logprobs, parent.logprobs, atol=1e-5)


def test_an_interrupt_keeps_what_was_written(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    whole = parent.branch(4, 42)
    assert lab.last_generation is whole

    def interrupt(gen: lk.Generation) -> None:
        assert gen.ids[:5] == whole.ids[:5]
        if len(gen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parent.branch(4, 42, on_token=interrupt)
    kept_one = lab.last_generation
    assert (kept_one.ids, kept_one.finish_reason) == (whole.ids[:8], "interrupted")
    assert not lab.model._forward_hooks
    event = threading.Event()
    event.set()
    stopped = parent.branch(4, 42, stop_event=event)
    assert (stopped.ids, stopped.finish_reason) == (whole.ids[:6], "stopped")
    assert kept_one.branch(7, 50).ids[:8] == [*whole.ids[:7], 50]


def test_memory_that_runs_out_before_a_token_leaves_nothing_and_says_so(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)

    def fail(*_: object) -> None:
        raise MemoryError

    handle = lab.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(lk.NotEnoughMemory, match="after 0 tokens of 1 text at once; nothing was generated"):
            parent.branch(4, 42)
    finally:
        handle.remove()
    assert lab.last_generation is parent


def test_what_a_branch_costs(lab: lk.Lab) -> None:
    """One pass of two tokens in place of the prompt and the text so far, then one token a pass."""
    parent = lab.generate(list(range(3, 63)), max_new_tokens=TOTAL)
    parent.branch(6, 42)  # the model is tried once
    widths: list[int] = []
    hook = lab.model.register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    branch = parent.branch(6, 42)
    hook.remove()
    assert widths == [2, *[1] * (len(branch.ids) - 8)]
    assert not lab.model._forward_hooks


def test_the_end_a_stop_string_and_the_limit_at_the_new_token(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL, stop=["t42 t43"])
    ended = parent.branch(3, 2)  # the model's end token
    assert (ended.ids, ended.finish_reason) == ([*parent.ids[:3], 2], "end")
    assert torch.allclose(ended.logprobs, own_logprobs(lab, ended), atol=1e-4)
    with pytest.raises(BadInput, match="no place 4"):
        ended.branch(4, 7)
    once = parent.branch(3, 42)
    stopped = once.branch(4, 43)
    assert (stopped.finish_reason, stopped.ids) == ("stop", [*parent.ids[:3], 42, 43])
    assert stopped.text == lab.tokenizer.decode(parent.ids[:3])
    last = parent.branch(TOTAL - 1, 42)
    assert (last.finish_reason, len(last)) == ("length", TOTAL)
    longer = parent.branch(TOTAL, 42, max_new_tokens=TOTAL + 3)
    assert longer.ids[: TOTAL + 1] == [*parent.ids, 42]
    assert len(longer) == TOTAL + 3


def test_the_parent_is_left_as_it_was(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    before = pickle.dumps(parent)
    first = parent.branch(4, 42)
    parent.branch(2, 43)
    assert pickle.dumps(parent) == before
    assert parent.branch(4, 42).ids == first.ids


def test_a_token_by_its_text(tiny_lab: lk.Lab) -> None:
    parent = tiny_lab.generate("the cat", chat=False, max_new_tokens=6)
    text = parent.top_tokens[3][2]
    assert parent.branch(3, text).ids[3] == parent.top_ids[3][2]
    assert parent.branch(3, " cat").tokens[3] == " cat"
    for token, said in (
        (" cat sat", "written with 2 tokens, ' cat', ' sat'"),
        ("", "no token ''"),
        (10_000, "tokens 0 to"),
        (-1, "tokens"),
    ):
        with pytest.raises(BadInput, match=said):
            parent.branch(3, token)
    for at in (-1, 6, 2.5, "x"):
        with pytest.raises(BadInput, match="places 0 to 5"):
            parent.branch(at, 3)  # type: ignore[arg-type]


def test_settings_that_a_branch_does_not_have(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    for given, said in (
        ({"speed": "fast"}, "leave speed='fast' out"),
        ({"tempature": 1.0}, "did you mean 'temperature'"),
        ({"top_p": 2}, "top_p=2"),
        ({"max_new_tokens": 3}, "places 0 to 2"),
    ):
        with pytest.raises(BadInput, match=said):
            parent.branch(5, 7, **given)


def test_more_alternatives_than_were_kept(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL, alternatives=3)
    wide = parent.branch(5, 42, alternatives=9)
    assert wide.top_ids.shape == (TOTAL, 9)
    assert wide.top_ids[:5, :3].tolist() == parent.top_ids[:5].tolist()
    assert torch.allclose(wide.logprobs[:5], parent.logprobs[:5], atol=1e-4)
    assert parent.branch(5, 42, alternatives=2).top_ids.shape == (TOTAL, 2)


# the model is another ------------------------------------------------------------------------------------------------


def test_with_an_edit_on_all_is_run_by_the_edited_model(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    with lab.edit(lk.ablate_head(0, 1)):
        branch = parent.branch(5, 42)
        assert branch.ids[6:] == fresh(lab, branch).ids
        assert torch.allclose(branch.logprobs, own_logprobs(lab, branch), atol=1e-4)
        inside = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert branch.reuse is not None
    assert "an edit is on" in branch.reuse.note
    outside = inside.branch(5, 42)
    assert torch.allclose(outside.logprobs, own_logprobs(lab, outside), atol=1e-4)
    assert not torch.allclose(outside.logprobs[:5], inside.logprobs[:5], atol=1e-4)


def test_an_adapter_is_gone_on_with_while_it_is_on() -> None:
    lab = lab_of("llama3")
    adapter = adapter_of(lab)
    plain = lab.generate(PROMPT, max_new_tokens=TOTAL)
    with adapter.on():
        tuned = lab.generate(PROMPT, max_new_tokens=TOTAL)
        shared = check(lab, tuned, 5, 42)
        assert shared.reuse == lk.generation.Reuse(len(PROMPT) + 4, 2)
        other = plain.branch(5, 42)
        assert torch.allclose(other.logprobs, own_logprobs(lab, other), atol=1e-4)
        with lab.prefix(PROMPT):
            assert lab.generate(PROMPT, max_new_tokens=TOTAL).ids == tuned.ids
    assert other.reuse is not None
    assert "other adapters" in other.reuse.note
    with adapter.on(0.5):
        again = tuned.branch(5, 42)
        assert torch.allclose(again.logprobs, own_logprobs(lab, again), atol=1e-4)
    assert again.reuse is not None
    assert again.reuse.tokens == 0


@pytest.mark.parametrize("through_data", [False, True])
def test_weights_that_were_changed_since(through_data: bool) -> None:
    lab = lab_of("llama3")
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    weight = next(lab.model.parameters())
    with torch.no_grad():
        (weight.data if through_data else weight).mul_(-1)
    branch = parent.branch(5, 42)
    assert branch.reuse is not None
    assert branch.reuse.tokens == 0
    assert "numbers included" in branch.reuse.note
    assert torch.allclose(branch.logprobs, own_logprobs(lab, branch), atol=1e-4)


def test_another_lab_goes_on(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    other = lab_of("qwen2")
    branch = parent.branch(5, 42, lab=other)
    assert branch.model == "qwen2"
    assert branch.ids[6:] == fresh(other, branch).ids
    assert torch.allclose(branch.logprobs, own_logprobs(other, branch), atol=1e-4)


# what is kept, and for how long ---------------------------------------------------------------------------------------


def test_saved_generations_know_no_model(lab: lk.Lab) -> None:
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    again = pickle.loads(pickle.dumps(parent))
    assert again.ids == parent.ids
    assert again.source is None
    assert repr(again) == repr(parent)
    assert "source" not in repr(parent)
    with pytest.raises(Unavailable, match="lab=lab"):
        again.branch(3, 7)
    with pytest.raises(BadInput, match="max_new_tokens"):
        again.branch(3, 7, lab=lab)
    assert again.branch(3, 7, lab=lab, max_new_tokens=TOTAL).ids == parent.branch(3, 7).ids


def test_a_closed_lab_is_refused_and_freed() -> None:
    lab = lab_of("llama3")
    parent = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert parent.source is not None
    assert parent.source.kept.pasts is not None
    model = weakref.ref(lab.model)
    lab.close()
    gc.collect()
    assert model() is None
    assert parent.source.kept.pasts is None
    with pytest.raises(LabClosed):
        parent.branch(3, 7)
    del lab
    gc.collect()
    with pytest.raises(LabClosed, match="gone"):
        parent.branch(3, 7)


def test_what_is_kept_is_bounded(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    one = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert one.source is not None
    size = one.source.kept.size_bytes
    # 2 layers, keys and values, 2 heads of 8 numbers of 4 bytes; the last token was never run
    assert size == 2 * 2 * 2 * 8 * 4 * (len(PROMPT) + TOTAL - 1)
    gc.collect()
    others = kept.total_bytes() - size
    monkeypatch.setattr(kept, "LIMIT_BYTES", others + 2 * size)
    two, three = (lab.generate(PROMPT, max_new_tokens=TOTAL) for _ in range(2))
    assert kept.total_bytes() <= kept.LIMIT_BYTES
    dropped = one if others == 0 else None
    if dropped is not None:
        branch = dropped.branch(4, 42)
        assert branch.reuse is not None
        assert branch.reuse.tokens == 0
        assert "made room" in branch.reuse.note
        assert torch.equal(branch.logprobs[:4], one.logprobs[:4])
    assert three.branch(4, 42).reuse.tokens > 0  # type: ignore[union-attr]
    monkeypatch.setattr(kept, "LIMIT_BYTES", size - 1)
    large = lab.generate(PROMPT, max_new_tokens=TOTAL)
    assert large.source is not None
    assert large.source.kept.pasts is None
    assert "at most" in large.source.kept.why
    del two
    before = kept.total_bytes()
    del three
    gc.collect()
    assert kept.total_bytes() < before or before == 0


def test_other_ways_to_run_keep_nothing(lab: lk.Lab) -> None:
    drafted = lab.generate(PROMPT, max_new_tokens=TOTAL, speculation="prompt_lookup")
    branch = check(lab, drafted, 5, 42)
    assert branch.reuse is not None
    assert "drafts" in branch.reuse.note
    assert branch.speculation is None


def test_a_form_holds_in_branches(tiny_lab: lk.Lab) -> None:
    parent = tiny_lab.generate("the cat", chat=False, max_new_tokens=12, form=r"[a-z ]{3,30}")
    assert parent.top_allowed is not None
    allowed, refused = (
        next(
            a
            for a, ok in zip(parent.top(20)[4], parent.top_allowed[4].tolist(), strict=True)
            if ok is wanted and a.id != parent.ids[4]
        )
        for wanted in (True, False)
    )
    branch = parent.branch(4, allowed.id)
    assert parent.forbidden is not None
    assert branch.forbidden is not None
    assert branch.top_allowed is not None
    assert torch.equal(branch.forbidden[:4], parent.forbidden[:4])
    assert branch.forbidden[4].item() == pytest.approx(parent.forbidden[4].item(), abs=1e-5)
    assert branch.top_allowed[4].tolist() == parent.top_allowed[4].tolist()
    assert branch.form_complete is True
    with pytest.raises(BadInput, match="its form forbids it"):
        parent.branch(4, refused.id)
    free = parent.branch(4, refused.id, form=None)
    assert free.forbidden is None
    assert free.form is None


@pytest.mark.real_model
def test_a_branch_of_the_default_model(default_lab: lk.Lab) -> None:
    parent = default_lab.generate("Why is the sky blue?", max_new_tokens=TOTAL)
    rare = int(parent.top_ids[5][-1]) + 1
    for token in (parent.top_tokens[5][1], rare):
        branch = parent.branch(5, token)
        rest = fresh(default_lab, branch)
        assert branch.ids[6:] == rest.ids
        assert torch.allclose(branch.logprobs[6:], rest.logprobs, atol=1e-4)
        assert torch.allclose(branch.logprobs, own_logprobs(default_lab, branch), atol=1e-3)
        assert branch.reuse == lk.generation.Reuse(len(parent.prompt_ids) + 4, 2)
