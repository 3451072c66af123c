"""The table of instruments: every row can be kept, read, edited, patched, saved and opened by its name alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.trace.instruments import BY_NAME, INSTRUMENTS, KEEP, PATCHED, PLACES, as_markdown, named
from labkit.trace.record import checked_keep

IDS = [5, 17, 33, 8, 91, 42, 17, 33, 64]
DOCS = Path(__file__).parents[2] / "docs" / "instruments.md"
ROWS = [row.name for row in INSTRUMENTS if row.put is not None]


@pytest.fixture(scope="module")
def dense() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")


@pytest.fixture(scope="module")
def recurrent() -> lk.Lab:
    return lk.Lab(build(FAMILIES["mamba"]), Tokens(), name="mamba")


def last_token(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 11]


def test_the_docs_hold_the_table() -> None:
    assert as_markdown() in DOCS.read_text("utf-8"), "write the table anew: labkit.trace.instruments.as_markdown()"


def test_docstrings_list_every_instrument() -> None:
    for name in KEEP:
        assert f'"{name}"' in str(lk.Trace.__doc__)
    for name in PLACES:
        assert f"{name} {BY_NAME[name].shape}" in str(lk.patch.__doc__)
    for short in PATCHED:
        assert f'"{short}"' in str(lk.patching.__doc__)
    assert "{" not in str(lk.Trace.__doc__) + str(lk.patch.__doc__) + str(lk.patching.__doc__)


def test_rows_are_whole() -> None:
    assert len(BY_NAME) == len(INSTRUMENTS)
    for row in INSTRUMENTS:
        assert (row.put is None) == bool(row.no_edit), "what can't be changed says why"
        assert row.put is not None or row.see is not None
        assert row.keep in KEEP
        assert row.storage is not None or row.kept_by is not None


def test_support_has_each_row(dense: lk.Lab) -> None:
    assert list(dense.support()) == [row.name for row in INSTRUMENTS]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_by_its_name_alone(dense: lk.Lab, recurrent: lk.Lab, name: str, tmp_path: Path) -> None:
    """Kept, read, differentiated, saved, opened and edited: what a new row has without another line."""
    row = named(name)
    dense = recurrent if name == "state" else dense
    trace = dense.trace(IDS, keep=row.keep, gradients=last_token)
    layer = None if row.per == "pass" else 1
    value, gradient = trace.tensor(name, layer), trace.gradient(name, layer)
    assert value.shape == gradient.shape
    assert value.shape[0 if row.token_shape is not None else -2] == len(IDS)
    assert bool(gradient.any())
    if row.heads is not None:
        assert torch.equal(trace.tensor(name, layer, 1), value[1])
        assert torch.equal(trace.gradient(name, layer, -1), gradient[-1])
    else:
        with pytest.raises(lk.BadInput, match="has no heads"):
            trace.tensor(name, layer, 0)
    method = getattr(trace, name)
    assert torch.equal(method if row.per == "pass" else method(layer), value)

    same = lk.Trace.load(trace.save(tmp_path / "trace.safetensors"))
    assert torch.equal(same.tensor(name, layer), value)
    assert torch.equal(same.gradient(name, layer), gradient)
    assert same.scalar == trace.scalar

    place = f"{name} @ 3" if layer is None else f"{name}[{layer}] @ 3"
    with dense.edit(lk.patch(place, lambda x: x * 0 + 2.0)):
        edited = dense.trace(IDS, keep=(row.keep, "logits"))
    now, before = edited.tensor(name, layer), value
    if row.token_shape is not None:  # tokens come first, and what each has after them
        now, before = now.flatten(1), before.flatten(1)
    assert bool((now[..., 3, :] == 2).all())
    assert torch.allclose(now[..., :3, :], before[..., :3, :], atol=0 if row.token_shape is None else 1e-6)
    assert not torch.allclose(edited.logits[3:], dense.trace(IDS, keep="logits").logits[3:])


@pytest.mark.parametrize("at", PATCHED)
def test_patching_takes_what_the_table_says(dense: lk.Lab, recurrent: lk.Lab, at: str) -> None:
    """At every place at once a patch brings the clean run back; one by one it is an edit with the clean value."""
    dense = recurrent if at == "state" else dense
    other = [*IDS[:4], 60, *IDS[5:]]
    found = lk.patching(dense, IDS, other, lambda logits: logits[-1, 7], at=at, progress=False)
    row = named(PATCHED[at])
    clean = dense.trace(IDS, keep=row.keep)
    layer = max(row.layers(dense.anatomy))
    case = found.table[found.table.layer == layer].iloc[-1]
    if row.heads is None:
        place = f"{row.name} @ 8" if row.per == "pass" else f"{row.name}[{layer}] @ 8"
        value = clean.tensor(row.name, None if row.per == "pass" else layer)[8]
    else:
        place, value = f"{row.name}[{layer}, {int(case['head'])}]", clean.tensor(row.name, layer, int(case["head"]))
    with dense.edit(lk.patch(place, value)):
        expected = float(dense.trace(other, keep="logits").logits[-1, 7])
    assert case["value"] == pytest.approx(expected, abs=1e-4)
    heads = dense.anatomy.layers[0].heads
    assert len(found.table) == len(row.layers(dense.anatomy)) * (len(IDS) if row.heads is None else heads)


def test_names_that_are_not_there(dense: lk.Lab) -> None:
    trace = dense.trace(IDS, keep=("residual", "embedding"))
    with pytest.raises(lk.BadInput, match="did you mean 'residual'"):
        trace.tensor("residuals", 0)
    with pytest.raises(lk.BadInput, match="did you mean 'mlp_neurons'"):
        checked_keep("mlp_neuron")
    with pytest.raises(lk.BadInput, match="is of a layer"):
        trace.tensor("residual")
    with pytest.raises(lk.BadInput, match="has no layer 1"):
        trace.tensor("embedding", 1)
    with pytest.raises(lk.Unavailable, match=r"keep=\('mlp_neurons'"):
        trace.tensor("mlp_neurons", 0)
    with pytest.raises(lk.BadInput, match="embedding has no layer"), dense.edit(lk.patch("embedding[0]", 0.0)):
        pass
    with pytest.raises(lk.BadInput, match="a layer and no head"), dense.edit(lk.patch("mlp_neurons[0, 1]", 0.0)):
        pass


def test_neurons_are_what_the_last_projection_turns_into_the_output(dense: lk.Lab) -> None:
    trace = dense.trace(IDS, keep=("mlp_neurons", "mlp_output", "residual", "attention_output"))
    for layer in range(trace.layers):
        mlp = dense.model.model.layers[layer].mlp
        norm = dense.model.model.layers[layer].post_attention_layernorm
        with torch.no_grad():
            x = norm(trace.residual(layer) + trace.attention_output(layer))
            by_hand = torch.nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x)
            assert torch.allclose(trace.mlp_neurons(layer), by_hand, atol=1e-5)
            assert torch.allclose(mlp.down_proj(trace.mlp_neurons(layer)), trace.mlp_output(layer), atol=1e-5)


def test_the_embedding_is_the_rows_of_its_table() -> None:
    """Before gpt2's positions, and before granite's factor."""
    for name in ("gpt2", "granitemoe"):
        lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
        trace = lab.trace(IDS, keep=("embedding", "residual"))
        assert torch.equal(trace.embedding, lab.model.get_input_embeddings().weight[IDS])
        assert not torch.allclose(trace.embedding, trace.residual(0))


def test_mixtures_have_no_neurons_and_say_so_by_layer() -> None:
    lab = lk.Lab(build(FAMILIES["mixtral"]), Tokens(), name="mixtral")
    assert "mixture" in str(lab.support()["mlp_neurons"])
    with pytest.raises(lk.Unavailable, match="mixture"):
        lab.trace(IDS, keep="mlp_neurons")
    half = lk.Lab(build(FAMILIES["qwen3_moe_sparse_step"]), Tokens(), name="half")
    trace = half.trace(IDS, keep="mlp_neurons")
    assert trace.layers_with("mlp_neurons") == [0, 2]
    with pytest.raises(lk.Unavailable, match="layer 1 of half: the MLP of layer 1 is a mixture"):
        trace.mlp_neurons(1)
    with pytest.raises(lk.Unavailable, match="MLP of layer 1 is a mixture"), half.edit(lk.patch("mlp_neurons[1]", 0.0)):
        pass


# heads by layer -------------------------------------------------------------------------------------------------------


def test_layers_that_differ_in_their_heads(tmp_path: Path) -> None:
    lab = lk.Lab(build(UNUSUAL["gemma4"]), Tokens(), name="gemma4")
    trace = lab.trace(IDS, keep=("attention", "values", "head_output"))
    for one in (trace, lk.Trace.load(trace.save(tmp_path / "t.safetensors"))):
        assert [one.kv_heads_of(i) for i in range(2)] == [2, 1]
        assert [one.heads_of(i) for i in range(2)] == [4, 4]
        assert one.heads == 4
        with pytest.raises(lk.Unavailable, match=r"differ in their kv-heads; use trace.kv_heads_of\(layer\)"):
            one.kv_heads  # noqa: B018
        assert one.keys(0).shape == (2, len(IDS), 8)
        assert one.keys(1).shape == (1, len(IDS), 16)
        with pytest.raises(lk.BadInput, match="no head 1: the only one is 0"):
            one.values(1, 1)
    with lab.edit(lk.patch("keys[*, 0]", 0.0)):
        edited = lab.trace(IDS, keep="attention")
    assert all(not edited.keys(i, 0).any() for i in range(2))
    with pytest.raises(lk.BadInput, match="key-value heads are 0 to 0"), lab.edit(lk.patch("keys[*, 1]", 0.0)):
        pass
    with pytest.raises(lk.BadInput, match="different numbers"), lab.edit(lk.patch("keys[*, -1]", 0.0)):
        pass
    assert len(lk.patching(lab, IDS, [*IDS[:-1], 9], lambda x: x[-1, 3], at="head", progress=False).table) == 8


# what the attention call carries --------------------------------------------------------------------------------------


def test_a_bias_of_the_call_is_part_of_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """position_bias is added by sdpa; eager hands back what it makes of it."""
    from transformers.models.llama import modeling_llama as llama

    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")
    bias = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(llama, "ALL_ATTENTION_FUNCTIONS", _With(llama.ALL_ATTENTION_FUNCTIONS, position_bias=bias))
    trace = lab.trace(IDS, keep=("attention", "values", "head_output"))
    for layer in range(2):
        values = trace.values(layer).repeat_interleave(2, 0)
        assert torch.allclose(trace.attention(layer) @ values, trace.head_output(layer), atol=1e-5)
        assert trace.attention(layer)[:, 3, 4:].abs().max() == 0
    without = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")
    monkeypatch.undo()
    assert not torch.allclose(without.trace(IDS).attention(0), trace.attention(0), atol=1e-2)


@pytest.mark.parametrize("both", [True, False])
def test_an_unknown_keyword_that_changes_scores_is_refused(monkeypatch: pytest.MonkeyPatch, both: bool) -> None:
    from transformers.models.llama import modeling_llama as llama

    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="tilted llama")
    first = lab.model.model.layers[0].self_attn

    def tilted(original: object) -> object:
        def attend(module: object, query: torch.Tensor, *rest: object, tilt: float, **options: object) -> object:
            return original(module, query * tilt if both or module is first else query, *rest, **options)  # type: ignore[operator]

        return attend

    import transformers.modeling_utils as utils

    registry = utils.AttentionInterface._global_mapping
    monkeypatch.setitem(registry, "sdpa", tilted(registry["sdpa"]))
    monkeypatch.setattr(llama, "ALL_ATTENTION_FUNCTIONS", _With(llama.ALL_ATTENTION_FUNCTIONS, tilt=3.0))
    if both:
        assert "tilt" in str(lab.support()["attention"])
        assert "tilt" in str(lab.support()["queries"])
        with pytest.raises(lk.Unavailable, match="tilt"):
            lab.trace(IDS)
        assert lab.trace(IDS, keep="head_output").head_output(0).shape == (4, len(IDS), 8)
        return
    assert lab.support()["attention"] is None
    trace = lab.trace(IDS)
    with pytest.raises(
        lk.Unavailable, match=r"layer 0 of llama computes attention from what labkit does not know \(tilt\)"
    ):
        trace.attention(0)
    with pytest.raises(lk.Unavailable, match="tilt"):
        trace.queries(0)
    assert trace.attention(1).shape == (4, len(IDS), len(IDS))
    assert lk.attention.measures(trace).layer.unique().tolist() == [1]


class _With:
    """transformers' registry, with one more keyword in each call of the function it gives."""

    def __init__(self, registry: object, **more: object) -> None:
        self.registry, self.more = registry, more

    def get_interface(self, *args: object) -> object:
        found = self.registry.get_interface(*args)  # type: ignore[attr-defined]

        def call(module: object, query: torch.Tensor, key: torch.Tensor, *rest: object, **options: object) -> object:
            n = query.shape[2]
            more = {k: v[..., :n, :n] if isinstance(v, torch.Tensor) else v for k, v in self.more.items()}
            return found(module, query, key, *rest, **options, **more)

        return call


def test_a_model_that_looks_both_ways_has_no_loss(tmp_path: Path) -> None:
    lab = lk.Lab(build(UNUSUAL["llama_both_ways"]), Tokens(), name="encoder")
    trace = lab.trace(IDS)
    for one in (trace, lk.Trace.load(trace.save(tmp_path / "t.safetensors"))):
        assert one.attention(0)[:, 0, -1].max() > 1e-3
        assert any("later tokens" in note for note in one.notes)
        with pytest.raises(lk.Unavailable, match="no such loss"):
            one.loss  # noqa: B018


def test_several_streams_are_refused_and_all_else_is_seen() -> None:
    lab = lk.Lab(build(UNUSUAL["gemma3n"]), Tokens(), name="gemma3n")
    refused = {name for name, reason in lab.support().items() if reason is not None}
    assert refused == {"residual", "attention_output", "mlp_output", "mlp_neurons", "state", "routes"}
    assert "residual streams" in str(lab.support()["residual"])
    for misuse in (
        lambda: lab.trace(IDS, keep="residual"),
        lambda: lk.sae.residual(lab, IDS, 1),
        lambda: lab.edit(lk.patch("residual[1] @ 3", 0.0)).__enter__(),
        lambda: lk.patching(lab, IDS, [*IDS[:-1], 9], lambda x: x[-1, 3], progress=False),
    ):
        with pytest.raises(lk.Unavailable, match="residual streams"):
            misuse()


# one module as several layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_used_twice", "gpt2_in_turns"])
def test_each_use_of_a_layer_is_a_layer(name: str) -> None:
    """The same weights in modules of their own give the same traces, edits, patches and derivatives."""
    import copy

    shared = lk.Lab(build(UNUSUAL[name]), Tokens(), name="shared")
    apart = lk.Lab(build(UNUSUAL[name]), Tokens(), name="apart")
    stack = next(m for m in apart.model.modules() if isinstance(m, torch.nn.ModuleList))
    for layer, module in enumerate(list(stack)):
        stack[layer] = copy.deepcopy(module)
    keep = tuple(k for k, reason in shared.support().items() if reason is None and k in KEEP)
    edit = lk.patch("mlp_output[2] @ 3", 0.5)
    edits = (lk.ablate_head(1, 2), edit, lk.patch("keys[0, 0] @ 2:", 0.1), lk.patch("residual[3] @ 4", 1.0))
    for on in ((), edits):
        with shared.edit(*on), apart.edit(*on):
            one, two = (lab.trace(IDS, keep=keep, gradients=last_token) for lab in (shared, apart))
            _same(one, two)
    assert lk.patching(shared, IDS, [*IDS[:-1], 9], lambda x: x[-1, 3], progress=False).table.value.tolist() == (
        pytest.approx(
            lk.patching(apart, IDS, [*IDS[:-1], 9], lambda x: x[-1, 3], progress=False).table.value.tolist(), abs=1e-4
        )
    )
    for layer in range(shared.config.num_hidden_layers + 1):
        torch.testing.assert_close(lk.sae.residual(shared, IDS, layer), lk.sae.residual(apart, IDS, layer))


def _same(one: lk.Trace, two: lk.Trace) -> None:
    for name in one.keep:
        row = named(name)
        for layer in one.layers_with(name):
            at = None if row.per == "pass" else layer
            torch.testing.assert_close(one.tensor(name, at), two.tensor(name, at))
            if row.put is not None:
                torch.testing.assert_close(one.gradient(name, at), two.gradient(name, at), atol=1e-4, rtol=1e-3)


def test_a_mixture_used_twice_has_routes_by_use_and_no_edits_of_them() -> None:
    family = dataclasses.replace(FAMILIES["mixtral"], uses=(0, 0))
    lab = lk.Lab(build(family), Tokens(), name="mixtral twice")
    routes = lab.trace(IDS, keep="routes").routes
    assert routes.layers == (0, 1)
    assert not torch.equal(routes.logits[:, 0], routes.logits[:, 1])
    with pytest.raises(lk.Unavailable, match="share"), lab.edit(lk.moe.forbid(0, layer=0)):
        pass


def test_an_encoder_and_decoder_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8, vocab_size=100)
    lab = lk.Lab(T5ForConditionalGeneration(config), Tokens(), name="t5")
    with pytest.raises(lk.Unavailable, match="encoder and a decoder"):
        lab.trace(IDS)


def test_the_attention_view_of_layers_that_differ() -> None:
    """Grouped heads are said to share keys only where all layers group them alike."""
    different = lk.Lab(build(UNUSUAL["gemma4"]), Tokens(), name="gemma4").trace(IDS)
    alike = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3").trace(IDS)
    assert lk.views.attention(different).facts["kv_heads"] == 4
    assert lk.views.attention(alike).facts["kv_heads"] == 2
