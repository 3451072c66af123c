"""Edits: each kind moves the logits as an independent computation says, and leaves nothing behind."""

from __future__ import annotations

import copy
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import families
import fuzz
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit.generation import decode
from labkit.trace import interface, running
from labkit.trace.edits import ablate_head, ablate_heads, patch

WORDS = len(fuzz.tiny_tokenizer())
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": WORDS}
LLAMA = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 128, "num_key_value_heads": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 4},
    "mixtral": {**LLAMA, **EXPERTS},
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "granitemoe": {**LLAMA, **EXPERTS, "residual_multiplier": 0.22, "attention_multiplier": 0.3, "logits_scaling": 3.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": WORDS, "n_positions": 128},
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": WORDS},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": WORDS, "max_seq_len": 128},
    "falcon": {**SMALL, "multi_query": True, "parallel_attn": True},
    "falcon-new": {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
}
ATTENDING = ("queries[1, 2]", "keys[1, 1]", "values[1, 1]")
PLACES = (
    "residual[0]",
    "residual[1]",
    "residual[2]",
    "attention_output[0]",
    "mlp_output[1]",
    "head_output[0, 3]",
    "head_output[1]",
    "logits",
    *ATTENDING,
)
EAGER = ("falcon", "falcon-new", "bloom", "mpt")
CASES = [(f, p) for f in FAMILIES for p in PLACES if not (f in EAGER and p in ATTENDING)]
KEPT = ("logits", "residual", "attention_output", "mlp_output", "head_output")
CLEAN, OTHER = [5, 99, 17, 230, 42, 8, 61], [5, 99, 18, 231, 43, 9, 62]


def make_lab(family: str = "llama") -> lk.Lab:
    """A tiny random model of a family whose weights are large enough that everything matters."""
    eager = {"attn_implementation": "eager"} if family in EAGER else {}
    config = AutoConfig.for_model(
        family.partition("-")[0], **FAMILIES[family], pad_token_id=0, tie_word_embeddings=False
    )
    config.bos_token_id = config.eos_token_id = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, **eager).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
    model.generation_config.eos_token_id = None
    return lk.Lab(model, fuzz.tiny_tokenizer(), name=family)


def kept(family: str) -> tuple[str, ...]:
    return KEPT if family in EAGER else ("attention", "values", *KEPT)


def value_at(trace: Any, place: str) -> torch.Tensor:
    """What a Trace says is at a place without tokens."""
    if place == "logits":
        return trace.logits
    name, numbers = re.fullmatch(r"(\w+)\[(.*)\]", place).groups()  # type: ignore[union-attr]
    return getattr(trace, name)(*map(int, numbers.split(",")))


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def implementations(model: Any) -> list[str]:
    return [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=list(FAMILIES))
def any_lab(request: pytest.FixtureRequest) -> lk.Lab:
    return make_lab(request.param)


@pytest.fixture
def untouched() -> Iterator[lk.Lab]:
    """A lab that must be left as it was: logits bit-equal, no hook, no listener, the implementation's own name."""
    lab = make_lab("llama")
    names = implementations(lab.model)
    before = lab.trace(CLEAN).logits
    yield lab
    assert hooks(lab.model) == 0
    assert implementations(lab.model) == names
    assert not interface._LISTENERS
    assert torch.equal(lab.trace(CLEAN).logits, before)
    assert lab._turns._owner is None


# each kind, on each family --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "place"), CASES)
def test_an_edit_puts_the_value_there_and_is_undone(family: str, place: str) -> None:
    lab = make_lab(family)
    keep, names = kept(family), implementations(lab.model)
    clean, other = lab.trace(CLEAN, keep=keep), lab.trace(OTHER, keep=keep)
    with lab.edit(patch(place, value_at(other, place))):
        assert torch.equal(lab.trace(OTHER, keep=keep).logits, other.logits)  # its own value changes nothing
    with lab.edit(patch(place, value_at(clean, place))):
        edited = lab.trace(OTHER, keep=keep)
    assert torch.equal(value_at(edited, place), value_at(clean, place))  # the Trace sees what was put there
    assert (edited.logits - other.logits).abs().max() > 1e-2
    if place.startswith(("residual", "logits")):  # nothing else of the text gets past the residual stream
        assert torch.equal(edited.logits, clean.logits)
    assert torch.equal(lab.trace(OTHER).logits, other.logits)
    assert hooks(lab.model) == 0
    assert implementations(lab.model) == names
    assert not interface._LISTENERS


def test_ablating_a_head_is_zeroing_its_columns_of_the_output_projection(any_lab: lk.Lab) -> None:
    lab = any_lab
    copied = lk.Lab(copy.deepcopy(lab.model), lab.tokenizer)
    width = 32 // 4
    for layer, head in ((0, 3), (1, 1)):
        weight = copied.anatomy.layers[layer].output_projection.weight.data  # type: ignore[union-attr]
        columns = weight if lab.family == "gpt2" else weight.T  # gpt2 keeps them the other way round
        columns[head * width : (head + 1) * width] = 0
    with lab.edit(ablate_heads([(0, 3), (1, 1)])):
        both = lab.trace(CLEAN).logits
    with lab.edit(ablate_head(0, 3)), lab.edit(ablate_head(1, 1)):
        assert torch.equal(lab.trace(CLEAN).logits, both)
    torch.testing.assert_close(both, copied.trace(CLEAN).logits, atol=1e-5, rtol=1e-5)
    assert (both - lab.trace(CLEAN).logits).abs().max() > 1e-2


def test_what_is_added_to_the_residual_stream_is_what_was_written(any_lab: lk.Lab) -> None:
    """Multipliers and norms after the module: the place is what is added, in the Trace's own units."""
    lab = any_lab
    add = torch.full((32,), 0.5)
    before = lab.trace(CLEAN, keep=("residual",))
    for place in ("attention_output[1] @ 2:4", "mlp_output[1] @ 2:4"):
        with lab.edit(patch(place, lambda x: x * 0)):
            without = lab.trace(CLEAN, keep=("residual", "mlp_output"))
        with lab.edit(patch(place, add)):
            after = lab.trace(CLEAN, keep=("residual", "mlp_output"))
        change = after.residual(2) - without.residual(2)
        if place.startswith("attention"):  # the MLP sees the change as well
            change = change - (after.mlp_output(1) - without.mlp_output(1))
        torch.testing.assert_close(change[2:4], add.expand(2, -1), atol=1e-5, rtol=1e-5)
        # not to the bit: an expert's matrix product has the rows of all its tokens, and rounds by their number
        torch.testing.assert_close(after.residual(2)[:2], before.residual(2)[:2], atol=1e-6, rtol=1e-6)


def test_tokens_that_are_left_alone_are_left_to_the_bit() -> None:
    """Also where a multiplier comes after the module: dividing by it again would round."""
    lab = make_lab("granitemoe")
    part = lab.anatomy.layers[1].mlp
    outputs: list[torch.Tensor] = []
    text = CLEAN * 9
    for edits in ([], [patch("mlp_output[1] @ 30", 0.0)]):
        with lab.edit(*edits):
            handle = part.register_forward_hook(lambda _m, _a, output: outputs.append(output))  # type: ignore[union-attr]
            lab.trace(text)
            handle.remove()
    same = (outputs[0] == outputs[1]).all(-1)[0].tolist()
    assert [i for i, equal in enumerate(same) if not equal] == [30]


def test_families_off_the_interface_and_without_attention_have_reasons() -> None:
    for place in ATTENDING:
        with (
            pytest.raises(lk.Unavailable, match="only its patterns can be seen; use trace"),
            make_lab("mpt").edit(patch(place, 0)),
        ):
            pytest.fail("it was not refused")
    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=WORDS, state_size=4)
    config.bos_token_id = config.eos_token_id = None
    lab = lk.Lab(AutoModelForCausalLM.from_config(config).eval(), fuzz.tiny_tokenizer())
    with (
        pytest.raises(lk.Unavailable, match="look at `residual`"),
        lab.edit(patch("residual[0]", 0), ablate_head(0, 0)),
    ):
        pytest.fail("it was not refused")
    assert hooks(lab.model) == 0
    before = lab.trace(CLEAN, keep=("logits",)).logits
    with lab.edit(patch("residual[1] @ 2", 0.0)):
        assert not torch.equal(lab.trace(CLEAN, keep=("logits",)).logits, before)
        with pytest.raises(lk.Unavailable, match="how many tokens it has read before"):
            lab.generate("the cat", chat=False, max_new_tokens=3)
    with lab.edit(patch("residual[1]", 0.0)):
        lab.generate("the cat", chat=False, max_new_tokens=3)


# generating -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edits", ["ablate", "tokens", "growing"])
def test_generating_with_a_cache_is_generating_without(any_lab: lk.Lab, edits: str) -> None:
    """Past the sliding window of mistral and gemma2, too."""
    lab = any_lab
    direction = torch.linspace(-3, 3, 32)
    chosen = {
        "ablate": [ablate_head(0, 3), ablate_head(1, 1)],
        # tokens of the prompt, tokens generated, and some that never come
        "tokens": [patch("residual[1] @ 1,8:10,99", lambda x: x + direction), patch("head_output[0, 1] @ 2,9", 1.0)],
        "growing": [patch("mlp_output[0] @ 3:", lambda x: -x), patch("logits @ 0:9", lambda x: x.flip(-1))],
    }[edits]
    if edits == "tokens" and lab.name not in EAGER:
        chosen += [patch("keys[1, 0] @ 3,8", 2.0), patch("values[0, 1] @ 7:", 1.5), patch("queries[0, 2] @ 8", 2.0)]
    lab.tokenizer.chat_template = None
    prompt = lab.tokenizer.decode(CLEAN)
    ids = lab.tokenizer(prompt).input_ids
    free = lab.generate(prompt, max_new_tokens=6)
    with lab.edit(*chosen):
        cached = lab.generate(prompt, max_new_tokens=6)
        assert "".join(lab.stream(prompt, max_new_tokens=6)) == lab.last_generation.text
        assert torch.equal(lab.last_generation.logprobs, cached.logprobs)
        by_hand, logprobs = generated_by_hand(lab, ids, 6)
    assert cached.ids == by_hand
    torch.testing.assert_close(cached.logprobs, logprobs, atol=1e-4, rtol=1e-4)
    assert (cached.logprobs - free.logprobs).abs().max() > 1e-2
    assert torch.equal(lab.generate(prompt, max_new_tokens=6).logprobs, free.logprobs)


def generated_by_hand(lab: lk.Lab, ids: list[int], count: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens and their log-probabilities, each from one pass over everything so far: no cache is read."""
    ids, logprobs = list(ids), []
    for _ in range(count):
        with torch.no_grad():
            best = lab.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).max(-1)
        ids.append(int(best.indices))
        logprobs.append(float(best.values))
    return ids[-count:], torch.tensor(logprobs)


@pytest.mark.parametrize("speed", ["plain", "fast"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "falcon"])
def test_in_a_padded_batch_tokens_count_from_each_text_s_first(
    family: str, speed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "compiles", lambda model: True)  # a static cache, as on CUDA
    lab = make_lab(family)
    if speed == "fast" and family == "falcon":
        speed = "plain"
    direction = torch.linspace(-3, 3, 32)
    seen: list[tuple[int, ...]] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x + direction

    edits = [patch("residual[1] @ 1,4,-1", function), patch("head_output[0, 1] @ 0:2", 1.0)]
    if family not in EAGER:
        edits += [patch("keys[1, 0] @ 1,8", 2.0), patch("values[0, 1] @ -2:", 1.5)]
    prompts = ["the cat sat on the mat because", "the dog", "where the tree was"]
    free = [g.ids for g in lab.generate(prompts, chat=False, max_new_tokens=5)]
    with lab.edit(*edits):
        together = [g.ids for g in lab.generate(prompts, chat=False, max_new_tokens=5, speed=speed)]
        alone = [lab.generate(p, chat=False, max_new_tokens=5).ids for p in prompts]
        longer = ["the other cat ran up the tree where the dog sat", "the dog ran after the cat and the cat ran"]
        traces = lab.trace(longer, keep=("residual",))
        for text, trace in zip(longer, traces, strict=True):
            single = lab.trace(text, keep=("residual",))
            torch.testing.assert_close(trace.residual(2), single.residual(2), atol=1e-4, rtol=1e-4)
    assert len(traces[0]) != len(traces[1])
    assert together == alone
    assert all(a != f for a, f in zip(alone, free, strict=True))
    assert max(shape[0] for shape in seen) == 3


# what a user's function and value see ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        ("residual[1]", (7, 32)),
        ("residual[2] @ 3", (1, 32)),
        ("attention_output[0] @ 1,4,-1", (3, 32)),
        ("mlp_output[1] @ 2:7", (5, 32)),
        ("head_output[0, 1] @ -2:", (2, 8)),
        ("head_output[0]", (4, 7, 8)),
        ("queries[0] @ 0", (4, 1, 8)),
        ("keys[0]", (2, 7, 8)),
        ("values[0, 1]", (7, 8)),
        ("logits @ -1", (1, WORDS)),
    ],
)
def test_a_function_is_given_the_documented_shape_and_a_copy(
    untouched: lk.Lab, place: str, shape: tuple[int, ...]
) -> None:
    given: list[torch.Tensor] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        given.append(x.clone())
        x.mul_(2)  # it may write into what it is given
        return x

    trace = untouched.trace(CLEAN, keep=kept("llama"))
    with untouched.edit(patch(place, function)):
        untouched.trace(CLEAN)
    assert given[0].shape == shape
    name, _, tokens = place.partition(" @ ")
    rows = {
        "": slice(None),
        "3": [3],
        "1,4,-1": [1, 4, -1],
        "2:7": slice(2, 7),
        "-2:": slice(-2, None),
        "0": [0],
        "-1": [-1],
    }
    whole = value_at(trace, name)
    assert torch.equal(given[0], whole.transpose(0, -2)[rows[tokens]].transpose(0, -2))


def test_a_function_never_sees_padding(untouched: lk.Lab) -> None:
    texts, given = [CLEAN, CLEAN[:3], [*CLEAN, 9]], []

    def function(x: torch.Tensor) -> torch.Tensor:
        given.append(x)
        return x

    whole = [untouched.trace(text, keep=("residual", "values")) for text in texts]
    for place in ("residual[1]", "residual[1] @ 0:99", "values[1] @ 1:"):
        given.clear()
        with untouched.edit(patch(place, function)):
            untouched.trace(texts)
        expected = [t.residual(1) if place.startswith("residual") else t.values(1)[:, 1:] for t in whole]
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_values_of_every_kind_broadcast(untouched: lk.Lab) -> None:
    for place, value in [
        ("residual[1]", 1),
        ("residual[1]", True),
        ("residual[1] @ 2:4", torch.ones(32)),
        ("residual[1] @ 2:4", torch.ones(2, 32).numpy()),
        ("residual[1] @ 2:4", [[1.0] * 32] * 2),
        ("head_output[1] @ 2", torch.ones(4, 1, 8)),
        ("head_output[1]", torch.ones(8, dtype=torch.float64)),
    ]:
        with untouched.edit(patch(place, value)):
            seen = untouched.trace(CLEAN, keep=("residual", "head_output"))
        there = seen.residual(1) if place.startswith("residual") else seen.head_output(1)
        tokens = place.partition(" @ ")[2]
        there = there[..., slice(None) if not tokens else slice(2, 4) if ":" in tokens else slice(2, 3), :]
        assert torch.equal(there, torch.ones_like(there))


def test_edits_hold_in_their_order(untouched: lk.Lab) -> None:
    for place in ("residual[1]", "queries[1, 2]", "head_output[0, 0]", "mlp_output[0]", "logits"):
        shape = value_at(untouched.trace(CLEAN, keep=kept("llama")), place).shape
        with (
            untouched.edit(patch(place, 2.0), patch(place, lambda x: x + 1)),
            untouched.edit(patch(place, lambda x: x * 10)),
        ):
            seen = untouched.trace(CLEAN, keep=kept("llama"))
        assert torch.equal(value_at(seen, place), torch.full(shape, 30.0))


def test_a_value_handed_over_is_never_written_into(untouched: lk.Lab) -> None:
    """Falcon adds into its MLP's output in place."""
    for lab in (untouched, make_lab("falcon"), make_lab("falcon-new")):
        value = torch.ones(len(CLEAN), 32)
        with lab.edit(patch("mlp_output[0]", lambda _, v=value: v), patch("attention_output[0]", value)):
            seen = lab.trace(CLEAN, keep=("residual", "mlp_output"))
            again = lab.trace(CLEAN, keep=("residual",))
        assert torch.equal(value, torch.ones(len(CLEAN), 32))
        torch.testing.assert_close(seen.residual(1), seen.residual(0) + 2)
        assert torch.equal(again.residual(1), seen.residual(1))


def test_gradients_pass_through_an_edit(untouched: lk.Lab) -> None:
    direction = torch.zeros(32, requires_grad=True)
    with untouched.edit(patch("residual[1] @ 2", lambda x: x + direction)):
        untouched.model(input_ids=torch.tensor([CLEAN])).logits[0, -1, 7].backward()
    assert direction.grad is not None
    assert direction.grad.abs().max() > 0


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda: patch("residual[9]", 0), "layers are 0 to 2"),
        (lambda: patch("resid[0]", 0), "did you mean 'residual'"),
        (lambda: patch(3, 0), "takes a place as text"),
        (lambda: patch("residual[0]", "zero"), "is a str and no tensor"),
        (lambda: patch("residual[0]", None), "is a NoneType and no tensor"),
        (lambda: patch("residual[0]", float("nan")), "has NaN in it"),
        (lambda: ablate_head(0, 4), "heads are 0 to 3"),
        (lambda: ablate_head(2, 0), "layers are 0 to 1"),
        (lambda: ablate_head("0", 1), "two whole numbers"),
        (lambda: ablate_heads([(0,)]), "two whole numbers"),
        (lambda: ablate_heads([1, 2]), "two whole numbers"),
        (lambda: ablate_heads([]), "at least one"),
        (lambda: "residual[0]", r"takes edits such as lk.ablate_head"),
        (lambda: [ablate_head(0, 0)], r"takes edits such as lk.ablate_head"),
    ],
)
def test_bad_edits_are_refused_before_anything_is_installed(
    untouched: lk.Lab, edit: Callable[[], Any], said: str
) -> None:
    with pytest.raises(lk.BadInput, match=said), untouched.edit(patch("residual[0]", 0), edit()):
        pytest.fail("it was not refused")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("residual[1]", torch.ones(6, 32), r"residual\[1\]: a value of shape \(6, 32\) does not fit .* = \(7, 32\)"),
        ("residual[1] @ 2", torch.ones(33), r"residual\[1\] @ 2: a value of shape \(33,\)"),
        ("head_output[1]", torch.ones(3, 7, 8), r"\(heads, tokens, width\) = \(4, 7, 8\)"),
        ("residual[1]", lambda x: x[:3], r"given the shape \(7, 32\) and returned \(3, 32\)"),
        ("residual[1]", lambda x: x.mean(), r"returned \(\)"),
        ("residual[1]", lambda x: None, "result for residual.* is a NoneType"),
        ("residual[1]", lambda x: x / 0 * 0, r"residual\[1\]: the function returned NaN"),
        ("logits @ 7", 0, "there is no token 7 in a text of 7 tokens; they are 0 to 6"),
        ("keys[1, 0] @ 2,-8", 0, "there is no token -8"),
    ],
)
def test_bad_values_name_their_place(untouched: lk.Lab, place: str, value: Any, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said), untouched.edit(patch(place, value)):
        untouched.trace(CLEAN)


def test_a_model_s_own_nan_is_left_to_be_seen(untouched: lk.Lab) -> None:
    with untouched.edit(patch("residual[0] @ 2", lambda x: x)):
        lab = make_lab()
        lab.model.model.embed_tokens.weight.data[CLEAN[2], 0] = float("nan")
        with lab.edit(patch("residual[0] @ 2", lambda x: x)):
            assert lab.trace(CLEAN).logits[2].isnan().all()


def test_values_for_a_prompt_s_tokens_do_not_spill_into_what_is_generated(untouched: lk.Lab) -> None:
    ids = untouched.tokenizer("the cat sat").input_ids
    value = untouched.trace(ids, keep=("residual",)).residual(1)
    free = untouched.generate("the cat sat", chat=False, max_new_tokens=4).ids
    with untouched.edit(patch(f"residual[1] @ 0:{len(ids)}", value)):
        assert untouched.generate("the cat sat", chat=False, max_new_tokens=4).ids == free
    with (
        untouched.edit(patch("residual[1]", value)),
        pytest.raises(lk.BadInput, match="name the tokens that it is for"),
    ):
        untouched.generate("the cat sat", chat=False, max_new_tokens=4)


def test_a_mask_that_does_not_tell_the_padding_is_refused(untouched: lk.Lab) -> None:
    ids = torch.tensor([CLEAN, CLEAN])
    mask = torch.ones(2, len(CLEAN), dtype=torch.long)
    mask[0, 3] = 0  # a hole
    with untouched.edit(patch("residual[1] @ 2", 0.0)), torch.no_grad():
        with pytest.raises(lk.Unavailable, match="leaves out tokens within a text"):
            untouched.model(input_ids=ids, attention_mask=mask)
        with pytest.raises(lk.Unavailable, match="does not tell which tokens are padding"):
            untouched.model(input_ids=ids, attention_mask=torch.zeros(2, 1, len(CLEAN), len(CLEAN)))
        with pytest.raises(lk.Unavailable, match=r"call lab.model\(...\) and not a layer"):
            untouched.model.model.layers[1](torch.zeros(1, 3, 32))
        base = untouched.model.model(input_ids=ids).last_hidden_state  # the model without its unembedding
    assert not torch.equal(base, untouched.model.model(input_ids=ids).last_hidden_state)


def test_logits_of_some_tokens_only(untouched: lk.Lab) -> None:
    with untouched.edit(patch("logits @ 2,-1", 4.0)), torch.no_grad():
        for keep, places in ((3, [2]), (torch.tensor([0, 2, 5]), [1]), (1, [0])):
            logits = untouched.model(input_ids=torch.tensor([CLEAN]), logits_to_keep=keep).logits[0]
            assert [i for i, row in enumerate(logits) if bool((row == 4.0).all())] == places


# nothing is left behind -----------------------------------------------------------------------------------------------

EVERY = [patch(place, lambda x: x * 0.5) for place in PLACES]


def test_after_an_exception(untouched: lk.Lab) -> None:
    for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), untouched.edit(*EVERY):
            raise error
        assert hooks(untouched.model) == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_exception_in_a_user_s_function(untouched: lk.Lab, place: str, error: type[BaseException]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        raise error("mine")

    with pytest.raises(error, match="mine"), untouched.edit(patch(place, function)):
        untouched.trace(CLEAN, keep=kept("llama"))
    with pytest.raises(error, match="mine"), untouched.edit(patch(place, function)):
        untouched.generate("the cat", max_new_tokens=3)
    with pytest.raises(error, match="mine"), untouched.edit(patch(place, function)):
        list(untouched.stream("the cat", max_new_tokens=3))


def test_after_an_interrupt_the_edit_still_holds_inside(untouched: lk.Lab) -> None:
    calls = []

    def function(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return x * 0

    with untouched.edit(patch("residual[1] @ 2", function)):
        with pytest.raises(KeyboardInterrupt):
            untouched.trace([*CLEAN, 7, 8])
        assert untouched.trace(CLEAN, keep=("residual",)).residual(1)[2].abs().max() == 0


def test_nested(untouched: lk.Lab) -> None:
    free = untouched.trace(CLEAN).logits
    with untouched.edit(*EVERY):
        outer = untouched.trace(CLEAN).logits
        with pytest.raises(lk.BadInput), untouched.edit(ablate_head(9, 9)):
            pytest.fail("it was not refused")
        with untouched.edit(ablate_head(0, 0)), untouched.edit(ablate_head(1, 1)):
            assert not torch.equal(untouched.trace(CLEAN).logits, outer)
        assert torch.equal(untouched.trace(CLEAN).logits, outer)
    assert not torch.equal(outer, free)


def test_no_edits_at_all(untouched: lk.Lab) -> None:
    free = untouched.trace(CLEAN).logits
    with untouched.edit() as same:
        assert same is untouched
        assert torch.equal(same.trace(CLEAN).logits, free)


def test_a_stream_left_half_way_inside(untouched: lk.Lab) -> None:
    with untouched.edit(*EVERY):
        for _ in untouched.stream("the cat", max_new_tokens=40):
            break
    assert hooks(untouched.model) == 0
    stream = untouched.stream("the cat", max_new_tokens=40)
    with untouched.edit(*EVERY):
        next(stream)  # left open: the edits go when its run is over
    assert hooks(untouched.model) == 0
    stream.close()  # type: ignore[attr-defined]


def test_a_generator_of_the_user_s_left_half_way(untouched: lk.Lab) -> None:
    def steps() -> Iterator[torch.Tensor]:
        with untouched.edit(*EVERY):
            yield untouched.trace(CLEAN).logits
            yield untouched.trace(CLEAN).logits

    walking = steps()
    next(walking)
    assert hooks(untouched.model) > 0
    walking.close()
    assert hooks(untouched.model) == 0


def test_an_interrupt_while_waiting_for_a_run_to_end(untouched: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the block waits for a stream that was left open; an interrupt of that wait must not leave the edits on."""
    turns = untouched._turns
    real, calls = turns.run, []

    def run(owner: int | None = None) -> Any:
        calls.append(owner)
        if len(calls) == 3:  # put on, trace, and now: take off
            raise KeyboardInterrupt
        return real(owner)

    untouched.anatomy  # noqa: B018 - found once, outside the count
    monkeypatch.setattr(turns, "run", run)
    monkeypatch.setattr(type(untouched), "anatomy", property(lambda lab: lab._anatomy))
    with pytest.raises(KeyboardInterrupt) as caught, untouched.edit(*EVERY):
        untouched.trace(CLEAN)
    assert len(calls) == 3
    assert hooks(untouched.model) == 0
    del caught  # until here it holds the block's frame: nothing was undone by being forgotten
    monkeypatch.undo()


def test_another_thread_waits_and_is_not_edited(untouched: lk.Lab) -> None:
    free = untouched.generate("the cat", max_new_tokens=5).ids
    got: list[Any] = []
    other = threading.Thread(target=lambda: got.append(untouched.generate("the cat", max_new_tokens=5).ids))
    with untouched.edit(patch("logits", lambda x: -x)):
        edited = untouched.generate("the cat", max_new_tokens=5).ids
        other.start()
        time.sleep(0.3)
        assert got == []
        assert untouched.generate("the cat", max_new_tokens=5).ids == edited
    other.join(20)
    assert got == [free]
    assert edited != free


def test_threads_with_edits_of_their_own_do_not_mix(untouched: lk.Lab) -> None:
    edits = [ablate_head(layer, head) for layer in range(2) for head in range(3)]
    expected = []
    for edit in edits:
        with untouched.edit(edit):
            expected.append(untouched.trace(CLEAN).logits)
    got: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        with untouched.edit(edits[i]):
            time.sleep(0.01)
            got[i] = untouched.trace(CLEAN).logits

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(edits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(torch.equal(got[i], logits) for i, logits in enumerate(expected))


def test_compiled_steps_are_not_used_while_an_edit_is_on(untouched: lk.Lab) -> None:
    """On CUDA transformers compiles its decoding step, and what is compiled does not notice hooks put on later."""
    compiled = torch.compile(untouched.model.__call__, backend="eager")
    ids = torch.tensor([CLEAN])
    on_cuda: Any = torch.nn.Module()
    on_cuda.device = torch.device("cuda")
    with torch.no_grad():
        free = compiled(input_ids=ids, use_cache=False).logits
        with untouched.edit(patch("residual[1]", 0.0)):
            with running.uncompiled(on_cuda, decoding=True), running.uncompiled(on_cuda, decoding=True):
                edited = compiled(input_ids=ids, use_cache=False).logits
            assert torch.equal(edited, untouched.model(input_ids=ids, use_cache=False).logits)
        assert not torch.equal(edited, free)
        assert torch.equal(compiled(input_ids=ids, use_cache=False).logits, free)


def new_layer(model: Any) -> None:
    model.model.layers[1] = copy.deepcopy(model.model.layers[1])


def new_mlp(model: Any) -> None:
    model.model.layers[1].mlp = copy.deepcopy(model.model.layers[1].mlp)


def new_projection(model: Any) -> None:
    model.model.layers[1].mlp.down_proj = copy.deepcopy(model.model.layers[1].mlp.down_proj)


def new_attention(model: Any) -> None:
    model.model.layers[1].self_attn = copy.deepcopy(model.model.layers[1].self_attn)


def new_embedding(model: Any) -> None:
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))


def other_order(model: Any) -> None:
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))


@pytest.mark.parametrize(
    "change", [new_layer, new_mlp, new_projection, new_attention, new_embedding, other_order], ids=lambda f: f.__name__
)
def test_parts_replaced_after_a_first_look_are_seen_and_edited(change: Any) -> None:
    """A lab that went on with the parts that were there before would edit nothing, without a word."""
    model = families.build(families.FAMILIES["llama3"])
    lab = lk.Lab(model, families.Tokens())
    ids = list(range(3, 15))
    keep = ("logits", "residual", "head_output", "attention_output", "mlp_output", "mlp_neurons", "embedding")
    lab.trace(ids, keep=keep)
    change(model)
    anew = lk.Lab(model, families.Tokens())
    ours, theirs = lab.trace(ids, keep=keep), anew.trace(ids, keep=keep)
    for name in keep[1:-1]:
        assert torch.equal(getattr(ours, name)(1), getattr(theirs, name)(1)), name
    for place in ("embedding", *(f"{name}[1]" for name in keep[1:-1]), "queries[1]"):
        edit = lk.patch(place, lambda value: value * 0)
        with lab.edit(edit):
            changed = lab.trace(ids, keep="logits").logits
        with anew.edit(edit):
            assert torch.equal(changed, anew.trace(ids, keep="logits").logits), place
        assert not torch.allclose(changed, ours.logits), place
    assert lab.anatomy is lab.anatomy


def test_attention_computed_otherwise_since_is_looked_at_anew() -> None:
    """falcon's patterns are right when it computes them eagerly, and only then."""
    model = families.build(families.FAMILIES["falcon_grouped"])
    lab = lk.Lab(model, families.Tokens())
    assert lab.support()["attention"] is None
    model.config._attn_implementation = "sdpa"
    assert "eager" in str(lab.support()["attention"])
