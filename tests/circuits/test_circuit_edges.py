"""Edges: they sum to what their sender does, and patched along they are what each receiver computes of another input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits import find, path_patching
from labkit.circuits.edges import Edges, Receiver
from labkit.trace import interface
from labkit.trace.edits import patch

CLEAN, OTHER = [5, 17, 33, 8, 91, 42, 17], [5, 17, 34, 9, 90, 43, 18]
WITH_EDGES = ["gpt2", "llama3", "qwen3", "gpt_neox", "granitemoe", "deepseek_v3"]
QUIET: dict[str, Any] = {"progress": False}


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 40]


def make_lab(family: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[family]), Tokens(), name=family)


def values(circuit: lk.circuits.Circuit, base: str, sets: list[Any]) -> np.ndarray:
    found, _ = circuit._study.values(base, [np.array(one, dtype=np.int64) for one in sets])  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("family", WITH_EDGES)
def test_edges_sum_to_what_their_sender_does(family: str, positions: bool) -> None:
    """Gradients: all edges of a sender, against the gradient of the whole sender (attribution at heads and MLPs)."""
    lab = make_lab(family)
    circuit = find(lab, [(CLEAN, OTHER)], metric, "attribution", "edges", positions=positions, **QUIET)
    nodes = find(lab, [(CLEAN, OTHER)], metric, "attribution", "heads", positions=positions, **QUIET)
    effect = {node.id: node.effect for node in nodes.graph.nodes}
    edges = circuit._study.parts
    assert isinstance(edges, Edges)
    own = {node.id: node.effect for node in circuit._nodes}
    position = [f" @{p}" for p in range(len(CLEAN))] if positions else [""]
    names = [sender.id + at for sender in edges.senders for at in position]
    for name, numbers in zip(names, edges.leaving(), strict=True):
        total = circuit._effects[numbers].sum()
        assert total == pytest.approx(own[name], abs=2e-5)
        if not name.startswith("input"):
            assert total == pytest.approx(effect[name], abs=2e-5)
    assert max(abs(value) for value in own.values()) > 0.01
    assert len(circuit) == edges.size == len(circuit._effects)
    assert not interface._LISTENERS


@pytest.mark.parametrize("family", WITH_EDGES)
def test_all_edges_of_a_sender_patched_are_the_sender_patched(family: str) -> None:
    """And all edges there are, the other text; none, this one."""
    lab = make_lab(family)
    circuit = find(lab, [(CLEAN, OTHER)], metric, "attribution", "edges", **QUIET)
    edges = circuit._study.parts
    assert isinstance(edges, Edges)
    clean, corrupted = (float(metric(lab.trace(ids, keep="logits").logits)) for ids in (CLEAN, OTHER))
    assert values(circuit, "corrupted", [range(edges.size), []]) == pytest.approx([clean, corrupted], abs=1e-5)
    assert values(circuit, "clean", [range(edges.size), []]) == pytest.approx([corrupted, clean], abs=1e-5)
    leaving = values(circuit, "corrupted", edges.leaving())
    exact = lk.patching(lab, CLEAN, OTHER, metric, at="head", progress=False).set_index(["layer", "head"])["value"]
    trace = lab.trace(CLEAN, keep=("mlp_output", "residual"))
    for sender, value in zip(edges.senders, leaving, strict=True):
        if sender.head is not None:
            assert value == pytest.approx(exact[sender.layer, sender.head], abs=1e-5)
            continue
        place = "residual[0]" if sender.layer is None else f"mlp_output[{sender.layer}]"
        put = trace.residual(0) if sender.layer is None else trace.mlp_output(sender.layer)
        with lab.edit(patch(place, put)):
            assert value == pytest.approx(float(metric(lab.trace(OTHER, keep="logits").logits)), abs=1e-5)


def test_each_edge_patched_is_what_its_receiver_makes_of_another_input() -> None:
    """By hand on llama, with keys and values shared by heads: norm, projection and rotation of the changed stream."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    lab = make_lab("llama3")
    model = lab.model
    circuit = find(lab, [(CLEAN, OTHER)], metric, "exact", "edges", **QUIET)
    keep = ("residual", "attention", "values", "head_output", "attention_output", "mlp_output")
    clean, other = lab.trace(CLEAN, keep=keep), lab.trace(OTHER, keep=keep)
    span = float(metric(lab.trace(CLEAN, keep="logits").logits)), float(metric(lab.trace(OTHER, keep="logits").logits))
    layer, width, heads = 1, 8, 4
    block = model.model.layers[layer]
    weight = model.model.layers[0].self_attn.o_proj.weight
    head = 2
    added = (clean.head_output(0, head) - other.head_output(0, head)) @ weight[:, head * width : (head + 1) * width].T
    cos, sin = model.model.rotary_emb(torch.zeros(1, 7, 32), torch.arange(7)[None])
    number = {(e.sender, e.receiver, e.via): e.effect for e in circuit.graph.edges}
    stream = other.residual(layer) + added
    normed = block.input_layernorm(stream)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(7, -1, width).transpose(0, 1)[None]

    attention = block.self_attn
    projected = {name: split(getattr(attention, f"{name}_proj")(normed)) for name in "qkv"}
    projected["q"], projected["k"] = apply_rotary_pos_emb(projected["q"], projected["k"], cos, sin)
    plain = {"q": other.queries(layer)[None], "k": other.keys(layer)[None], "v": other.values(layer)[None]}
    with torch.no_grad():
        for via in "qkv":
            used = plain | {via: projected[via]}
            keys, now = (repeat_kv(used[name], heads // used[name].shape[1]) for name in "kv")
            scores = used["q"] @ keys.transpose(-1, -2) * attention.scaling
            mask = torch.ones(7, 7, dtype=torch.bool).tril()
            output = (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ now)[0]
            for receiver in range(heads):
                with lab.edit(patch(f"head_output[{layer}, {receiver}]", output[receiver])):
                    value = float(metric(lab.trace(OTHER, keep="logits").logits))
                expected = (value - span[1]) / (span[0] - span[1])
                assert number[f"head 0.{head}", f"head 1.{receiver}", via] == pytest.approx(expected, abs=1e-5)
        middle = other.residual(layer) + other.attention_output(layer) + added
        with lab.edit(patch(f"mlp_output[{layer}]", block.mlp(block.post_attention_layernorm(middle)))):
            value = float(metric(lab.trace(OTHER, keep="logits").logits))
        assert number[f"head 0.{head}", "mlp 1", ""] == pytest.approx((value - span[1]) / (span[0] - span[1]), abs=1e-5)
        with lab.edit(patch("residual[2]", other.residual(2) + added)):
            value = float(metric(lab.trace(OTHER, keep="logits").logits))
        assert number[f"head 0.{head}", "output", ""] == pytest.approx(
            (value - span[1]) / (span[0] - span[1]), abs=1e-5
        )


def test_positions_of_an_edge() -> None:
    """An edge at all positions is its parts at each together; those before the first token that differs do nothing."""
    lab = make_lab("gpt2")
    apart = find(lab, [(CLEAN, OTHER)], metric, "attribution", "edges", positions=True, **QUIET)
    whole = find(lab, [(CLEAN, OTHER)], metric, "attribution", "edges", **QUIET)
    keys = ["sender", "receiver", "via"]
    summed = apart.table.groupby(keys)["effect"].sum().reset_index().merge(whole.table, on=keys)
    assert len(summed) == len(whole)
    assert (summed["effect_x"] - summed["effect_y"]).abs().max() < 1e-5
    assert (apart[apart["position"] < 2]["effect"] == 0).all()
    edges = apart._study.parts
    assert isinstance(edges, Edges)
    some = np.arange(0, edges.size, 7)
    per = len(CLEAN)
    one = np.array([1, 20, 55])
    expected = values(whole, "corrupted", [one])
    assert values(apart, "corrupted", [[n * per + p for n in one for p in range(per)]]) == pytest.approx(
        expected, abs=1e-5
    )
    assert values(apart, "corrupted", [some])[0] != pytest.approx(expected[0], abs=1e-5)
    ids = {node.id for node in apart.graph.nodes}
    assert all({edge.sender, edge.receiver} <= ids for edge in apart.graph.edges)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("gemma2", "a norm or a gate stands after them"),
        ("olmo2", "a norm or a gate stands after them"),
        ("falcon_grouped", "parts='heads'"),
        ("mamba", "not to be had then"),
    ],
)
def test_where_edges_cant_be_told_apart(family: str, said: str) -> None:
    with pytest.raises(lk.Unavailable, match=said):
        find(make_lab(family), [(CLEAN, OTHER)], metric, "attribution", "edges", **QUIET)


def test_something_else_that_reads_the_stream_is_found_out() -> None:
    """A gate on the heads' outputs, computed from what enters the layer."""
    lab = make_lab("llama3")
    attention = lab.model.model.layers[1].self_attn
    held: dict[str, torch.Tensor] = {}
    attention.register_forward_pre_hook(lambda _m, args, named: held.update(x=named["hidden_states"]), with_kwargs=True)
    attention.o_proj.register_forward_pre_hook(lambda _m, args: (args[0] * torch.sigmoid(held["x"]),))
    with pytest.raises(lk.Unavailable, match="take parts='heads'"):
        find(lk.Lab(lab.model, Tokens(), name="gated"), [(CLEAN, OTHER)], metric, "attribution", "edges", **QUIET)


def test_path_patching_is_patching_that_edge() -> None:
    lab = make_lab("llama3")
    pairs = [(CLEAN, OTHER), (CLEAN[:5], OTHER[:5])]
    exact = find(lab, pairs, metric, "exact", "edges", **QUIET)
    effects = exact.table.set_index(["sender", "receiver", "via"])["effect"]
    paths = path_patching(lab, pairs, metric, ["head 0.1", "mlp 0"], ["head 1.2", "head 1.3 (v)", "output"], **QUIET)
    assert len(paths) == 2 * 5
    assert paths["effect"].abs().is_monotonic_decreasing
    for row in paths.to_dict("records"):
        assert row["effect"] == pytest.approx(effects[row["sender"], row["receiver"], row["via"]], abs=1e-5)
    direct = path_patching(lab, pairs, metric, "input", **QUIET)
    assert direct.table.to_dict("records")[0].keys() == {"sender", "receiver", "via", "effect"}
    assert direct["receiver"].tolist() == ["output"]
    for senders, receivers, said in (
        ("heads 0.1", "output", r"no sender 'heads 0\.1' \(did you mean 'head 0\.1'\?\)"),
        ("head 0.1", "head 1.9", "no receiver 'head 1.9'"),
        ("mlp 1", "head 1.2", "does not write before"),
        ([], "output", "senders is empty"),
        ("input", 3, "receivers=3"),
    ):
        with pytest.raises(lk.BadInput, match=said):
            path_patching(lab, pairs, metric, senders, receivers, **QUIET)  # type: ignore[arg-type]


def test_numbers_of_edges() -> None:
    edges = Edges.between((2, 3), (True, False), (False, True), {}, None)
    assert [s.id for s in edges.senders] == [
        "input",
        "head 0.0",
        "head 0.1",
        "mlp 0",
        "head 1.0",
        "head 1.1",
        "head 1.2",
    ]
    assert edges.size == 6 * 1 + 3 + 9 * 4 + 7
    assert edges.receivers[6] == Receiver(0, None, "", 3, 6)
    seen = [edges.place(number) for number in range(edges.size)]
    assert seen[7][0].id == "head 0.0"
    assert seen[7][1].id == "mlp 0"
    assert [len(one) for one in edges.leaving()] == [6 + 1 + 9 + 1, 1 + 9 + 1, 1 + 9 + 1, 10, 1, 1, 1]
