"""What single neurons write on a logit: against the derivative by hand, and their sum against the MLP's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.trace.lens import neuron_contributions

IDS = [5, 9, 3, 17, 11, 8]
KEEP = ("residual", "attention_output", "mlp_output", "mlp_neurons", "logits")


def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[name]), Tokens(), name=name)


@pytest.mark.parametrize("name", ["llama3", "gpt2", "gemma2", "olmo2", "bitnet"])
def test_all_neurons_of_a_layer_and_the_bias_sum_to_its_mlp(name: str) -> None:
    lab = lab_of(name)
    trace = lab.trace(IDS, keep=KEEP)
    whole = lk.logit_attribution(lab, trace)
    mlps = whole.table[whole.table.component == "mlp"].set_index("layer").contribution
    for layer in range(trace.layers):
        width = trace.mlp_neurons(layer).shape[-1]
        found = neuron_contributions(lab, trace, [(layer, i) for i in range(width)], whole.token_id)
        assert len(found) == width
        bias = getattr(lab.anatomy.layers[layer].down_projection, "bias", None)
        if bias is None:
            assert sum(found.values()) == pytest.approx(float(mlps[layer]), abs=2e-4)


def test_a_neuron_s_contribution_is_the_derivative_times_its_activation() -> None:
    """In the last layer nothing comes after but the final norm, whose scale is held."""
    lab = lab_of("llama3")
    trace = lab.trace(IDS, keep=KEEP)
    layer, token = trace.layers - 1, 7
    last = trace.residual(trace.layers)[-1].double()
    norm, down = lab.anatomy.final_norm, lab.anatomy.layers[layer].down_projection
    scale = norm.weight.double() / (last.pow(2).mean() + norm.variance_epsilon).sqrt()
    row = lab.model.get_output_embeddings().weight[token].double()
    expected = trace.mlp_neurons(layer)[-1].double() * ((row * scale) @ down.weight.double())
    found = neuron_contributions(lab, trace, [(layer, i) for i in (0, 3, 5)], token)
    for i in (0, 3, 5):
        assert found[layer, i] == pytest.approx(float(expected[i].detach()), abs=1e-6)


def test_a_layer_whose_neurons_don_t_add_up_is_left_out() -> None:
    lab = lab_of("llama3")
    with lab.edit(lk.patch("mlp_output[1]", lambda x: 2 * x)):
        trace = lab.trace(IDS, keep=KEEP)
    assert set(neuron_contributions(lab, trace, [(0, 1), (1, 1)], 3)) == {(0, 1)}
    with pytest.raises(lk.Unavailable, match="mlp_neurons not kept"):
        neuron_contributions(lab, dataclasses.replace(trace, keep=("residual", "logits", "mlp_output")), [(0, 1)], 3)


def test_the_head_s_part_of_the_projection_gives_what_it_writes() -> None:
    from labkit.trace.lens import head_writes

    lab = lab_of("llama3")
    trace = lab.trace(IDS, keep=("head_output", "attention_output"))
    heads = trace.head_output(1)
    written = sum(heads[h].float() @ head_writes(lab.anatomy, 1, h, heads[h]) for h in range(len(heads)))
    assert torch.allclose(written, trace.attention_output(1), atol=1e-6)
