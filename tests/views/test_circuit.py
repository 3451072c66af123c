"""The circuit view: the graph as it was given, what is looked up in a model, what is knocked out, what is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from circuits_by_hand import TOKENS, found, random_circuit
from induction_model import HEADS, INDUCTION, LETTERS, PREVIOUS, induction_lab

import labkit as lk
from labkit.circuits import CircuitEdge, CircuitGraph, CircuitNode
from labkit.views.circuit_view import KEEP, CircuitView
from labkit.views.circuit_view.looking import sample_key
from labkit.views.kit.codes import LEVELS

SECONDS = 30
TEXT = "abcdeab"  # "c" follows


def head(layer: int, index: int, position: int | None = None, effect: float = 1.0) -> CircuitNode:
    at = "" if position is None else f" @{position}"
    return CircuitNode(f"head {layer}.{index}{at}", "head", layer, index, position, effect)


def copying(position: int | None = None) -> CircuitGraph:
    """The circuit of the induction model, with a head that does nothing, and both ends."""
    last = len(TEXT) - 1
    nodes = [head(*INDUCTION, position, 1.0), head(*PREVIOUS, None, 0.9), head(1, 0, None, -0.1), head(1, 2, 2, 0.0)]
    nodes += [
        CircuitNode("tokens", "input", None, None, None, 0.0),
        CircuitNode("logits", "output", None, None, last, 0.0),
    ]
    edges = [CircuitEdge(nodes[1].id, nodes[0].id, "k", 0.9), CircuitEdge(nodes[0].id, "logits", "", 1.0)]
    return CircuitGraph(tuple(nodes), tuple(edges), tuple(TEXT), "copier", 2, "logit of c", "logits")


@pytest.fixture(scope="module")
def lab() -> Iterator[lk.Lab]:
    made = induction_lab()
    yield made
    made.close()


@pytest.fixture
def view(lab: lk.Lab) -> Iterator[CircuitView]:
    made = lk.views.circuit(copying(), lab)
    assert made.wait(SECONDS)
    yield made
    made.close()


def test_nodes_and_edges_are_sent_as_they_were_given() -> None:
    graph = random_circuit()
    view = lk.views.circuit(found(graph))
    kinds, ids = view.facts["kinds"], view.facts["ids"]
    places = np.frombuffer(view.places, "<i4").reshape(-1, 4)
    effects = np.frombuffer(view.effects, "<f4")
    for i, node in enumerate(graph.nodes):
        got = [None if value < 0 else int(value) for value in places[i]]
        assert [ids[i], kinds[got[0]], *got[1:]] == [node.id, node.kind, node.layer, node.index, node.position]
        assert effects[i] == np.float32(node.effect)
    links = np.frombuffer(view.links, "<i4").reshape(-1, 3)
    sent = [(ids[a], ids[b], view.facts["vias"][via]) for a, b, via in links]
    assert sent == [(edge.sender, edge.receiver, edge.via) for edge in graph.edges]
    assert view.facts["by"] == "parts"
    assert [row["faithfulness"] for row in view.curve] == found(graph).faithfulness.faithfulness.tolist()
    assert "p" not in view.curve[0], "what was measured nowhere is left out"
    assert view.curve[-1]["completeness"] is None, "what was not measured is no number"
    view.close()


def test_a_size_counts_edges_where_edges_were_searched() -> None:
    view = lk.views.circuit(found(random_circuit(), parts="edges"), size=1000)
    assert (view.facts["by"], view.size) == ("edges", 120)
    view.size = -5
    assert view.size == 0
    view.close()
    view = lk.views.circuit(random_circuit())
    assert (view.facts["by"], view.size, view.curve) == ("parts", 24, [])
    view.close()


def test_the_table_is_ranked_and_has_names_and_groups() -> None:
    view = lk.views.circuit(random_circuit())
    table = view.table
    effects = table.effect.abs().tolist()
    assert effects == sorted(effects, reverse=True)
    assert len(table) == len(view.graph.nodes)
    one, two = table.id[0], table.id[1]
    view.name(one, "mover")
    view.group([one, two], "pair")
    view.pin(two)
    view.group(two, "")
    table = view.table.set_index("id")
    assert table.loc[one, ["name", "group", "pinned"]].tolist() == ["mover", "pair", False]
    assert table.loc[two, ["name", "group", "pinned"]].tolist() == ["", "", True]
    view.pin(two, on=False)
    view.name(one, " ")
    assert (view.pins, view.names) == ([], {})
    for wrong in (lambda: view.pin("nobody"), lambda: view.name("nobody", "x"), lambda: view.group(["nobody"], "x")):
        with pytest.raises(lk.BadInput, match="no part of this circuit"):
            wrong()
    view.close()


def test_what_a_part_writes_on_the_logits_is_the_attribution(view: CircuitView, lab: lk.Lab) -> None:
    trace = lab.trace([LETTERS.index(c) for c in TEXT], keep=KEEP)
    known = lk.logit_attribution(lab, trace, by="head").table
    of = {(row.layer, row.head): row.contribution for row in known[known.component == "head"].itertuples()}
    direct = dict(zip(view.facts["ids"], np.frombuffer(view.direct, "<f4").tolist(), strict=True))
    for layer, index in (INDUCTION, PREVIOUS, (1, 0)):
        assert direct[f"head {layer}.{index}"] == pytest.approx(of[layer, index], abs=1e-4)
    assert direct["head 1.2 @2"] == 0, "at an earlier position nothing is written on this logit"
    assert direct["tokens"] == pytest.approx(known.contribution[known.component == "embedding"].item(), abs=1e-4)
    assert math.isnan(direct["logits"])
    assert view.looked["token"] == "c"
    assert view.looked["position"] == len(TEXT) - 1


def test_what_a_neuron_writes_is_known_where_the_trace_kept_it() -> None:
    import fuzz

    from labkit.trace.lens import neuron_contributions

    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    trace = lab.trace("to be or not", keep=(*KEEP, "mlp_neurons"))
    last = len(trace) - 1
    nodes = (CircuitNode("n", "neuron", 0, 3, last, 1.0), CircuitNode("m", "neuron", 0, 4, 0, 1.0))
    graph = CircuitGraph(nodes, (), tuple(trace.tokens), "tiny", trace.layers, "x", "")
    view = lk.views.circuit(graph, lab, trace=trace, texts=[])
    assert view.wait(SECONDS)
    direct = np.frombuffer(view.direct, "<f4")
    token = lk.logit_attribution(lab, trace).token_id
    assert direct[0] == pytest.approx(neuron_contributions(lab, trace, [(0, 3)], token)[0, 3], abs=1e-5)
    assert direct[0] != 0
    assert direct[1] == 0
    view.close()
    view = lk.views.circuit(graph, lab, trace=lab.trace("to be or not", keep=KEEP), texts=[])
    assert view.wait(SECONDS)
    assert math.isnan(np.frombuffer(view.direct, "<f4")[0])
    assert "mlp_neurons" in view.looked["neurons"]
    view.close()


def test_each_part_has_the_texts_in_which_it_is_most_active(lab: lk.Lab, tmp_path: Path) -> None:
    texts = [[LETTERS.index(c) for c in text] for text in (TEXT, "fghijfg", "aabbccd")]
    view = lk.views.circuit(copying(), lab, texts=texts)
    assert view.wait(SECONDS)
    found = lk.circuits.part_examples(lab, [("head", *INDUCTION)], texts)["head", *INDUCTION]
    sent = view._answer_examples("head", *INDUCTION).value
    assert [each["from"] for each in sent["examples"]] == [f"text {each.text}" for each in found.top]
    assert [each["position"] for each in sent["examples"]] == [each.position for each in found.top]
    assert sent["median"] == pytest.approx(found.median)
    assert view._answer_examples("mlp", 0, None).value is None, "no such part was asked for"
    assert set(view._export_state()["examples"]) == {"head 1.2", "head 0.1", "head 1.0"}
    view.close()
    view = lk.views.circuit(copying(), lab)
    assert view.wait(SECONDS)
    (only,) = view._answer_examples("head", *INDUCTION).value["examples"]
    assert only["from"] == "this text"
    view.close()
    view = lk.views.circuit(copying(), lab, texts=[])
    assert view.wait(SECONDS)
    assert view._answer_examples("head", *INDUCTION).value is None
    view.close()


def test_a_file_holds_the_examples_of_the_strongest_parts_as_far_as_there_is_room(tmp_path: Path) -> None:
    tokens = [TOKENS[i % len(TOKENS)] for i in range(64)]
    graph = random_circuit(tokens, layers=30, heads=9, parts=500, edges=2000)
    view = lk.views.circuit(graph)
    example = {
        "texts": ["word"] * 17,
        "continued": [],
        "called": [],
        "values": [0.1234] * 17,
        "peak": 12,
        "position": 40,
    }
    sample = {"measure": "x" * 50, "median": 1.0, "tokens": 4000, "examples": [{**example, "from": "text 1"}] * 4}
    keys = [sample_key(node.kind, node.layer, node.index) for node in graph.nodes if node.layer is not None]
    view._samples = dict.fromkeys(keys, sample)
    written = view._export_state()["examples"]
    strongest = [key for key in dict.fromkeys(_by_strength(graph)) if key in written]
    assert 0 < len(written) < len(set(keys))
    assert list(written) == strongest == list(dict.fromkeys(_by_strength(graph)))[: len(written)]
    assert view.to_html(tmp_path / "circuit.html").stat().st_size < 2_000_000 - 4 * 400_000 // 3, "with patterns, too"
    view.close()


def _by_strength(graph: CircuitGraph) -> list[str]:
    nodes = sorted(graph.nodes, key=lambda node: -abs(node.effect))
    return [sample_key(node.kind, node.layer, node.index) for node in nodes if node.layer is not None]


def test_a_group_is_folded_by_its_name() -> None:
    view = lk.views.circuit(random_circuit())
    view.group(view.table.id[:3].tolist(), "ours")
    view.fold("ours")
    assert view.folded == ["ours"]
    view.focus = "group ours"
    view.fold("ours", on=False)
    assert view.folded == []
    with pytest.raises(lk.BadInput, match="is no group"):
        view.fold("theirs")
    with pytest.raises(lk.BadInput, match="no part of this circuit"):
        view.focus = "group theirs"
    view.close()


def test_a_head_s_pattern_is_the_trace_s(view: CircuitView, lab: lk.Lab) -> None:
    n = len(TEXT)
    pattern = lab.trace([LETTERS.index(c) for c in TEXT], keep="attention").attention(*INDUCTION).numpy()
    answer = view._answer_pattern(*INDUCTION)
    codes = np.frombuffer(answer.buffers[0], np.uint8)
    shown = np.zeros((n, n))
    shown[np.tri(n, dtype=bool)] = (codes / LEVELS) ** 2
    assert np.abs(shown - pattern).max() < 0.005
    assert shown[-1].argmax() == 2, "the induction head looks behind the earlier b"
    state = view._export_state()
    assert set(state["patterns"]) == {f"{layer}.{index}" for layer, index in (INDUCTION, PREVIOUS, (1, 0))}
    start, count = state["patterns"][f"{INDUCTION[0]}.{INDUCTION[1]}"]
    assert state["cells"][start : start + count] == answer.buffers[0]


def test_what_becomes_of_the_text_without_a_head_is_what_an_edit_makes_of_it(view: CircuitView, lab: lk.Lab) -> None:
    view.knock_out("head 1.0")
    assert view.wait(SECONDS)
    assert view.removed["after"] == pytest.approx(view.removed["before"], abs=1e-5)
    view.knock_out(f"head {INDUCTION[0]}.{INDUCTION[1]}")
    assert view.wait(SECONDS)
    with lab.edit(lk.ablate_head(*INDUCTION)):
        ids = [LETTERS.index(c) for c in TEXT]
        expected = float(lab.trace(ids, keep="logits").loss[1:].mean())
    assert view.removed["after"] == pytest.approx(expected, abs=1e-6)
    # without the head all letters are equally likely: what it copied wrongly at first costs nothing any more
    assert view.removed["after"] == pytest.approx(math.log(len(LETTERS)), abs=1e-4)
    assert view.removed["unit"] == "nats a token"
    view.knock_out()
    assert (view.knocked, view.removed) == ([], {})


def test_a_part_at_a_position_is_knocked_out_there_alone(lab: lk.Lab) -> None:
    """Earlier than the end the induction head is of no use to the last token."""

    def certainty(logits: torch.Tensor) -> torch.Tensor:
        return logits[-1].softmax(-1)[LETTERS.index("c")]

    last = len(TEXT) - 1
    graph = copying(position=last)
    view = lk.views.circuit(graph, lab, metric=certainty)
    for id, kept in (("head 1.2 @2", True), (f"head 1.2 @{last}", False)):
        view.knock_out(id)
        assert view.wait(SECONDS)
        assert view.removed["before"] > 0.99
        assert (view.removed["after"] > 0.99) is kept
        assert view.removed["what"] == "the metric"
    view.close()


def test_a_function_of_one_s_own_is_asked_in_its_place() -> None:
    seen: list[list[str]] = []

    def without(nodes: list[CircuitNode]) -> float:
        seen.append([node.id for node in nodes])
        return 3.0 - len(nodes)

    view = lk.views.circuit(copying(), knock_out=without)
    view.knock_out("head 1.0", "head 0.1")
    assert view.wait(SECONDS)
    assert seen == [[], ["head 1.0", "head 0.1"]]
    assert (view.removed["before"], view.removed["after"], view.removed["what"]) == (3.0, 1.0, "logit of c")
    view.close()


@pytest.mark.parametrize("parts", ["heads", "edges"])
def test_a_circuit_that_was_searched_for_is_taken_as_it_is(lab: lk.Lab, parts: str) -> None:
    clean, corrupted = ([LETTERS.index(c) for c in text] for text in (TEXT, "abcdeae"))
    circuit = lk.circuits.find(lab, [(clean, corrupted)], lambda logits: logits[-1, LETTERS.index("c")], parts=parts)  # type: ignore[arg-type]
    table = circuit.by_size([1, 2], draws=3, oracle=False, progress=False).table
    view = lk.views.circuit(circuit, lab, faithfulness=table, size=2)
    assert view.wait(SECONDS)
    assert view.facts["by"] == ("edges" if parts == "edges" else "parts")
    assert [row["faithfulness"] for row in view.curve] == table.faithfulness.tolist()
    assert view.looked["token"] == "c"
    assert circuit.texts == (tuple(clean), tuple(corrupted))
    assert view.facts["signs"] == ("towards the clean text", "away from it"), "be that up or down the metric"
    if parts == "heads":
        sent = view._answer_examples("head", *INDUCTION).value
        assert {each["from"] for each in sent["examples"]} == {"clean text of pair 0", "corrupted text of pair 0"}
    induction = f"head {INDUCTION[0]}.{INDUCTION[1]}"
    view.knock_out(induction)
    assert view.wait(SECONDS)
    if parts == "heads":  # corrupted, as the circuit itself does it
        assert view.removed["before"] == pytest.approx(1.0)
        assert view.removed["after"] == circuit.without([induction])
        assert view.removed["how"] == "as in the corrupted texts"
        assert "from corrupted to clean" in view.removed["what"]
    else:
        assert view.removed["how"] == "set to zero"
    view.close()
    view = lk.views.circuit(circuit, faithfulness=False)
    assert view.curve == []
    assert view.can_remove is (parts == "heads")
    view.close()


def test_what_can_t_be_knocked_out_is_said(lab: lk.Lab) -> None:
    graph = copying()
    odd = dataclasses.replace(graph.nodes[2], id="f", kind="feature")
    view = lk.views.circuit(dataclasses.replace(graph, nodes=(*graph.nodes, odd)), lab)
    view.knock_out("f")
    assert view.wait(SECONDS)
    assert view.removing["state"] == "failed"
    assert "can't be set to zero" in view.removing["message"]
    assert view.removed == {}
    assert not lab.model.transformer.h[0]._forward_hooks
    view.close()
    view = lk.views.circuit(graph)
    with pytest.raises(lk.BadInput, match="without a lab"):
        view.knock_out("head 1.0")
    view.close()


def test_neurons_and_mlps_have_edits_of_their_own() -> None:
    import fuzz

    from labkit.views.circuit_view.removing import without

    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    ids = [5, 6, 7, 8]
    keep = ("mlp_neurons", "mlp_output")
    plain = lab.trace(ids, keep=keep)
    with lab.edit(
        without(CircuitNode("n", "neuron", 0, 3, 2, 1.0)), without(CircuitNode("m", "mlp", 1, None, None, 1.0))
    ):
        edited = lab.trace(ids, keep=keep)
    expected = plain.mlp_neurons(0).clone()
    expected[2, 3] = 0
    assert torch.equal(edited.mlp_neurons(0), expected)
    assert edited.mlp_output(1).abs().max() == 0


def test_a_text_that_the_lab_splits_otherwise_is_said(lab: lk.Lab) -> None:
    graph = dataclasses.replace(copying(), tokens=("ab", *TEXT[2:], "a"))
    view = lk.views.circuit(graph, lab)
    assert view.wait(SECONDS)
    assert view.status["state"] == "failed"
    assert "other tokens" in view.status["message"]
    view.close()
    trace = lab.trace([1, 2, 3], keep=KEEP)
    view = lk.views.circuit(copying(), lab, trace=trace)
    assert view.wait(SECONDS)
    assert "has 3 tokens, and the circuit 7" in view.status["message"]
    view.close()


GRAPH = copying()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"layer": [1]}), "a DataFrame has none"),
        (dataclasses.replace(GRAPH, nodes=()), "has no parts"),
        (dataclasses.replace(GRAPH, nodes=(*GRAPH.nodes, GRAPH.nodes[0])), "same id"),
        (dataclasses.replace(GRAPH, nodes=(*GRAPH.nodes, head(7, 0))), "layer 7, and the model has 2"),
        (dataclasses.replace(GRAPH, nodes=(*GRAPH.nodes, head(0, 0, 99))), "position 99"),
        (dataclasses.replace(GRAPH, edges=(CircuitEdge("head 1.0", "nobody", "", 1.0),)), "no such node"),
        (dataclasses.replace(GRAPH, nodes=(CircuitNode("x", "gate", 0, 0, 0, 1.0),), edges=()), "kind='gate'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_circuit_is_refused(given: object, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.views.circuit(given)


def test_effects_that_are_no_numbers_come_last() -> None:
    nodes = (head(0, 0, None, math.nan), head(0, 1, None, -2.0), head(1, 1, None, 1.0))
    view = lk.views.circuit(dataclasses.replace(GRAPH, nodes=nodes, edges=()))
    assert view.table.id.tolist() == ["head 0.1", "head 1.1", "head 0.0"]
    assert "head 0.1" in view._static_text()
    view.close()


def test_sixty_four_tokens_stay_far_below_two_megabytes(lab: lk.Lab, tmp_path: Path) -> None:
    tokens = [TOKENS[i % len(TOKENS)] for i in range(64)]
    graph = random_circuit(tokens, layers=30, heads=9, parts=500, edges=2000)
    view = lk.views.circuit(found(graph), size=500)
    assert view.to_html(tmp_path / "circuit.html").stat().st_size < 400_000
    assert view.to_svg(tmp_path / "circuit.svg").stat().st_size < 60_000
    view.close()
    # with the patterns of all heads of a model of two layers
    text = (LETTERS * 2)[:64]
    nodes = tuple(head(layer, i, p, 1.0) for layer in (0, 1) for i in range(HEADS) for p in range(64))
    graph = CircuitGraph(nodes, (), tuple(text), "copier", 2, "loss", "nats")
    view = lk.views.circuit(graph, lab)
    assert view.wait(SECONDS)
    assert len(view._export_state()["cells"]) == 2 * HEADS * 64 * 65 // 2
    assert view.to_html(tmp_path / "patterns.html").stat().st_size < 400_000
    view.close()
