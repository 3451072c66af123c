"""The logit lens and direct logit attribution: exact at the last layer, sums, an independent recomputation, errors."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from families import UNUSUAL, Tokens, build
from torch import nn

import labkit as lk
from labkit.trace.lens import lens_logits, logit_attribution, logit_lens
from labkit.trace.record import Trace
from labkit.views import lens_chart

TEXT = "the cat sat on the mat because it was tired"
KEEP = ("residual", "attention_output", "mlp_output", "head_output", "logits")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
GROUPED = dict(SIZES, num_key_value_heads=2)
OPT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": dict(GROUPED, sliding_window=4),
    "qwen2": GROUPED,
    "gemma2": dict(GROUPED, head_dim=8, sliding_window=4, query_pre_attn_scalar=8, final_logit_softcapping=3.0),
    "gemma3_text": dict(GROUPED, head_dim=8, sliding_window=4),
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": SIZES,
    "falcon": dict(SIZES, multi_query=True, parallel_attn=True),
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "olmo2": GROUPED,
    "olmo": GROUPED,  # a LayerNorm without parameters
    "phi": GROUPED,  # an unembedding with a bias
    "phi3": dict(GROUPED, pad_token_id=0),
    "opt": dict(OPT, word_embed_proj_dim=32),
    "opt-projected": dict(OPT, word_embed_proj_dim=16),
    "granitemoe": dict(
        GROUPED,
        **EXPERTS,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        embedding_multiplier=2.0,
        logits_scaling=3.0,
    ),
    "cohere": dict(GROUPED, logit_scale=0.25),
    "mixtral": dict(GROUPED, **EXPERTS),
    "gpt_oss": dict(GROUPED, **EXPERTS, head_dim=8, sliding_window=4),
    "bitnet": GROUPED,  # a norm between the heads and the output projection
    "deepseek_v3": dict(
        SIZES,
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=2,
        topk_group=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_shared_experts=1,
    ),
}
LENS_ONLY: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64},
    "opt-post": dict(OPT, word_embed_proj_dim=32, do_layer_norm_before=False),  # no final norm at all
}


def make_lab(family: str, dtype: torch.dtype = torch.float32) -> lk.Lab:
    """A random model whose norms, gains and biases all matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = fuzz.tiny_tokenizer()
    own = {**FAMILIES, **LENS_ONLY}[family] | {"vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(family.partition("-")[0], **own)
    eager = family in ("falcon", "bloom", "mpt", "gemma2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if eager else None).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter) * 0.3
                parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return lk.Lab(model.to(dtype), tokenizer, name=f"tiny {family}")


@functools.cache
def case(family: str) -> tuple[lk.Lab, Trace]:
    lab = make_lab(family)
    support = lab.support()
    return lab, lab.trace(TEXT, [what for what in KEEP if support[what] is None])


def scale(trace: Trace, position: int = -1) -> float:
    return float(trace.logits[position].abs().max())


# the lens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, *LENS_ONLY])
def test_the_last_layer_of_the_lens_is_the_model(family: str) -> None:
    lab, trace = case(family)
    torch.testing.assert_close(lens_logits(lab, trace, trace.layers), trace.logits, atol=1e-4, rtol=0)
    every = lens_logits(lab, trace)
    assert every.shape == (trace.layers + 1, len(trace), trace.logits.shape[-1])
    assert (every[0] - every[-1]).abs().max() > 0.1, "the layers of the test's model do nothing"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
def test_the_frame_says_what_the_logits_say(family: str) -> None:
    lab, trace = case(family)
    frame = logit_lens(lab, trace, k=3)
    assert list(zip(frame.layer, frame.position, strict=True)) == [
        (i, p) for i in range(trace.layers + 1) for p in range(len(trace))
    ]
    logprobs = lens_logits(lab, trace).double().log_softmax(-1)
    final = trace.logits.double().log_softmax(-1)
    for row in frame.to_dict("records"):
        here = logprobs[row["layer"], row["position"]]
        best = here.topk(3)
        assert row["token"] == trace.tokens[row["position"]]
        assert row["top_ids"] == tuple(best.indices.tolist())
        assert row["top_id"] == row["top_ids"][0]
        assert row["top_token"] == lab.token_text(row["top_id"]) == row["top_tokens"][0]
        assert row["top_probabilities"] == pytest.approx(best.values.exp().tolist(), abs=1e-5)
        truth = final[row["position"]]
        assert row["kl"] == pytest.approx(float((truth.exp() * (truth - here)).sum()), abs=1e-4)
        if row["position"] + 1 < len(trace):
            following = trace.ids[row["position"] + 1]
            assert row["next_id"] == following
            assert row["rank"] == sorted(here.tolist(), reverse=True).index(float(here[following]))
            assert row["logprob"] == pytest.approx(float(here[following]), abs=1e-4)
    ends = frame[frame.position == len(trace) - 1]
    assert ends[["next_token", "next_id", "rank", "logprob"]].isna().all(axis=None)
    last = frame[frame.layer == trace.layers]
    assert last.kl.max() < 1e-4
    assert -last.logprob[:-1].to_numpy() == pytest.approx(trace.loss[1:].numpy(), abs=1e-4)


def test_a_long_text_is_read_in_pieces(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tiny_lab.trace(TEXT, ("residual", "logits"))
    whole = logit_lens(tiny_lab, trace)
    monkeypatch.setattr("labkit.trace.lens.CHUNK", 3 * trace.logits.shape[-1])
    in_pieces = logit_lens(tiny_lab, trace)
    exact = ["layer", "position", "top_id", "next_id", "rank"]
    assert in_pieces[exact].equals(whole[exact])
    assert in_pieces.kl.to_numpy() == pytest.approx(whole.kl.to_numpy(), abs=1e-5)


def test_logits_that_are_no_numbers_are_missing_not_made_up(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, ("residual", "logits"))
    sound = logit_lens(tiny_lab, trace)
    broken = 4
    trace._logits[broken:] = math.nan  # type: ignore[index]
    for i in (1, 2):
        trace._layered["residual"][i][broken:] = math.nan
    frame = logit_lens(tiny_lab, trace, k=2)
    missing = (frame.position >= broken) & (frame.layer > 0)
    said = ["top_token", "top_id", "top_probability", "rank", "logprob", "kl", "top_ids"]
    assert frame[missing][said].isna().all(axis=None)
    assert sound[sound.position < broken].equals(frame[frame.position < broken][sound.columns])
    figure = lens_chart.lens(frame)
    assert math.isnan(figure.data[0].z[-1][-1])
    assert figure.data[0].text[-1][-1] == ""
    assert "no numbers" in figure.data[0].customdata[-1][-1]


def test_a_model_that_looks_both_ways_predicts_no_next_token() -> None:
    lab = lk.Lab(build(UNUSUAL["llama_both_ways"]), Tokens(), name="both ways")
    table = logit_lens(lab, lab.trace([5, 17, 33, 8, 91], keep=("residual", "logits"))).table
    assert table["rank"].isna().all()
    assert table["logprob"].isna().all()
    assert table["top_probability"].notna().all()


def test_broken_weights_are_named() -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="broken")
    assert lab.anatomy
    with torch.no_grad():
        lab.model.model.layers[1].mlp.down_proj.weight[3, 3] = math.nan
    with pytest.raises(lk.Unavailable, match="none after layer 1"):
        logit_lens(lab, lab.trace(TEXT, ("residual", "logits")))


# attribution ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["layer", "head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_sum_to_the_logit(family: str, by: Any) -> None:
    lab, trace = case(family)
    capped = 3.0 if family == "gemma2" else None
    for position in (0, 4, -1):
        top = int(trace.logits[position].argmax())
        for chosen in ({}, {"token": 11}, {"token": 11, "against": 12}):
            frame = logit_attribution(lab, trace, position=position, by=by, **chosen)
            total = float(frame.contribution.sum())
            assert total == pytest.approx(frame.attrs["total"])
            assert abs(total - frame.attrs["logit"]) <= 1e-4 * scale(trace, position)
            assert frame.attrs["token_id"] == chosen.get("token", top)
            assert frame.attrs["softcap"] == capped
            truth = trace.logits[position]
            if "against" in chosen:
                if capped is None:
                    assert abs(total - float(truth[11] - truth[12])) <= 1e-4 * scale(trace, position)
            else:  # the cap is the last thing that happens to a logit
                shown = capped * math.tanh(total / capped) if capped else total
                assert abs(shown - float(truth[frame.attrs["token_id"]])) <= 1e-4 * scale(trace, position)
        assert frame.contribution.abs().min() > 0
    kinds = set(frame.component)
    assert ("head" in kinds) == (by == "head")
    assert ("norm_bias" in kinds) == (family in ("gpt2", "gpt_neox", "falcon", "bloom", "opt", "opt-projected", "phi"))
    assert ("unembedding_bias" in kinds) == (family == "phi")
    biased = ("gpt2", "gpt_neox", "bloom", "opt", "opt-projected", "phi", "gpt_oss")
    assert ("attention_bias" in kinds) == (by == "head" and family in biased)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_of_a_layer_sum_to_its_attention(family: str) -> None:
    lab, trace = case(family)
    layers = logit_attribution(lab, trace, token=11, by="layer")
    heads = logit_attribution(lab, trace, token=11, by="head")
    attention = layers[layers.component == "attention"].set_index("layer").contribution
    parts = heads[heads.component.isin(["head", "attention_bias"])].groupby("layer").contribution.sum()
    assert (heads[heads.component == "head"].groupby("layer").size() == trace.heads).all()
    assert parts.to_numpy(float) == pytest.approx(attention.to_numpy(float), abs=1e-4 * scale(trace))
    rest = heads[~heads.component.isin(["head", "attention_bias"])].contribution.to_numpy()
    assert rest == pytest.approx(layers[layers.component != "attention"].contribution.to_numpy())


def written_out(family: str, norm: nn.Module | None, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The norm of x with the scale it has at `at`, from its formula and its own parameters, in float64."""
    weight = getattr(norm, "weight", None)
    weight = torch.ones(x.shape[-1]) if weight is None else weight.detach()
    weight = (1 + weight if family.startswith("gemma") else weight).double()
    epsilon = next(float(getattr(norm, n)) for n in ("eps", "variance_epsilon", "epsilon") if hasattr(norm, n))
    centred = isinstance(norm, nn.LayerNorm)
    if centred:
        x, at = x - x.mean(-1, keepdim=True), at - at.mean(-1, keepdim=True)
    out = x / (at.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight
    bias = getattr(norm, "bias", None)
    return out if bias is None else out + bias.detach().double()


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "falcon", "olmo2", "granitemoe"]
)
def test_taking_a_part_out_of_the_last_residual_lowers_the_logit_by_its_contribution(family: str) -> None:
    """Recomputed in float64 from the formulas, without a line of the module under test."""
    lab, trace = case(family)
    position, token, against = 5, 11, 12
    norm, unembedding = lab.anatomy.final_norm, lab.anatomy.unembedding
    assert norm is not None
    assert unembedding is not None
    rows = unembedding.weight.detach().double()
    last = trace.residual(trace.layers)[position].double()
    factor = 1 / 3 if family == "granitemoe" else 1.0

    def difference(x: torch.Tensor) -> float:
        return factor * float(written_out(family, norm, x, last) @ (rows[token] - rows[against]))

    def taken_out(part: torch.Tensor) -> float:
        return difference(last) - difference(last - part)

    tolerance = 1e-4 * scale(trace, position)
    layers = logit_attribution(lab, trace, position=position, token=token, against=against)
    assert difference(last) == pytest.approx(layers.attrs["logit"], abs=tolerance)
    found = {(row.component, row.layer): row.contribution for row in layers.itertuples() if row.layer is not None}
    for i in range(trace.layers):
        assert found["attention", i] == pytest.approx(
            taken_out(trace.attention_output(i)[position].double()), abs=tolerance
        )
        assert found["mlp", i] == pytest.approx(taken_out(trace.mlp_output(i)[position].double()), abs=tolerance)
    embedding = float(layers[layers.component == "embedding"].contribution.iloc[0])
    assert embedding == pytest.approx(taken_out(trace.residual(0)[position].double()), abs=tolerance)

    heads = logit_attribution(lab, trace, position=position, token=token, against=against, by="head")
    for row in heads[heads.component == "head"].itertuples():
        i = int(row.layer)
        layer = lab.anatomy.layers[i]
        projection = layer.output_projection
        assert projection is not None
        matrix = projection.weight.detach().double()
        matrix = matrix if isinstance(projection, nn.Linear) else matrix.T  # Conv1D keeps (in, out)
        values = trace.head_output(i)[:, position].double()
        width = values.shape[-1]
        columns = matrix.reshape(matrix.shape[0], trace.heads, width)
        part = columns[:, row.head] @ values[row.head]
        if family in ("gemma2", "gemma3_text", "olmo2"):
            part = written_out(family, layer.attention, part, torch.einsum("dhv,hv->d", columns, values))
        part = part * (0.5 if family == "granitemoe" else 1.0)
        assert row.contribution == pytest.approx(taken_out(part), abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_other_number_formats(family: str, dtype: torch.dtype) -> None:
    lab = make_lab(family, dtype)
    trace = lab.trace(TEXT, KEEP)
    exactness = {torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype] * scale(trace)
    torch.testing.assert_close(lens_logits(lab, trace, -1), trace.logits, atol=exactness, rtol=0)
    for by in ("layer", "head"):
        attrs = logit_attribution(lab, trace, by=by).attrs
        assert attrs["total"] == pytest.approx(attrs["logit"], abs=exactness)


def test_a_token_may_be_its_text_and_a_trace_may_come_from_disk(tiny_lab: lk.Lab, tmp_path: Path) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    (cat,) = tiny_lab.tokenizer(" cat").input_ids
    (mat,) = tiny_lab.tokenizer(" dog").input_ids
    by_text = logit_attribution(tiny_lab, trace, token=" cat", against=" dog", position=3)
    assert (by_text.attrs["token_id"], by_text.attrs["against_id"]) == (cat, mat)
    assert (by_text.attrs["token"], by_text.attrs["against"]) == (" cat", " dog")
    again = Trace.load(trace.save(tmp_path / "t.safetensors"))
    assert by_text.equals(logit_attribution(tiny_lab, again, token=cat, against=mat, position=3 - len(trace)))
    assert logit_lens(tiny_lab, again).equals(logit_lens(tiny_lab, trace))


def test_reading_is_not_touched_by_hooks_inference_mode_or_gradients(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    plain = logit_attribution(tiny_lab, trace, by="head")
    handles = [m.register_forward_hook(lambda *_: torch.zeros(1)) for m in tiny_lab.model.modules()]
    with torch.inference_mode():
        hooked = logit_attribution(tiny_lab, trace, by="head")
    for handle in handles:
        handle.remove()
    assert hooked.equals(plain)
    assert all(p.grad is None for p in tiny_lab.model.parameters())
    assert not lens_logits(tiny_lab, trace, 0).requires_grad


# what can't be had ----------------------------------------------------------------------------------------------------


def test_what_was_not_kept_is_named(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.Unavailable, match=r"^residual not kept .* keep=\('residual', 'logits'\)"):
        logit_lens(tiny_lab, tiny_lab.trace(TEXT))
    kept = tiny_lab.trace(TEXT, ("residual", "mlp_output", "logits"))
    with pytest.raises(lk.Unavailable, match=r"^attention_output and head_output not kept .*'head_output'\)"):
        logit_attribution(tiny_lab, kept, by="head")
    mamba, trace = case("mamba")
    with pytest.raises(lk.Unavailable, match="attention_output can't be had from tiny mamba"):
        logit_attribution(mamba, trace)


def test_a_trace_of_another_model_is_refused(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    other = lk.Lab(fuzz.tiny_model(seed=1).eval(), tiny_lab.tokenizer, name="other")
    for wrong in (other, case("gpt2")[0]):
        for measure in (logit_lens, logit_attribution):
            with pytest.raises(lk.Unavailable, match="another model"):
                measure(wrong, trace)  # type: ignore[operator]
    longer = fuzz.tiny_model().eval()
    longer.model.layers.append(longer.model.layers[0])
    longer.config.num_hidden_layers = 3
    with pytest.raises(lk.BadInput, match="2 layers and the lab's model 3"):
        logit_lens(lk.Lab(longer, tiny_lab.tokenizer), trace)


def test_parts_that_do_not_add_up_are_said_not_shown(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    trace._layered["mlp_output"][0] += 1.0 + torch.arange(32) / 32
    with pytest.raises(lk.Unavailable, match=r"sum to .* and its logit is"):
        logit_attribution(tiny_lab, trace)
    trace = tiny_lab.trace(TEXT, KEEP)
    trace._layered["head_output"][1] *= 1.5  # as a gate between the heads and the projection would
    assert len(logit_attribution(tiny_lab, trace)) == 5
    with pytest.raises(lk.Unavailable, match=r"heads of layer 1 .* by='layer'"):
        logit_attribution(tiny_lab, trace, by="head")


def test_a_norm_of_another_kind_is_not_taken_for_one(tiny_lab: lk.Lab) -> None:
    class Squash(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(40 * x) + x

    tiny_lab.model.model.norm = Squash()
    object.__setattr__(tiny_lab.anatomy, "final_norm", tiny_lab.model.model.norm)  # it would not find it by its name
    trace = tiny_lab.trace(TEXT, KEEP)
    assert len(logit_lens(tiny_lab, trace)), "the lens needs no more of a norm than that it can be run"
    with pytest.raises(lk.Unavailable, match="neither a LayerNorm nor an RMSNorm"):
        logit_attribution(tiny_lab, trace)


def test_bad_input_has_its_remedy(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    vocabulary = trace.logits.shape[-1]
    last = len(trace) - 1
    for wrong, message in [
        ({"position": len(trace)}, rf"positions 0 to {last}"),
        ({"position": -len(trace) - 1}, rf"positions 0 to {last}"),
        ({"position": 1.0}, "no position 1.0"),
        ({"token": " cat dog"}, "' cat' \\+ ' dog'"),
        ({"token": ""}, "nothing"),
        ({"token": vocabulary}, rf"tokens 0 to {vocabulary - 1}"),
        ({"token": -1}, "no token -1"),
        ({"token": True}, "neither"),
        ({"token": 5, "against": 5}, "same token"),
        ({"by": "neuron"}, '"layer" or "head"'),
    ]:
        with pytest.raises(lk.BadInput, match=message):
            logit_attribution(tiny_lab, trace, **wrong)  # type: ignore[arg-type]
    for k in (0, vocabulary + 1, 1.5, True):
        with pytest.raises(lk.BadInput, match=f"1 to {vocabulary}"):
            logit_lens(tiny_lab, trace, k=k)  # type: ignore[arg-type]
    row = logit_lens(tiny_lab, trace).iloc[-1]  # numbers of a DataFrame are numbers too
    again = logit_attribution(tiny_lab, trace, position=row.position, token=row.top_id)
    assert again.equals(logit_attribution(tiny_lab, trace))
    assert len(logit_lens(tiny_lab, trace, k=vocabulary).top_ids[0]) == vocabulary
    for layers in (3, [-4], []):
        with pytest.raises(lk.BadInput, match="0 to 2"):
            lens_logits(tiny_lab, trace, layers)
    with pytest.raises(lk.BadInput, match=r"' tree' is one"):
        logit_attribution(tiny_lab, trace, token="tree")


# a real model ---------------------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_the_default_model_names_the_capital_late_and_a_few_heads_write_it(default_lab: lk.Lab) -> None:
    trace = default_lab.trace("The capital of France is", KEEP)
    frame = logit_lens(default_lab, trace, k=5)
    answer = frame[frame.position == len(trace) - 1].set_index("layer")
    assert answer.top_token[30] == " Paris"
    assert (answer.top_token[:20] != " Paris").all(), (
        "if it could be read this early the story of the lens would be another"
    )
    assert answer.kl[30] < 1e-4 < 1 < answer.kl[15]
    torch.testing.assert_close(lens_logits(default_lab, trace, 30), trace.logits, atol=1e-4, rtol=0)
    (paris,) = default_lab.tokenizer(" Paris").input_ids
    (rome,) = default_lab.tokenizer(" Rome").input_ids
    difference = float(trace.logits[-1, paris] - trace.logits[-1, rome])
    for by, rows in (("layer", 1 + 2 * 30), ("head", 1 + 30 * (9 + 1))):
        parts = logit_attribution(default_lab, trace, token=" Paris", against=" Rome", by=by)  # type: ignore[arg-type]
        assert len(parts) == rows
        assert float(parts.contribution.sum()) == pytest.approx(difference, abs=1e-4 * scale(trace))
    strongest = parts.contribution.nlargest(5)
    assert strongest.sum() > difference, "five of the 301 parts outweigh all the others together"


# charts ---------------------------------------------------------------------------------------------------------------


def test_the_lens_chart_draws_the_frame(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    frame = logit_lens(tiny_lab, trace, k=2)
    (heat,) = lens_chart.lens(frame).data
    assert [list(row) for row in heat.z] == [list(frame[frame.layer == i].top_probability) for i in range(3)]
    following = lens_chart.lens(frame, colour="next")
    (heat,) = following.data
    assert heat.z[1][0] == pytest.approx(math.exp(frame[(frame.layer == 1) & (frame.position == 0)].logprob.iloc[0]))
    assert all(math.isnan(row[-1]) for row in heat.z)
    assert "next token" in heat.colorbar.title.text
    assert list(following.layout.yaxis.ticktext) == ["0 (embedding)", "1", "2 (output)"]
    some = (frame.position >= 2) & (frame.position < 5)
    part = lens_chart.lens(frame.table[some])
    assert list(lens_chart.lens(frame[some]).layout.yaxis.ticktext) == ["0 (embedding)", "1", "2 (output)"]
    assert list(part.layout.xaxis.ticktext) == [t.replace(" ", "·") for t in trace.tokens[2:5]]
    shuffled = lens_chart.lens(frame.sample(frac=1, random_state=0))
    assert (shuffled.data[0].z == lens_chart.lens(frame).data[0].z).all()


def test_the_sentence_over_the_lens_is_computed(tiny_lab: lk.Lab) -> None:
    frame = logit_lens(tiny_lab, tiny_lab.trace(TEXT, KEEP))
    frame["top_id"] = 7
    assert lens_chart.lens(frame).layout.title.text == "Half of the final predictions can be read after 0 of 2 layers"
    frame.loc[frame.layer == 1, "top_id"] = 8  # read, lost and found again: only the last stretch counts
    assert "after 2 of 2" in lens_chart.lens(frame).layout.title.text


def test_the_bars_sum_to_the_logit(tiny_lab: lk.Lab) -> None:
    frame = logit_attribution(tiny_lab, tiny_lab.trace(TEXT, KEEP), token=" cat", against=" dog", by="head")
    for most in (3, 30):
        figure = lens_chart.attribution(frame, most=most)
        (bars,) = figure.data
        assert len(bars.x) == min(most + 1, len(frame))
        assert sum(bars.x) == pytest.approx(frame.attrs["logit"], abs=1e-4)
    best = frame.loc[frame.contribution.idxmax()]
    assert f"{best.contribution:+.2f}" in figure.layout.title.text
    assert "“·cat” over “·dog”" in figure.layout.title.text
    assert "difference" in figure.layout.xaxis.title.text
    signs = [value >= 0 for value in bars.x]
    assert list(bars.marker.color) == [lens_chart.FOR if sign else lens_chart.AGAINST for sign in signs]
    assert True in signs
    assert False in signs


def test_tokens_in_the_charts_are_text() -> None:
    hostile = "<img src=x onerror=alert(1)> $x$ %{z}\n"
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name=hostile)
    trace = lab.trace(TEXT, KEEP)
    frame = logit_lens(lab, trace, k=2)
    for column in ("token", "top_token", "next_token"):
        frame[column] = hostile
    frame["top_tokens"] = [(hostile, hostile)] * len(frame)
    parts = logit_attribution(lab, trace)
    parts = replace(parts, token=hostile, against=hostile)
    assert "<img" not in parts._repr_html_()
    assert "<img" not in frame._repr_html_()
    for figure in (lens_chart.lens(frame), lens_chart.attribution(parts), lens_chart.attribution(parts, title=hostile)):
        written = figure.to_json()
        assert "<img" not in written
        assert "\\u003cimg" not in written
        assert "$x$" not in written
    assert "&lt;img" in lens_chart.lens(frame).data[0].text[0][0]


def test_charts_refuse_what_they_can_not_draw(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT, KEEP)
    frame, parts = logit_lens(tiny_lab, trace), logit_attribution(tiny_lab, trace)
    with pytest.raises(lk.BadInput, match="logit_lens"):
        lens_chart.lens(parts)
    with pytest.raises(lk.BadInput, match="logit_attribution"):
        lens_chart.attribution(frame)
    with pytest.raises(lk.BadInput, match="nothing to draw"):
        lens_chart.lens(frame[:0])
    with pytest.raises(lk.BadInput, match='give "top" or "next"'):
        lens_chart.lens(frame, colour="rank")  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="several rows"):
        lens_chart.lens(frame.loc[[0, 0]])
    with pytest.raises(lk.BadInput, match="most=0"):
        lens_chart.attribution(parts, most=0)
