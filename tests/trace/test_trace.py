"""The Trace as a user meets it: inputs, what it holds, that it owns it, and what it says of mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.trace import interface
from labkit.trace.record import KEEP, token_loss

ALL = tuple(name for name in KEEP if name not in ("routes", "state"))  # which a model of dense attention has not
TEXT = "abc and abc again"


def test_tokens_and_ids_are_the_models(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT)
    assert trace.ids == tiny_lab.tokenizer(TEXT).input_ids
    assert "".join(trace.tokens).endswith(TEXT)
    assert len(trace) == len(trace.ids)
    assert (trace.layers, trace.heads) == (tiny_lab.config.num_hidden_layers, tiny_lab.config.num_attention_heads)
    assert trace.logits.shape == (len(trace), tiny_lab.config.vocab_size)
    assert trace.logits.dtype is torch.float32


def test_everything_that_can_be_traced_gives_the_same(tiny_lab: lk.Lab) -> None:
    ids = tiny_lab.tokenizer(TEXT).input_ids
    reference = tiny_lab.trace(TEXT).logits
    for what in (ids, torch.tensor(ids), torch.tensor([ids])):
        assert torch.equal(tiny_lab.trace(what).logits, reference)
    gen = tiny_lab.generate(TEXT, chat=False, max_new_tokens=5)
    whole = tiny_lab.trace(gen)
    assert whole.ids == gen.prompt_ids + gen.ids
    surprise = -whole.loss[len(gen.prompt_ids) :]
    assert torch.allclose(surprise, gen.logprobs, atol=1e-4)
    tiny_lab.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert tiny_lab.trace([{"role": "user", "content": TEXT}]).ids == tiny_lab.trace(TEXT, chat=True).ids
    assert [len(t) for t in tiny_lab.trace([TEXT, "a"])] == [len(ids), len(tiny_lab.tokenizer("a").input_ids)]


def test_loss_is_the_cross_entropy(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT)
    ids = torch.tensor([trace.ids])
    with torch.no_grad():
        expected = tiny_lab.model(input_ids=ids, labels=ids).loss
    assert math.isnan(trace.loss[0])
    assert torch.allclose(trace.loss[1:].mean(), expected, atol=1e-5)
    best, probability = trace.next(k=3)
    assert torch.allclose(probability, trace.logits[-1].softmax(-1)[best])


def test_loss_of_logits_is_counted_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(2)], [5.0, -5.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.bfloat16)
    loss = token_loss(logits, [0, 2, 1])
    assert loss.dtype is torch.float32
    assert math.isnan(loss[0])
    rounded = logits.double().softmax(-1)
    torch.testing.assert_close(loss[1:].double(), -torch.stack([rounded[0, 2], rounded[1, 1]]).log())
    assert token_loss(logits[:1], [0]).isnan().tolist() == [True]


def test_rows_alone_are_rows_of_the_whole(tiny_lab: lk.Lab) -> None:
    trace = tiny_lab.trace(TEXT)
    whole = trace.attention(1)
    assert torch.allclose(trace.attention(1, rows=[2, -1]), whole[:, [2, -1]], atol=1e-6)
    assert torch.allclose(trace.attention(1, 2, rows=slice(3, 6)), whole[2, 3:6], atol=1e-6)
    assert trace.queries(1).shape[0] == trace.heads
    assert trace.keys(1).shape[0] == trace.kv_heads
    assert torch.equal(trace.queries(1, -1), trace.queries(1)[-1])


def test_a_trace_outlives_every_change(tiny_lab: lk.Lab) -> None:
    """It holds what it needs: weights written, edits and close() after it can't change what it shows."""
    trace = tiny_lab.trace(TEXT, keep=ALL)
    before = (trace.attention(1).clone(), trace.logits.clone(), trace.residual(1).clone(), trace.mlp_output(0).clone())
    with tiny_lab.edit(lk.ablate_head(0, 1)):
        tiny_lab.trace(TEXT, keep=ALL)
        assert torch.equal(trace.attention(1), before[0])
    with torch.no_grad():
        for parameter in tiny_lab.model.parameters():
            parameter.zero_()
    tiny_lab.close()
    assert torch.equal(trace.attention(1), before[0])
    assert torch.equal(trace.logits, before[1])
    assert torch.equal(trace.residual(1), before[2])
    assert torch.equal(trace.mlp_output(0), before[3])
    with pytest.raises(lk.LabClosed):
        tiny_lab.trace(TEXT)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mixtral", "mistral", "falcon_grouped"])
def test_saved_and_opened_without_the_model(name: str, tmp_path: Path) -> None:
    from families import FAMILIES, Tokens, build

    lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
    keep = tuple(k for k in KEEP if lab.support()[k] is None)
    trace = lab.trace(list(range(3, 23)), keep=keep)
    same = lk.Trace.load(trace.save(tmp_path / "trace.safetensors"))
    assert (same.tokens, same.ids, same.keep, same.model, same.notes) == (
        trace.tokens,
        trace.ids,
        trace.keep,
        trace.model,
        trace.notes,
    )
    assert torch.equal(same.logits, trace.logits)
    for layer in range(trace.layers):
        assert torch.equal(same.attention(layer), trace.attention(layer))
        assert torch.equal(same.residual(layer + 1), trace.residual(layer + 1))
    if "routes" in keep:
        assert torch.equal(same.routes.experts, trace.routes.experts)
        assert same.routes.layers == trace.routes.layers


def test_the_special_tokens_of_a_text_are_kept(tmp_path: Path) -> None:
    from families import FAMILIES, Tokens, build
    from safetensors import safe_open
    from safetensors.torch import save_file

    class WithStart(Tokens):
        all_special_ids = (2, 1, 50)

    model = build(FAMILIES["llama2"])
    trace, other = lk.Lab(model, WithStart(), name="tiny").trace([[1, 5, 6, 2, 1], [5, 6]])
    assert (trace.special, other.special) == ((1, 2), ())
    assert lk.Lab(model, Tokens(), name="tiny").trace([1, 5]).special == ()
    path = trace.save(tmp_path / "trace.safetensors")
    assert lk.Trace.load(path).special == (1, 2)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["labkit"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    del facts["special"]
    save_file(tensors, path, metadata={"labkit": json.dumps(facts)})
    assert lk.Trace.load(path).special == (), "a file of before"


def test_a_damaged_file_is_refused(tmp_path: Path, tiny_lab: lk.Lab) -> None:
    path = tiny_lab.trace(TEXT).save(tmp_path / "t.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(lk.BadModelFile, match="trace the text again"):
        lk.Trace.load(path)
    with pytest.raises(lk.BadInput, match="no file"):
        lk.Trace.load(tmp_path / "none")
    assert not list(tmp_path.glob("*.partial"))


def test_the_default_keeps_little_memory(tiny_lab: lk.Lab) -> None:
    """Queries and keys, no view of anything larger, and one mask for all layers or none."""
    trace = tiny_lab.trace(TEXT)
    for layer in trace._attention.values():
        assert layer.query is not None
        assert layer.query.untyped_storage().nbytes() == layer.query.numel() * 4
        assert layer.mask is None, "plain causal attention needs no mask"
    assert not trace._layered


# bad input -----------------------------------------------------------------------------------------------------------


def test_what_shares_a_tensor_is_saved_whole(tiny_lab: lk.Lab, tmp_path: Path) -> None:
    """Layers may hand on the very same tensor, or views of one: safetensors takes none of these."""
    import dataclasses

    trace = tiny_lab.trace(TEXT, keep=("mlp_output", "residual"))
    one = trace.residual(1)
    layered = {"residual": {**trace._layered["residual"], 1: one, 2: one}, "mlp_output": {0: one[:2], 1: one[2:]}}
    same = lk.Trace.load(dataclasses.replace(trace, _layered=layered).save(tmp_path / "t.safetensors"))
    assert torch.equal(same.residual(2), one)
    assert torch.equal(torch.cat([same.mlp_output(0), same.mlp_output(1)]), one)


@pytest.fixture
def trace(tiny_lab: lk.Lab) -> lk.Trace:
    return tiny_lab.trace(TEXT, keep=("attention", "logits", "residual"))


def test_a_layer_head_or_token_that_is_not_there(trace: lk.Trace) -> None:
    last = trace.layers - 1
    with pytest.raises(lk.BadInput, match=rf"no layer 99: tiny has layers 0 to {last}"):
        trace.attention(99)
    with pytest.raises(lk.BadInput, match=rf"no head 44: tiny has heads 0 to {trace.heads - 1}"):
        trace.attention(0, 44)
    with pytest.raises(lk.BadInput, match=rf"no residual {trace.layers + 1}: tiny has residuals 0 to {trace.layers}"):
        trace.residual(trace.layers + 1)
    with pytest.raises(lk.BadInput, match=rf"no token {len(trace)}: this text has tokens 0 to {len(trace) - 1}"):
        trace.attention(0, rows=[len(trace)])
    with pytest.raises(lk.BadInput, match="rows='02' can't be used; give a list of whole numbers, or a slice"):
        trace.attention(0, rows="02")  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match=r"k=0 can't be used; give a whole number from 1 to"):
        trace.next(k=0)
    with pytest.raises(lk.BadInput, match="no layer 'first'"):
        trace.attention("first")  # type: ignore[arg-type]


def test_what_was_not_kept_names_the_argument(trace: lk.Trace) -> None:
    with pytest.raises(lk.Unavailable, match=r"keep=\('mlp_output'"):
        trace.mlp_output(0)
    with pytest.raises(lk.Unavailable, match=r"router"):
        trace.routes  # noqa: B018


def test_a_place_that_is_not_there_has_near_matches(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="did you mean 'residual'"):
        tiny_lab.trace(TEXT, keep="residuals")


@pytest.mark.parametrize("what", ["", [], 7, None, [1.5], [-1]])
def test_what_can_not_be_traced(tiny_lab: lk.Lab, what: Any) -> None:
    with pytest.raises(lk.BadInput):
        tiny_lab.trace(what)


def test_ids_and_texts_beyond_the_model(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="There is no token 100000"):
        tiny_lab.trace([1, 100_000])
    assert tiny_lab.context is not None
    with pytest.raises(lk.BadInput, match=f"context holds {tiny_lab.context:,}"):
        tiny_lab.trace([1] * (tiny_lab.context + 1))


def test_nan_is_marked_not_hidden(tiny_lab: lk.Lab) -> None:
    with torch.no_grad():
        tiny_lab.model.model.layers[1].self_attn.q_proj.weight[0, 0] = math.nan
    trace = tiny_lab.trace(TEXT)
    assert not trace.attention(0).isnan().any()
    assert trace.attention(1).isnan().any(), "sdpa itself turns such scores into zeros; the pattern must not"
    with torch.no_grad():
        tiny_lab.model.lm_head.weight[0, 0] = math.nan
    trace = tiny_lab.trace(TEXT)
    assert trace.logits.isnan().any()
    assert any("NaN" in note for note in trace.notes)


def test_a_users_hook_that_raises_leaves_nothing_behind(tiny_lab: lk.Lab) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the user's own")

    tiny_lab.anatomy  # noqa: B018 - found before the hook is there
    handle = tiny_lab.model.model.layers[1].mlp.register_forward_hook(broken)
    before = [(*m._forward_hooks, *m._forward_pre_hooks) for m in tiny_lab.model.modules()]
    with pytest.raises(RuntimeError, match="the user's own"):
        tiny_lab.trace(TEXT, keep=ALL)
    assert [(*m._forward_hooks, *m._forward_pre_hooks) for m in tiny_lab.model.modules()] == before
    assert not interface._LISTENERS
    assert not interface._REPLACED
    handle.remove()
    assert len(tiny_lab.trace(TEXT)) == len(tiny_lab.tokenizer(TEXT).input_ids)


@pytest.fixture
def other_model() -> Any:
    return fuzz.tiny_model(1).eval()


def test_other_models_are_not_seen(tiny_lab: lk.Lab, other_model: Any) -> None:
    """A forward pass of another model while ours is tapped goes its own way."""
    ids = torch.tensor([tiny_lab.tokenizer(TEXT).input_ids])
    with torch.no_grad():
        expected = other_model(ids).logits
    seen = []

    def run_other(*_: Any) -> None:
        with torch.no_grad():
            seen.append(other_model(ids).logits)

    handle = tiny_lab.model.model.layers[0].register_forward_hook(run_other)
    trace = tiny_lab.trace(TEXT)
    handle.remove()
    assert torch.equal(seen[-1], expected)
    assert len(trace._attention) == trace.layers


@pytest.mark.real_model
def test_the_default_model_looks_where_it_should(default_lab: lk.Lab) -> None:
    """Facts about a real model: the first token is a sink, and repeated text is found again by some head."""
    words = " red blue green cat dog tree house river stone cloud"
    trace = default_lab.trace(words + words)
    half = len(trace) // 2
    best = 0.0
    sink = []
    for layer in range(trace.layers):
        whole = trace.attention(layer)
        sink.append(whole[:, 1:, 0].mean().item())
        rows = torch.arange(half, len(trace) - 1)
        best = max(best, whole[:, rows, rows - half + 1].mean(-1).max().item())
    assert sum(sink) / len(sink) > 0.4
    assert best > 0.5, "no head looks at what followed the same word before"


def test_families_that_ask_for_the_implementations_name() -> None:
    """Some modeling files test the configured name; while a model is looked at, it has to stay what it is."""
    from families import GROUPED, Family, Tokens, build

    fields = GROUPED | {"reorder_and_upcast_attn": True, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    lab = lk.Lab(build(Family("gpt2", fields), implementation="eager"), Tokens(), name="gpt2")
    ids = list(range(3, 30))
    with torch.no_grad():
        plain = lab.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    assert torch.equal(lab.trace(ids, keep=("logits", "residual")).logits, plain)


def test_implementations_that_hide_their_mask_are_refused(tiny_lab: lk.Lab) -> None:
    import dataclasses

    from labkit.trace.instruments import support

    hidden = dataclasses.replace(tiny_lab.anatomy, implementation="flash_attention_2")
    for name in ("attention", "queries", "values", "head_output"):
        reason = support(hidden)[name]
        assert reason is not None
        assert "attn_implementation='sdpa'" in reason


def test_dropout_is_off_while_looking(tiny_lab: lk.Lab) -> None:
    tiny_lab.model.config.attention_dropout = 0.5
    for layer in tiny_lab.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tiny_lab.model.train()
    trace = tiny_lab.trace(TEXT, keep=("attention", "values", "head_output"))
    values = trace.values(1).repeat_interleave(trace.heads // trace.kv_heads, 0)
    assert torch.allclose(trace.attention(1) @ values, trace.head_output(1), atol=1e-5)
    assert all(module.training for module in tiny_lab.model.modules())


def test_a_text_of_a_list_holds_its_own_memory_only(tiny_lab: lk.Lab) -> None:
    short, _ = tiny_lab.trace(["a", "abc and abc again and again"], keep=ALL)
    for tensor in (short._attention[0].query, short._logits, short.residual(1)):
        assert tensor is not None
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_users_subclass_is_seen_as_its_parent() -> None:
    from transformers import LlamaForCausalLM

    class Mine(LlamaForCausalLM):
        pass

    model = fuzz.tiny_model()
    mine = Mine(model.config).eval()
    mine.load_state_dict(model.state_dict())
    assert lk.Lab(mine, fuzz.tiny_tokenizer()).support()["queries"] is None


def test_a_model_that_computes_nan_is_looked_at_again_when_mended(tiny_lab: lk.Lab) -> None:
    weight = tiny_lab.model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        kept = weight.clone()
        weight[0, 0] = math.nan
        assert "NaN" in str(tiny_lab.support()["mlp_output"])
        weight.copy_(kept)
    assert tiny_lab.support()["mlp_output"] is None


def test_an_edit_in_a_generator_closed_by_another_thread(tiny_lab: lk.Lab) -> None:
    import threading

    def inside() -> Any:
        with tiny_lab.edit(lk.ablate_head(0, 0)):
            yield 1

    generator = inside()
    next(generator)
    closer = threading.Thread(target=generator.close, daemon=True)
    closer.start()
    closer.join(20)
    assert not closer.is_alive(), "the other thread hangs"
    assert not interface._LISTENERS


@pytest.mark.parametrize(
    "misuse",
    [
        lambda t: t.next(999),
        lambda t: t.next(k=10**6),
        lambda t: t.attention(0, rows=3),
        lambda t: t.attention(0, rows=[1.7]),
        lambda t: t.save("/no/such/folder/t.safetensors"),
    ],
)
def test_misuse_is_told_in_a_sentence(trace: lk.Trace, misuse: Any) -> None:
    with pytest.raises(lk.BadInput):
        misuse(trace)


# windows ------------------------------------------------------------------------------------------------------------


def windowed(mask: torch.Tensor | None, length: int = 8, pattern: torch.Tensor | None = None) -> lk.Trace:
    from labkit.trace.record import LayerAttention, Trace

    query = torch.zeros(2, length, 4)
    kept = LayerAttention(query=query, key=query, mask=mask) if pattern is None else LayerAttention(pattern=pattern)
    return Trace(["t"] * length, list(range(length)), "m", "llama", 2, 2, 2, ("attention",), {}, _attention={0: kept})


def band(length: int, width: int) -> torch.Tensor:
    """True where a query may look: at itself and the width - 1 tokens before it."""
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    return (distance >= 0) & (distance < width)


def test_a_sliding_window_is_told_by_its_mask() -> None:
    for width in range(1, 8):
        assert windowed(band(8, width)).window(0) == width
        additive = torch.zeros(8, 8).masked_fill(~band(8, width), -torch.inf)
        assert windowed(additive[None]).window(0) == width
        lowest = torch.zeros(2, 8, 8).masked_fill(~band(8, width), torch.finfo(torch.float32).min)
        assert windowed(lowest).window(0) == width
        weights = windowed(band(8, width)).attention(0, 0)
        assert torch.equal(weights > 0, band(8, width)), "the pattern has that window"


def test_what_is_no_sliding_window_has_none() -> None:
    assert windowed(None).window(0) is None
    assert windowed(band(8, 8)).window(0) is None, "all before it can be seen"
    assert windowed(torch.ones(8, 8, dtype=torch.bool)).window(0) is None
    chunked = band(8, 8) & (torch.arange(8)[:, None] // 4 == torch.arange(8)[None] // 4)
    assert windowed(chunked).window(0) is None
    biased = -torch.rand(1, 8, 8).masked_fill(~band(8, 8), torch.inf)
    assert windowed(biased).window(0) is None, "a bias is no window"
    stored = torch.eye(8).repeat(2, 1, 1)
    assert windowed(None, pattern=stored).window(0) is None
    assert windowed(None).window(1) is None, "a layer without attention"
    with pytest.raises(lk.BadInput, match="no layer 2"):
        windowed(None).window(2)


def test_windows_of_a_model_with_both_kinds_of_layers() -> None:
    from families import FAMILIES, Tokens, build

    lab = lk.Lab(build(FAMILIES["gemma2"]), Tokens(), name="gemma2")
    trace = lab.trace(list(range(3, 43)))
    width = lab.config.sliding_window
    kinds = [kind == "sliding_attention" for kind in lab.config.layer_types]
    assert True in kinds
    assert False in kinds
    for layer, sliding in enumerate(kinds):
        assert trace.window(layer) == (width if sliding and width < 40 else None)
        seen = (trace.attention(layer)[0, -1] > 0).sum()
        assert seen == (min(width, 40) if sliding else 40)


def test_heads_that_share_a_key_have_their_own_pattern() -> None:
    from labkit.trace.record import LayerAttention, pattern

    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(6, 9, 4, generator=generator), torch.randn(2, 9, 4, generator=generator)
    got = pattern(LayerAttention(query=query, key=key, scaling=0.5, softcap=2.0))
    for head in range(6):
        scores = query[head].double() @ key[head // 3].double().T * 0.5
        scores = 2.0 * torch.tanh(scores / 2.0)
        scores = scores.masked_fill(~band(9, 9), -torch.inf)
        assert torch.allclose(got[head].double(), scores.softmax(-1), atol=1e-6)
