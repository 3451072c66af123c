"""Rotary positions and their stretching: equal to transformers', in a `with` and in a lab; ALiBi equal to three families'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import labkit as lk
from labkit.context import rotary
from labkit.context.stretching import rotary_modules

ALL = FAMILIES | UNUSUAL
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": YARN,
    "yarn, its factor set": YARN | {"attention_factor": 1.1, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not at whole pairs": YARN | {"truncate": False},
    "yarn, DeepSeek's weights": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    "llama3": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        **{"rope_type": "longrope", "short_factor": [1.0 + i / 10 for i in range(8)]},
        **{"long_factor": [1.0 + i for i in range(8)], "original_max_position_embeddings": 64},
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
}
TEXT = [(7 * i + 3) % 100 for i in range(40)]


def config_of(given: dict[str, Any], **more: Any) -> Any:
    shape = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256}
    return AutoConfig.for_model("llama", **shape, rope_parameters={"rope_theta": 5000.0} | given, **more)


def lab_of(family: str, **more: Any) -> lk.Lab:
    row = ALL[family]
    if family == "gpt_neox":
        more |= {"rotary_pct": 0.5}
    if family == "gemma3":
        more |= {"layer_types": ["sliding_attention", "full_attention"]}
    return lk.Lab(build(replace(row, fields=row.fields | more)), Tokens(), name=family)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("tokens", [None, 300])
def test_frequencies_are_transformers(name: str, tokens: int | None) -> None:
    config = config_of(PARAMETERS[name])
    theirs, scale = ROPE_INIT_FUNCTIONS[PARAMETERS[name]["rope_type"]](config, torch.device("cpu"), seq_len=tokens)
    ours = lk.context.frequencies(config, tokens=tokens)
    assert torch.allclose(ours.values, theirs, rtol=1e-6, atol=1e-9)
    assert ours.scale == pytest.approx(scale, abs=1e-9)


def test_every_family_with_rotary_modules_has_the_frequencies_of_its_module() -> None:
    seen = 0
    for name in ("llama3", "qwen3", "gpt_neox", "phi3", "olmo2", "gemma3", "stablelm"):
        if name not in ALL:
            continue
        model = build(ALL[name])
        (module,) = rotary_modules(model).values()
        config = model.config
        types = getattr(config, "layer_types", None) if rotary.kinds_of_layers(config) else None
        for layer in range(config.num_hidden_layers):
            buffer = getattr(module, f"{types[layer]}_inv_freq" if types else "inv_freq")
            assert torch.allclose(lk.context.frequencies(config, layer=layer).values, buffer, rtol=1e-6)
            seen += 1
    assert seen >= 8


STRETCHED = [
    *(("llama3", kind) for kind in ("default", "linear", "llama3", "ntk", "yarn")),
    *((family, kind) for family in ("mixtral", "gpt_neox", "gemma3", "deepseek_v3") for kind in ("ntk", "yarn")),
    ("phi3", "yarn"),
    ("olmo2", "linear"),
]


@pytest.mark.parametrize(("family", "kind"), STRETCHED)
def test_an_edit_and_a_lab_are_the_model_that_says_so_in_its_configuration(family: str, kind: str) -> None:
    lab = lab_of(family, max_position_embeddings=24)
    weights = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    with pytest.raises(lk.BadInput, match="24"):
        lab.trace(TEXT, keep="logits")
    before = lab.trace(TEXT[:20], keep="logits").logits
    far = lk.context.scaled(lab, kind, factor=2)
    theirs = type(lab.model)(far.model.config).eval()  # as transformers builds it from that configuration
    theirs.load_state_dict(lab.model.state_dict())
    with torch.no_grad():
        wanted = theirs(torch.tensor([TEXT])).logits[0]
    with lab.edit(lk.context.positions(kind, factor=2)):
        assert lab.context == 48
        edited = lab.trace(TEXT, keep="logits").logits
        written = lab.generate(TEXT, max_new_tokens=4).ids
    assert torch.allclose(edited, wanted, atol=1e-5)
    assert torch.allclose(far.trace(TEXT, keep="logits").logits, wanted, atol=1e-5)
    assert far.generate(TEXT, max_new_tokens=4).ids == written
    assert far.context == 48
    assert next(far.model.parameters()).data_ptr() == next(lab.model.parameters()).data_ptr()
    # and the original is as it was
    assert lab.context == 24
    assert torch.equal(lab.trace(TEXT[:20], keep="logits").logits, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in lab.model.state_dict().items())
    if kind not in ("default", "llama3"):
        with lab.edit(lk.context.positions(kind, factor=2)):
            assert not torch.allclose(lab.trace(TEXT[:20], keep="logits").logits, before, atol=1e-5)


def test_the_trace_shows_the_stretched_queries() -> None:
    lab = lab_of("llama3")
    plain = lab.trace(TEXT, keep="attention")
    with lab.edit(lk.context.positions("linear", factor=4)):
        seen = lab.trace(TEXT, keep="attention")
    found = lk.context.frequencies(lab)
    place = torch.arange(len(TEXT))
    bare = rotary.rotated(plain.queries(0), -place, found)
    slow = lk.context.scaling("linear", 4).frequencies(lab)
    assert torch.allclose(rotary.rotated(bare, place, slow), seen.queries(0), atol=1e-5)


def test_only_full_attention_is_stretched_where_layers_differ() -> None:
    lab = lab_of("gemma3")
    far = lk.context.scaled(lab, "linear", factor=8)
    types = far.config.layer_types
    for layer, kind in enumerate(types):
        ratio = lk.context.frequencies(lab, layer=layer).values / lk.context.frequencies(far, layer=layer).values
        assert torch.allclose(ratio, torch.full_like(ratio, 8.0 if kind == "full_attention" else 1.0))


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    lab = lab_of("llama3")
    before, context = lab.trace(TEXT, keep="logits").logits, lab.context
    with pytest.raises(RuntimeError), lab.edit(lk.context.positions("yarn", factor=4)):
        raise RuntimeError
    assert lab.context == context
    assert torch.equal(lab.trace(TEXT, keep="logits").logits, before)
    assert not any("forward" in vars(module) for module in lab.model.modules())


def test_dynamic_positions_are_not_gone_on_with_from_other_keys() -> None:
    lab = lab_of("llama3", max_position_embeddings=24)
    with lab.edit(lk.context.positions("dynamic", factor=2)):
        whole = lab.trace(TEXT, keep="logits").logits
        assert lab.generate(TEXT[:12], max_new_tokens=4).ids
        with pytest.raises(lk.Unavailable, match="ntk"):
            lab.generate(TEXT[:20], max_new_tokens=10)
    theirs = type(lab.model)(AutoConfig.for_model(**lab.config.to_dict())).eval()
    theirs.config.rope_parameters = lab.config.rope_parameters | {"rope_type": "dynamic", "factor": 2.0}
    theirs = type(lab.model)(theirs.config).eval()
    theirs.load_state_dict(lab.model.state_dict())
    with torch.no_grad():
        assert torch.allclose(theirs(torch.tensor([TEXT])).logits[0], whole, atol=1e-5)


def test_what_can_not_be_stretched_is_refused() -> None:
    for family in ("gpt2", "opt", "bloom", "mpt"):
        lab = lab_of(family)
        with pytest.raises(lk.Unavailable, match="no rotary positions"), lab.edit(lk.context.positions()):
            pass
        with pytest.raises(lk.Unavailable, match="no rotary positions"):
            lk.context.scaled(lab)
        with pytest.raises(lk.Unavailable, match="no rotary positions"):
            lk.context.frequencies(lab)
    far = lk.context.scaled(lab_of("llama3"), "yarn", factor=4)
    with pytest.raises(lk.Unavailable, match="stretched already"):
        lk.context.scaled(far, "linear", factor=2)
    lab = lab_of("llama3")
    for bad in (0.5, -1, float("nan"), "4"):
        with pytest.raises(lk.BadInput):
            lk.context.positions("yarn", factor=bad)  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="did you mean 'yarn'"):
        lk.context.positions("yarm")
    with pytest.raises(lk.BadInput, match="no parameter"):
        lk.context.positions("linear", beta_fast=2)
    with pytest.raises(lk.BadInput, match="short_factor"):
        lk.context.positions("longrope")
    with pytest.raises(lk.BadInput):
        lk.context.positions("yarn", trained=-3)
    with pytest.raises(lk.Unavailable, match="dynamic"):
        lk.context.scaled(lab, "dynamic")
    with pytest.raises(lk.BadInput, match="Lab"):
        lk.context.frequencies(4)  # type: ignore[arg-type]
    with pytest.raises(lk.ModelNotFound, match="llama-2"):
        lk.context.frequencies("llama-2")


def test_a_published_model_is_known_by_its_name() -> None:
    found = lk.context.frequencies("llama-2-7b")
    assert (len(found.values), found.channels, found.trained) == (64, 128, 4096)
    with pytest.raises(lk.Unavailable, match="mpt has no rotary positions"):
        lk.context.frequencies("mpt-7b")


@pytest.mark.parametrize("heads", [1, 4, 6, 12, 16])
def test_alibi_is_that_of_three_families(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor as of_falcon
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    ours = lk.context.alibi_bias(heads, 10)
    mask = torch.ones(1, 10)
    last = ours[:, -1]  # a row differs from theirs by a number that softmax takes no notice of
    bloom = build_alibi_tensor(mask, heads, torch.float32)[:, 0]
    assert torch.allclose(last - last[:, :1], bloom - bloom[:, :1], atol=1e-5)
    falcon = of_falcon(mask, heads, torch.float32)[:, 0]  # which rounds its slopes to bfloat16
    assert torch.allclose(last - last[:, :1], falcon - falcon[:, :1], rtol=1e-2)
    mpt = build_mpt_alibi_tensor(heads, 10)[:, 0]
    assert torch.allclose(lk.context.alibi_bias(heads, 10, order="mpt")[:, -1], mpt, atol=1e-6)
    assert torch.equal(ours.isinf(), torch.ones(heads, 10, 10).triu(1).bool())
    with pytest.raises(lk.BadInput):
        lk.context.alibi_slopes(-1)
