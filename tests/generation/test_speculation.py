"""Speculation: the text is the model's own, the record is of the tokens kept, the distribution is that of plain sampling."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any

import fuzz
import pytest
import torch
from families import FAMILIES, Tokens, build
from scipy import stats

import labkit as lk
from labkit.generation import speculating
from labkit.generation.speculation import Draft, Speculation, as_draft
from labkit.trace import running

LONG = 24
TEXT = "t5 t17 t33 t8 t91 t42 t17 t33"
# a window of 8 tokens, softcaps, positions told otherwise, a mixture, sinks, latent attention
SOME = ("llama3", "mistral", "gemma2", "gpt2", "bloom", "mixtral", "gpt_oss", "deepseek_v3")
KINDS = ("prompt_lookup", "small model", "early exit")


def near(model: Any, noise: float = 0.02) -> Any:
    """A model that is often of the same mind."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return other


def draft_of(kind: str, lab: lk.Lab, tokens: int = 4) -> Draft:
    if kind == "prompt_lookup":
        return Draft("prompt_lookup", tokens=tokens, ngram=1)
    if kind == "early exit":
        return Draft(early_exit=1, tokens=tokens, confidence=0.0)
    return Draft(lk.Lab(near(lab.model), lab.tokenizer, name="small"), tokens=tokens, confidence=0.0)


def plain_pass(lab: lk.Lab, gen: lk.Generation) -> torch.Tensor:
    """(n, vocabulary): the logits before each generated token, of one pass over the finished text."""
    with torch.no_grad():
        ids = torch.tensor([gen.prompt_ids + gen.ids])
        logits: torch.Tensor = lab.model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(gen.prompt_ids) - 1 : -1].double()


def check_record(lab: lk.Lab, gen: lk.Generation) -> None:
    """All that is told of the kept tokens, against a plain pass; and what became of the drafts, against the text."""
    own = plain_pass(lab, gen).log_softmax(-1)
    chosen = own[torch.arange(len(gen.ids)), torch.tensor(gen.ids)]
    torch.testing.assert_close(gen.logprobs.double(), chosen, atol=1e-4, rtol=0)
    torch.testing.assert_close(gen.entropies.double(), -(own.exp() * own).sum(-1), atol=1e-4, rtol=0)
    at_least, at_most = ((own > chosen[:, None] + off).sum(-1) for off in (1e-4, -1e-4))
    assert bool(((at_least <= gen.ranks) & (gen.ranks < at_most)).all())
    best = own.topk(gen.top_ids.shape[-1])
    torch.testing.assert_close(gen.top_logprobs.double(), best.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(own.gather(-1, gen.top_ids), best.values, atol=1e-4, rtol=0)
    assert gen.prefill_seconds > 0
    assert gen.decode_seconds > 0
    said = gen.speculation
    assert said is not None
    assert len(said.drafted) == len(gen.ids)
    assert sum(one.kept for one in said.rounds) == len(gen.ids) - 1
    assert sum(said.drafted) <= said.accepted <= said.proposed
    place = 1
    for one in said.rounds:
        accepted = min(one.accepted, one.kept)
        assert list(one.proposed[:accepted]) == gen.ids[place : place + accepted]
        if one.kept > accepted and accepted < len(one.proposed):
            assert gen.ids[place + accepted] != one.proposed[accepted], "it was not accepted"
        assert one.verify_seconds > 0
        place += one.kept


@pytest.mark.parametrize("family", SOME)
def test_greedy_text_is_the_same_and_the_record_true(family: str) -> None:
    lab = lk.Lab(build(FAMILIES[family]), Tokens(), name=family)
    plain = lab.generate(TEXT, max_new_tokens=LONG)
    for kind in KINDS:
        gen = lab.generate(TEXT, max_new_tokens=LONG, speculation=draft_of(kind, lab))
        assert gen.ids == plain.ids, kind
        assert gen.text == plain.text
        assert gen.finish_reason == plain.finish_reason
        assert gen.sampled_logprobs.tolist() == [0.0] * len(gen.ids)
        check_record(lab, gen)
        assert gen.speculation is not None
        assert gen.speculation.proposed, f"{kind} proposed nothing: the test tests nothing"
        if kind == "small model":
            assert gen.speculation.accepted > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_of_a_sampled_text_is_true(tiny_lab: lk.Lab, kind: str) -> None:
    settings: dict[str, Any] = {"temperature": 0.7, "top_k": 12, "top_p": 0.8, "repetition_penalty": 1.2, "seed": 5}
    gen = tiny_lab.generate(
        "abc abc abc", chat=False, max_new_tokens=LONG, speculation=draft_of(kind, tiny_lab), **settings
    )
    check_record(tiny_lab, gen)
    for position, logits in enumerate(plain_pass(tiny_lab, gen)):
        scores = logits.clone()
        seen = torch.tensor(sorted({*gen.prompt_ids, *gen.ids[:position]}))
        scores[seen] = torch.where(scores[seen] < 0, scores[seen] * 1.2, scores[seen] / 1.2)
        scores /= 0.7
        scores[scores < scores.topk(12).values[-1]] = -torch.inf
        p, order = scores.softmax(-1).sort(descending=True)
        kept = order[: int((p.cumsum(-1) < 0.8).sum()) + 1]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[kept] = scores[kept]
        expected = float(allowed.log_softmax(-1)[gen.ids[position]])
        assert gen.sampled_logprobs[position].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("penalty", [None, 1.4])
def test_greedy_with_a_penalty_is_the_same(tiny_lab: lk.Lab, penalty: float | None) -> None:
    options: Any = {"chat": False, "max_new_tokens": LONG, "repetition_penalty": penalty}
    plain = tiny_lab.generate("abc abc abc", **options)
    for kind in KINDS:
        assert tiny_lab.generate("abc abc abc", **options, speculation=draft_of(kind, tiny_lab)).ids == plain.ids


def test_top_k_one_and_min_p_one_are_greedy(tiny_lab: lk.Lab) -> None:
    greedy = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    for setting in ({"top_k": 1}, {"min_p": 1.0}):
        for kind in KINDS:
            spec = draft_of(kind, tiny_lab)
            options: Any = {"chat": False, "max_new_tokens": LONG, "temperature": 2.0, "seed": 0, **setting}
            assert tiny_lab.generate("abc", **options, speculation=spec).ids == greedy.ids


# the distribution -----------------------------------------------------------------------------------------------------

STATES = 6
DRAWN = 4_000


class Chain:
    """Reads like `running.Reader`, of a first-order Markov chain: the logits hang on the last token alone."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def read(self, ids: Sequence[int], *, last: int = 1) -> torch.Tensor:
        return self.logits[torch.tensor(ids[-last:])]


def counted(monkeypatch: pytest.MonkeyPatch, drafter: str, *, seed: int = 0) -> float:
    """The p-value that transitions of a long sampled text are those of plain sampling (chi-squared over all states)."""
    generator = torch.Generator().manual_seed(3)
    target = 1.5 * torch.randn(STATES, STATES, generator=generator)
    other = target + 1.0 * torch.randn(STATES, STATES, generator=generator)

    @contextlib.contextmanager
    def drafting(*args: Any) -> Any:
        draw, filters = args[5], args[6]
        if drafter == "looks up":
            yield speculating._LookUp(3, ())
            return
        model = speculating._Model.__new__(speculating._Model)
        model.logits, model.draw, model.filters = (lambda ids: Chain(other).read(ids)[0]), draw, filters
        model.confidence, model.length, model.ends, model.rows = 0.35, 10**9, frozenset(), STATES
        yield model

    monkeypatch.setattr(running, "reader", lambda _model, _length: Chain(target))
    monkeypatch.setattr(speculating, "_drafter", drafting)
    monkeypatch.setattr(speculating, "is_edited", lambda _model: False)
    text: list[int] = []

    def recorded(ids: torch.Tensor) -> bool:
        text[:] = ids[0].tolist()
        return len(text) > DRAWN

    def filters(_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        return scores / 0.8

    none: Any = None
    speculating.speculate(
        none,
        none,
        [0],
        Draft("prompt_lookup", tokens=3),
        room=DRAWN + 1,
        seed=seed,
        processors=lambda _padding: filters,  # type: ignore[arg-type, return-value] # a stand-in
        filters=filters,
        recorded=recorded,
        on_round=lambda _round: None,
        ends=(),
    )
    counts = torch.zeros(STATES, STATES, dtype=torch.float64)
    for one, after in itertools.pairwise(text):
        counts[one, after] += 1
    expected = (target.double() / 0.8).softmax(-1) * counts.sum(-1, keepdim=True)
    enough = expected > 5
    statistic = float(((counts - expected) ** 2 / expected)[enough].sum())
    return float(stats.chi2.sf(statistic, int(enough.sum()) - STATES))


@pytest.mark.parametrize("drafter", ["draws", "looks up"])
def test_the_sampled_distribution_is_that_of_plain_sampling(monkeypatch: pytest.MonkeyPatch, drafter: str) -> None:
    assert counted(monkeypatch, drafter) > 0.001


def _accepts_all(self: Any, scores: torch.Tensor, drafted: int, chances: Any) -> tuple[int, bool]:
    return drafted, True


def _draws_the_rest_from_p(self: Any, scores: torch.Tensor, drafted: int, chances: Any) -> tuple[int, bool]:
    """No residual: a rejected token is replaced by a fresh draw."""
    p = speculating.chances_of(scores)
    q = 1.0 if chances is None else float(chances[drafted])
    if float(torch.rand((), generator=self.generator, dtype=torch.float64)) * q < float(p[drafted]):
        return drafted, True
    return self._drawn(p), False


@pytest.mark.parametrize("drafter", ["draws", "looks up"])
@pytest.mark.parametrize("rule", [_accepts_all, _draws_the_rest_from_p])
def test_a_broken_rule_would_be_seen(monkeypatch: pytest.MonkeyPatch, drafter: str, rule: Any) -> None:
    monkeypatch.setattr(speculating._Draw, "judged", rule)
    assert counted(monkeypatch, drafter) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_a_model_come_as_often_as_they_should(kind: str) -> None:
    """Three tokens, two choices each, drafted with another mind: 200 texts against their exact probabilities."""
    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")
    draft = Draft(lk.Lab(near(lab.model, 0.1), lab.tokenizer), confidence=0.0) if kind == "small model" else None
    draft = draft or draft_of(kind, lab)
    options: Any = {"max_new_tokens": 3, "temperature": 2.0, "top_k": 2, "alternatives": 2}
    found: dict[tuple[int, ...], int] = {}
    chance: dict[tuple[int, ...], float] = {}
    for seed in range(200):
        gen = lab.generate(TEXT, **options, seed=seed, speculation=draft)
        text = tuple(gen.ids)
        found[text] = found.get(text, 0) + 1
        chance[text] = math.exp(float(gen.sampled_logprobs.sum()))
    assert sum(chance.values()) == pytest.approx(1.0, abs=0.05)
    seen, expected = [found[t] for t in found], [200 * chance[t] / sum(chance.values()) for t in found]
    assert stats.chisquare(seen, expected).pvalue > 0.001


def test_a_seed_repeats_the_text_and_leaves_the_random_state_alone(tiny_lab: lk.Lab) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    options: Any = {"chat": False, "temperature": 1.5, "max_new_tokens": LONG}
    for kind in KINDS:
        spec = draft_of(kind, tiny_lab)
        first = tiny_lab.generate("abc", **options, seed=7, speculation=spec)
        assert tiny_lab.generate("abc", **options, seed=7, speculation=spec).ids == first.ids
        assert tiny_lab.generate("abc", **options, seed=8, speculation=spec).ids != first.ids
        unseeded = tiny_lab.generate("abc", **options, speculation=spec)
        assert unseeded.sampling.seed is not None
    assert torch.equal(torch.get_rng_state(), before)


# where the text ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_ends_where_the_plain_one_does(tiny_lab: lk.Lab, kind: str) -> None:
    """At a stop string and at the end token within an accepted draft, at the token limit, where the context is full."""
    full = tiny_lab.generate("abc abc", chat=False, max_new_tokens=LONG)
    spec = draft_of(kind, tiny_lab, 7)
    for n in (1, 2, 3, 10, 11):
        gen = tiny_lab.generate("abc abc", chat=False, max_new_tokens=n, speculation=spec)
        assert gen.ids == full.ids[:n]
        assert gen.speculation is not None
        begins = itertools.accumulate((one.kept for one in gen.speculation.rounds), initial=1)
        for place, one in zip(begins, gen.speculation.rounds, strict=False):
            assert place + len(one.proposed) + 1 <= n, "nothing is drafted beyond the end"
    for at in (3, 6, 9):
        stop = full.text[at : at + 2]
        plain = tiny_lab.generate("abc abc", chat=False, max_new_tokens=LONG, stop=stop)
        gen = tiny_lab.generate("abc abc", chat=False, max_new_tokens=LONG, stop=stop, speculation=spec)
        assert (gen.ids, gen.text, gen.finish_reason) == (plain.ids, plain.text, "stop")
        check_record(tiny_lab, gen)
        streamed = tiny_lab.stream("abc abc", chat=False, max_new_tokens=LONG, stop=stop, speculation=spec)
        assert "".join(streamed) == plain.text
    ids = tiny_lab.tokenizer("a b " * fuzz.CONTEXT).input_ids[: fuzz.CONTEXT - 9]
    gen = tiny_lab.generate(ids, max_new_tokens=50, speculation=spec)
    assert gen.ids == tiny_lab.generate(ids, max_new_tokens=50).ids
    assert (gen.finish_reason, len(gen.ids)) == ("context", 9)
    tiny_lab.model.generation_config.eos_token_id = full.ids[5]
    plain = tiny_lab.generate("abc abc", chat=False, max_new_tokens=LONG)
    gen = tiny_lab.generate("abc abc", chat=False, max_new_tokens=LONG, speculation=spec)
    assert (gen.ids, gen.text, gen.finish_reason) == (plain.ids, plain.text, "end")


def test_a_run_is_stopped_and_interrupted_within_a_round(tiny_lab: lk.Lab) -> None:
    full = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    own = Draft(tiny_lab, tokens=8, confidence=0.0)  # it accepts all of its own
    event = threading.Event()
    gen = tiny_lab.generate(
        "abc",
        chat=False,
        max_new_tokens=LONG,
        speculation=own,
        on_token=lambda g: event.set() if len(g.ids) == 5 else None,
        stop_event=event,
    )
    assert (gen.finish_reason, gen.ids) == ("stopped", full.ids[:5])
    check_record(tiny_lab, gen)

    def interrupt(g: lk.Generation) -> None:
        if len(g.ids) == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speculation=own, on_token=interrupt)
    kept = tiny_lab.last_generation
    assert (kept.finish_reason, kept.ids) == ("interrupted", full.ids[:14])
    assert len(kept.logprobs) == 14
    check_record(tiny_lab, kept)
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speculation=own).ids == full.ids


def test_a_list_is_speculated_on_one_by_one(tiny_lab: lk.Lab) -> None:
    texts = ["abc", "a", "hello there, a longer text"]
    plain = tiny_lab.generate(texts, chat=False, max_new_tokens=LONG)
    made = tiny_lab.generate(texts, chat=False, max_new_tokens=LONG, speculation=draft_of("early exit", tiny_lab))
    assert [g.ids for g in made] == [g.ids for g in plain]
    for gen in made:
        check_record(tiny_lab, gen)


def test_nan_is_said(tiny_lab: lk.Lab) -> None:
    with torch.no_grad():
        tiny_lab.model.lm_head.weight[3].fill_(float("nan"))
    for kind in ("prompt_lookup", "early exit"):
        with pytest.raises(lk.Unavailable, match=r"NaN at token 1"):
            tiny_lab.generate("abc", chat=False, speculation=draft_of(kind, tiny_lab), temperature=1.0)


# the record -----------------------------------------------------------------------------------------------------------


def test_perfect_drafts_reach_the_bound(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=21, speculation=Draft(tiny_lab, tokens=4, confidence=0.0))
    said = gen.speculation
    assert said is not None
    assert said.acceptance == 1.0
    assert said.tokens_per_pass == said.perfect_tokens_per_pass == 5.0
    assert len(said.rounds) == 4
    assert said.drafted == [False] + ([True] * 4 + [False]) * 4
    assert said.tokens_per_second == pytest.approx(said.perfect_tokens_per_second)
    assert said.table["kept"].tolist() == [5] * 4
    assert list(said.table.columns) == ["proposed", "accepted", "kept", "draft_seconds", "verify_seconds"]
    assert "16 of 16 drafted tokens accepted, 5.00 tokens a pass (at most 5.00)" in str(said)
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=2).speculation is None


def test_a_run_without_a_round(tiny_lab: lk.Lab) -> None:
    said = tiny_lab.generate("abc", chat=False, max_new_tokens=1, speculation="prompt_lookup").speculation
    assert said is not None
    assert (said.rounds, said.drafted) == ((), [False])
    assert all(math.isnan(x) for x in (said.acceptance, said.tokens_per_pass, said.tokens_per_second))
    assert len(said.table) == 0
    assert isinstance(str(said), str)


def test_looking_up_goes_on_as_the_latest_place_went_on() -> None:
    look_up = speculating._LookUp(3, ends=(9,))
    assert look_up([1, 2, 3, 4], 5).ids == []
    assert look_up([1, 2, 3, 4, 2, 3], 5).ids == [4, 2, 3]
    assert look_up([1, 2, 3, 4, 2, 3, 5, 2, 3], 2).ids == [5, 2]
    assert look_up([1, 2, 3, 4, 2, 3, 5, 2, 3, 9, 2, 3], 4).ids == [9], "nothing follows an end"
    assert look_up([1, 2, 3, 4, 2, 3, 5, 2, 3, 9, 2, 3, 4], 1).ids == [2], "three in common are better than two"


# what drafts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [60, 140])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_small_model_of_more_or_fewer_rows(rows: int, temperature: float) -> None:
    from families import Family

    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")
    llama = FAMILIES["llama3"]
    small = lk.Lab(build(Family("llama", llama.fields | {"vocab_size": rows})), lab.tokenizer, name="other rows")
    options: Any = {"max_new_tokens": LONG, "temperature": temperature, "seed": 2 if temperature else None}
    gen = lab.generate("t5 t17 t33 t8", **options, speculation=Draft(small, confidence=0.0))
    check_record(lab, gen)
    if not temperature:
        assert gen.ids == lab.generate("t5 t17 t33 t8", max_new_tokens=LONG).ids


def other_tokenizer() -> tuple[Any, list[int]]:
    """The tiny tokenizer with its ids the other way round, and without merges; and where each id of the first stands."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ours = fuzz.tiny_tokenizer().get_vocab()
    theirs = {token: len(ours) - 1 - id_ for token, id_ in ours.items()}
    backend = Tokenizer(models.BPE(vocab=theirs, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend), [len(ours) - 1 - i for i in range(len(ours))]


def test_a_model_of_other_tokens_drafts_by_way_of_the_text(tiny_lab: lk.Lab) -> None:
    """The same model with its rows the other way round reads what the first reads where no token is merged."""
    tokenizer, places = other_tokenizer()
    turned = copy.deepcopy(tiny_lab.model)
    with torch.no_grad():
        for table in (turned.model.embed_tokens.weight, turned.lm_head.weight):
            table[: len(places)] = table[: len(places)].clone()[torch.tensor(places)]
    other = lk.Lab(turned, tokenizer, name="turned round")
    prompt = "q z x"
    plain = tiny_lab.generate(prompt, chat=False, max_new_tokens=LONG)
    gen = tiny_lab.generate(prompt, chat=False, max_new_tokens=LONG, speculation=Draft(other, confidence=0.0))
    assert gen.ids == plain.ids
    check_record(tiny_lab, gen)
    assert gen.speculation is not None
    assert gen.speculation.accepted > 0
    sampled = tiny_lab.generate(
        prompt, chat=False, max_new_tokens=LONG, temperature=0.8, seed=1, speculation=Draft(other, confidence=0.0)
    )
    check_record(tiny_lab, sampled)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_form_holds_and_is_recorded(tiny_lab: lk.Lab, temperature: float) -> None:
    """The form's masks see the kept tokens only, each once; drafts know nothing of it."""
    options: Any = {"chat": False, "form": ["the cat", "the other dog"], "temperature": temperature, "seed": 3}
    plain = tiny_lab.generate("abc abc", **options)
    for kind in KINDS:
        gen = tiny_lab.generate("abc abc", **options, speculation=draft_of(kind, tiny_lab))
        assert gen.text in options["form"]
        check_record(tiny_lab, gen)
        assert gen.forbidden is not None
        assert len(gen.forbidden) == len(gen.ids)
        if not temperature:
            assert (gen.ids, gen.finish_reason) == (plain.ids, plain.finish_reason)
            torch.testing.assert_close(gen.forbidden, plain.forbidden, atol=1e-5, rtol=0)


def test_a_speculated_text_branches_like_a_plain_one(tiny_lab: lk.Lab) -> None:
    plain = tiny_lab.generate("abc abc", chat=False, max_new_tokens=8)
    gen = tiny_lab.generate("abc abc", chat=False, max_new_tokens=8, speculation="prompt_lookup")
    token = plain.top(3)[4][2].id
    assert gen.branch(at=4, token=token).ids == plain.branch(at=4, token=token).ids


def test_an_adapter_on_the_model_is_part_of_it(tiny_lab: lk.Lab) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    lab = lk.Lab(peft.get_peft_model(tiny_lab.model, config).eval(), tiny_lab.tokenizer, name="adapted")
    plain = lab.generate("abc abc", chat=False, max_new_tokens=LONG)
    for kind in ("prompt_lookup", "early exit"):
        gen = lab.generate("abc abc", chat=False, max_new_tokens=LONG, speculation=draft_of(kind, lab))
        assert gen.ids == plain.ids
        check_record(lab, gen)
    tuned = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    virtual = lk.Lab(peft.get_peft_model(fuzz.tiny_model().eval(), tuned).eval(), tiny_lab.tokenizer, name="virtual")
    with pytest.raises(lk.Unavailable, match="trained vectors stand before its texts"):
        virtual.generate("abc", chat=False, speculation="prompt_lookup")


def test_in_16_bits_texts_part_at_near_ties_only() -> None:
    """A pass of several tokens rounds otherwise than one of a single token; where that shows, the margin says so."""
    for name in ("llama3", "gpt2"):
        lab = lk.Lab(build(FAMILIES[name]).bfloat16(), Tokens(), name=name)
        plain = lab.generate(TEXT, max_new_tokens=LONG)
        for kind in KINDS:
            gen = lab.generate(TEXT, max_new_tokens=LONG, speculation=draft_of(kind, lab))
            part = lk.generation.first_difference(plain, gen)
            assert part is None or part.is_near_tie
            own = plain_pass(lab, gen).log_softmax(-1)
            chosen = own[torch.arange(len(gen.ids)), torch.tensor(gen.ids)]
            torch.testing.assert_close(gen.logprobs.double(), chosen, atol=0.25, rtol=0)


def test_hooks_are_gone_and_the_model_is_as_it_was(tiny_lab: lk.Lab) -> None:
    model = tiny_lab.model.train()
    layer = model.model.layers[1]
    for kind in KINDS:
        tiny_lab.generate("abc", chat=False, max_new_tokens=6, speculation=draft_of(kind, tiny_lab))
    assert model.training
    assert (len(layer._forward_hooks), len(layer._forward_pre_hooks)) == (0, 0)


# bad input ------------------------------------------------------------------------------------------------------------


def test_what_can_not_be_speculated_on_is_refused(tiny_lab: lk.Lab) -> None:
    for name in ("mamba", "rwkv"):
        lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
        with pytest.raises(lk.Unavailable, match=rf"{name} keeps no keys and values.*without speculation"):
            lab.generate(TEXT, speculation="prompt_lookup")
    with (
        tiny_lab.edit(lk.ablate_head(0, 1)),
        pytest.raises(lk.Unavailable, match=r"while edits are on.*without speculation"),
    ):
        tiny_lab.generate("abc", chat=False, speculation="prompt_lookup")
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=2, speculation="prompt_lookup").ids
    with pytest.raises(lk.BadInput, match="speed='fast'"):
        tiny_lab.generate("abc", chat=False, speculation="prompt_lookup", speed="fast")
    with pytest.raises(lk.BadInput, match=r"engine='llama.cpp'"):
        tiny_lab.generate("abc", chat=False, speculation="prompt_lookup", engine="llama.cpp")


def test_bad_drafts_are_named(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match=r"speculation='lookup' can't be used.*prompt_lookup"):
        tiny_lab.generate("abc", chat=False, speculation="lookup")
    with pytest.raises(lk.BadInput, match=r"speculation=3 can't be used"):
        tiny_lab.generate("abc", chat=False, speculation=3)  # type: ignore[call-overload]
    with pytest.raises(lk.BadInput, match="made in one way"):
        Draft()
    with pytest.raises(lk.BadInput, match="made in one way"):
        Draft("prompt_lookup", early_exit=1)
    for setting in ({"tokens": 0}, {"ngram": 0}, {"confidence": 1.5}):
        with pytest.raises(lk.BadInput, match=f"{next(iter(setting))}="):
            Draft("prompt_lookup", **setting)
    for layer in (2, 9):
        with pytest.raises(
            lk.BadInput, match=rf"early_exit={layer} can't be used; this model has 2 layers.*from 1 to 1"
        ):
            tiny_lab.generate("abc", chat=False, speculation=Draft(early_exit=layer))
    assert as_draft(None) is None
    assert repr(as_draft(tiny_lab)) == "Draft(by tiny, 5 tokens a round)"
    assert Speculation("x").tokens_per_pass != 1


@pytest.mark.real_model
def test_the_default_model_writes_the_same_with_drafts(default_lab: lk.Lab) -> None:
    prompt = "Repeat word for word: the quick brown fox jumps over the lazy dog, and the dog sleeps."
    plain = default_lab.generate(prompt, max_new_tokens=24)
    gen = default_lab.generate(prompt, max_new_tokens=24, speculation="prompt_lookup")
    assert gen.ids == plain.ids
    check_record(default_lab, gen)
    assert gen.speculation is not None
    assert gen.speculation.tokens_per_pass > 1
    early = default_lab.generate(prompt, max_new_tokens=6, speculation=Draft(early_exit=20, tokens=2))
    assert early.ids == plain.ids[:6]
