"""Operations of a forward pass against torch's own counter, on tiny models of every family that are really run."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, build
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from labkit.errors import BadInput, ModelNotFound, Unavailable
from labkit.models.flops import Flops, Pairs, flops, forward_flops

COUNTED = {name: family for name, family in FAMILIES.items() if name not in ("jetmoe", "dbrx")}
LENGTH = 11


def steps(model: PreTrainedModel) -> list[int]:
    """What torch counts for each of LENGTH tokens, one after another, with transformers' own cache."""
    counts, past = [], None
    name = "state" if model.config.model_type == "rwkv" else "past_key_values"
    name = "cache_params" if "cache_params" in model.forward.__code__.co_varnames else name
    for position in range(LENGTH):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = model(
                input_ids=torch.tensor([[5 + position]]), use_cache=True, **({name: past} if past is not None else {})
            )
        past = output[name]
        counts.append(counter.get_total_flops())
    return counts


def linear(model: PreTrainedModel, ending: str) -> int:
    """Operations of one token in the modules whose names end so."""
    return sum(2 * module.weight.numel() for name, module in model.named_modules() if name.endswith(ending))


@pytest.mark.parametrize("name", COUNTED)
def test_each_step_is_what_torch_counts(name: str) -> None:
    model = build(COUNTED[name], implementation="eager")
    if any("experts" in path for path, _ in model.named_modules()):
        model.set_experts_implementation("eager")
    counted = flops(model.config)
    expected = [counted.at(position) for position in range(LENGTH)]
    torchs = steps(model)
    if name.startswith("deepseek"):  # transformers expands the latents of all that came before again
        again = linear(model, "kv_b_proj")
        torchs = [count - position * again for position, count in enumerate(torchs)]
    if (
        name == "mamba"
    ):  # of the state torch counts the product read out (2 of 5); its convolution makes an output too many
        states = 2 * 64 * 4
        assert counted.state == 5 * states
        torchs = [count - linear(model, "conv1d") - 2 * states + 5 * states for count in torchs][1:]
        expected = expected[1:]
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
