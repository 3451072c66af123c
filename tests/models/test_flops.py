"""Operations of a forward pass against torch's own counter, on tiny models of every family that are really run."""

from __future__ import annotations

import inspect

import pytest
import torch
from families import FAMILIES, MIXED, PUBLISHED, build
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, PreTrainedModel

from labkit.errors import BadInput, ModelNotFound, Unavailable
from labkit.models.flops import Flops, Pairs, flops, forward_flops

RECURRENT = ("mamba", "codestral-mamba-7b", "falcon-mamba-7b", *MIXED)
COUNTED = {name: family for name, family in (FAMILIES | PUBLISHED | MIXED).items() if name not in ("jetmoe", "dbrx")}
LENGTH = 11


def steps(model: PreTrainedModel) -> list[int]:
    """What torch counts for each of LENGTH tokens, one after another, with transformers' own cache."""
    counts: list[int] = []
    kind = model.config.model_type
    name = "state" if kind == "rwkv" else "past_key_values"
    name = "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else name
    past = DynamicCache(config=model.config) if kind == "recurrent_gemma" else None  # it hands no cache back
    for position in range(LENGTH):
        given = {name: past} if past is not None else {}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = model(input_ids=torch.tensor([[5 + position]]), use_cache=True, **given)
        past = past if kind == "recurrent_gemma" else output[name]
        counts.append(counter.get_total_flops())
    return counts


def linear(model: PreTrainedModel, ending: str) -> int:
    """Operations of one token in the modules whose names end so."""
    return sum(
        2 * module.weight.numel()
        for name, module in model.named_modules()
        if name.endswith(ending) and hasattr(module, "weight")
    )


@pytest.mark.parametrize("name", COUNTED)
def test_each_step_is_what_torch_counts(name: str) -> None:
    """But for what transformers computes beyond need, and what of a state torch does not see; the sentences say which."""
    model = build(COUNTED[name], implementation="eager")
    if any("experts" in path for path, _ in model.named_modules()):
        model.set_experts_implementation("eager")
    counted = flops(model.config)
    expected = [counted.at(position) for position in range(LENGTH)]
    torchs = steps(model)
    if name.startswith(("deepseek", "kimi")):  # transformers expands the latents of all that came before again
        again = linear(model, "kv_b_proj")
        torchs = [count - position * again for position, count in enumerate(torchs)]
    if name.startswith("llama-4"):  # transformers runs all four experts on each token, three of them on zeros
        torchs = [count - 3 * 2 * 2 * (3 * 32 * 48) for count in torchs]
    if name in RECURRENT and name != "gemma-4-26b-a4b":  # a text's first step is a prefill, in chunks
        torchs, expected = torchs[1:], expected[1:]
        # The convolution makes an output too many. Of a state torch counts the product read out (2 of 5) where it is one.
        beyond = sum(linear(model, ending) for ending in ("conv1d", ".conv"))
        read_out = 0 if any("Delta" in type(module).__name__ for module in model.modules()) else 2
        if (
            model.config.model_type == "xlstm"
        ):  # nothing to convolve; the outer product is one too, and a vector is read
            beyond, read_out = 2 * 2 * 2 * (32 + 0), 4
        if model.config.model_type == "recurrent_gemma":
            beyond = -linear(model, "conv_1d")  # a sum of products, which torch does not see
        states = counted.state // (5 if read_out else 7)
        torchs = [count - beyond + counted.state - read_out * states for count in torchs]
    assert torchs == expected


def test_a_prefill_is_all_its_steps() -> None:
    for name in ("llama3", "mistral", "gemma2", "mixtral"):
        counted = flops(build(FAMILIES[name]).config)
        for past in (0, 3, 20):
            assert counted.forward(13, past=past) == sum(counted.at(past + position) for position in range(13)), name
        assert counted.forward(13) - counted.forward(13, logits=1) == 12 * counted.unembedding


def test_a_prefill_is_torchs_without_the_pairs_that_may_not_be_seen() -> None:
    model = build(FAMILIES["llama3"], implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(LENGTH)[None])
    unseen = LENGTH * (LENGTH - 1) // 2 * sum(layer.each for layer in flops(model.config).attention)
    assert forward_flops(model, tokens=LENGTH) == counter.get_total_flops() - unseen


@pytest.mark.parametrize("window", [None, 1, 4, 50])
def test_pairs_are_counted_one_by_one(window: int | None) -> None:
    pairs = Pairs(2, window)
    for past in (0, 2, 9):
        one_by_one = sum(min(position + 1, window or position + 1) for position in range(past, past + 7))
        assert pairs.seen(7, past) == one_by_one


def test_published_models_by_hand() -> None:
    # Llama 2 7B: 2 for each parameter that is not the input embedding or a norm, and 4 * heads * d_head * layers a pair
    counted = flops("llama-2-7b")
    assert counted.weights + counted.unembedding == 2 * (6_738_415_616 - 32_000 * 4096 - 65 * 4096)
    assert {layer.each for layer in counted.attention} == {4 * 32 * 128}
    assert (
        forward_flops("llama-2-7b", tokens=1, past=4095) == counted.weights + counted.unembedding + 4096 * 32 * 4 * 4096
    )
    # Mistral's window, and Mixtral's 2 of 8 experts
    assert {layer.window for layer in flops("mistral-7b").attention} == {4096}
    assert flops("mixtral-8x7b").weights == 2 * 32 * (2 * 4096 * (4096 + 1024) + 8 * 4096 + 2 * 3 * 4096 * 14336)
    # Mamba: the state of 24 layers, 1536 channels of 16
    assert flops("mamba-130m").state == 5 * 24 * 1536 * 16
    assert flops("mamba-130m").attention == ()


def test_what_can_not_be_counted_is_refused() -> None:
    with pytest.raises(Unavailable, match="dbrx"):
        flops(build(FAMILIES["dbrx"]).config)
    with pytest.raises(BadInput, match="tokens"):
        forward_flops("gpt2", tokens=-1)
    with pytest.raises(BadInput, match="past"):
        forward_flops("gpt2", tokens=1, past=-1)
    with pytest.raises(BadInput, match="logits"):
        flops("gpt2").forward(3, logits=4)
    with pytest.raises(ModelNotFound, match="gpt2"):
        flops("gpt-2")
    assert isinstance(flops("gpt2"), Flops)
    assert forward_flops("gpt2", tokens=0) == 0
