"""What a user may hand the circuits room by mistake, and files by malice: a sentence each, never a wrong number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk

CLEAN = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 12]
CORRUPTED = [5, 17, 34, 8, 91, 42, 17, 35, 64, 23, 12]
TEXTS = [[(7 * i + 3 * j) % 90 + 5 for j in range(20)] for i in range(12)]
LABELS = [0, 1] * 6
WIDTH = 32


def apart(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 9]


def lab_of(family: str = "llama3", *, name: str = "tiny", dtype: torch.dtype = torch.float32) -> lk.Lab:
    return lk.Lab(build(FAMILIES[family]).to(dtype), Tokens(), name=name)


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lab_of()


@pytest.fixture(scope="module")
def retrained() -> lk.Lab:
    """A model of the same name, layers and width with other weights."""
    other = lab_of()
    with torch.no_grad():
        for layer in other.model.model.layers:
            layer.mlp.up_proj.weight.add_(0.1)
            layer.self_attn.q_proj.weight.add_(0.1)
    return other


# metrics --------------------------------------------------------------------------------------------------------------


def made_anew(logits: torch.Tensor) -> torch.Tensor:
    """It asks for a gradient and none of it comes from the logits."""
    return torch.tensor(float(apart(logits.detach())), requires_grad=True)


def rounded(logits: torch.Tensor) -> torch.Tensor:
    return apart(logits * 10).round()


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(("metric", "said"), [(made_anew, "not derived from its logits"), (rounded, "exactly 0")])
def test_a_metric_whose_gradient_says_nothing_gives_no_effects_of_zero(
    lab: lk.Lab, metric: Callable[[torch.Tensor], torch.Tensor], said: str, steps: int | None
) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.circuits.attribution(lab, CLEAN, CORRUPTED, metric, at="head", steps=steps)
    for parts in ("heads", "neurons", "edges"):
        with pytest.raises(lk.BadInput, match=said):
            lk.circuits.find(
                lab,
                [(CLEAN, CORRUPTED)],
                metric,
                "eap-ig" if steps else "attribution",
                parts,
                steps=steps or 1,
                progress=False,
            )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_mode_the_caller_is_in(lab: lk.Lab, mode: Any) -> None:
    def found() -> Any:
        return lk.circuits.find(
            lab, [(CLEAN, CORRUPTED)], apart, "attribution", "edges", progress=False
        ).table.effect.tolist()

    def tuned() -> torch.Tensor:
        return lk.circuits.fit_tuned_lens(lab, TEXTS, steps=2, progress=False).jacobians[1]

    outside, map_outside = found(), tuned()
    with mode():
        inside, map_inside = found(), tuned()
        assert not torch.is_grad_enabled()
    assert inside == pytest.approx(outside, abs=1e-6)
    assert torch.allclose(map_inside, map_outside)
    assert torch.is_grad_enabled()


def test_an_error_while_gradients_are_taken_leaves_the_mode_alone_when_it_is_forgotten(lab: lk.Lab) -> None:
    def broken(logits: torch.Tensor) -> torch.Tensor:
        raise LookupError

    held: BaseException | None = None
    with torch.no_grad():
        try:
            lk.circuits.find(lab, [(CLEAN, CORRUPTED)], broken, steps=2, progress=False)
        except LookupError as error:
            held = error
    assert held is not None
    assert torch.is_grad_enabled()
    del held
    assert torch.is_grad_enabled()


def test_what_was_loaded_under_inference_mode_is_told_before_a_lens_is_fitted() -> None:
    with torch.inference_mode():
        loaded = lab_of()
    for fit in (lk.circuits.fit_lens, lk.circuits.fit_tuned_lens):
        with pytest.raises(lk.Unavailable, match="inference_mode"):
            fit(loaded, TEXTS, progress=False)


def test_edges_of_a_model_in_float64(lab: lk.Lab) -> None:
    double = lab_of(dtype=torch.float64)
    assert double.support()["attention"] is None
    effects = [
        lk.circuits.find(
            one, [(CLEAN, CORRUPTED)], apart, "attribution", "edges", progress=False
        ).table.effect.to_numpy()
        for one in (lab, double)
    ]
    assert effects[1] == pytest.approx(effects[0], abs=1e-3)
    ours = double.trace(CLEAN, keep="attention").attention(1, 2)
    theirs = lab.trace(CLEAN, keep="attention").attention(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-5)


# what is no lab, no label, no part ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [None, "labkit", torch.nn.Linear(1, 1)], ids=["None", "text", "module"])
def test_what_is_no_lab_is_told(what: Any) -> None:
    for call in (
        lambda: lk.patching(what, CLEAN, CORRUPTED, apart),
        lambda: lk.circuits.probe(what, TEXTS, LABELS),
        lambda: lk.circuits.difference_of_means(what, TEXTS[:6], TEXTS[6:], 1),
    ):
        with pytest.raises(lk.BadInput, match="takes a Lab"):
            call()


@pytest.mark.parametrize(
    "labels",
    [
        [torch.tensor([0, 1])] * 12,
        torch.zeros(12, 2),
        torch.zeros(12, 2).numpy(),
        torch.zeros(12, device="meta"),
        [[1]] * 12,
        [{}] * 12,
        [None] * 12,
    ],
    ids=["tensors", "matrix", "array", "meta", "lists", "dicts", "None"],
)
def test_what_is_no_label_is_told(lab: lk.Lab, labels: Any) -> None:
    with pytest.raises(lk.BadInput, match="can't be a label"):
        lk.circuits.probe(lab, TEXTS, labels, 1)


@pytest.mark.parametrize(
    "parts",
    ["head 0.1", ["head 0.1"], [("head", 0)], [("heads", 0, 1)], [("mlp", 0, 3)], [("head", 0, None)], [5], None],
)
def test_what_is_no_part_is_told(lab: lk.Lab, parts: Any) -> None:
    with pytest.raises(lk.BadInput, match="part"):
        lk.circuits.part_examples(lab, parts, TEXTS)


# things of other models -----------------------------------------------------------------------------------------------


def test_a_probe_pushes_no_other_model(lab: lk.Lab, retrained: lk.Lab) -> None:
    probe = lk.circuits.probe(lab, TEXTS, LABELS, 1, controls=0)
    assert len(probe.steers(lab, TEXTS[:3], apart, random=2)) == 1
    with pytest.raises(lk.BadInput, match="other weights"):
        probe.steers(retrained, TEXTS[:3], apart, random=2)


def test_a_swap_of_the_logit_lens_is_put_on_no_other_model_of_the_same_name(lab: lk.Lab, retrained: lk.Lab) -> None:
    swap = lk.swap(lk.lens(lab, lab.trace(CLEAN, keep=("residual", "logits")), "logit"), 7, 9, layers=1)
    with lab.edit(swap):
        pass
    with pytest.raises(lk.BadInput, match="other weights"), retrained.edit(swap):
        pass


# lens files -----------------------------------------------------------------------------------------------------------

EYE = torch.eye(WIDTH)


@pytest.mark.parametrize(
    "content",
    [
        {"J": {0: EYE.to_sparse()}},
        {"J": {0: EYE.to(torch.complex64)}},
        {"J": {0: EYE.bool()}},
        {"J": {0: EYE.long()}},
        {"J": {0: EYE.to("meta")}},
        {"J": {0: torch.zeros(1).expand(300_000, 300_000)}},
        {"J": {0.5: EYE, 0.2: 2 * EYE}},
        {"J": {0: EYE}, "n_prompts": float("inf")},
        {"J": {0: EYE}, "target_layer": float("inf")},
    ],
    ids=["sparse", "complex", "bool", "whole", "meta", "expanded", "one layer twice", "prompts", "target"],
)
def test_a_pickle_that_is_no_lens_is_refused_before_it_takes_memory(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "lens.pt")
    with pytest.raises(lk.BadModelFile, match="no whole Jacobian lens"):
        lk.circuits.load_lens(tmp_path / "lens.pt", allow_pickle=True)


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({"J.2": EYE, "b.2": EYE[0]}, {}),  # of the last residual, which is the model's own prediction
        ({"J.-1": EYE, "b.-1": EYE[0]}, {}),
        ({"J.0": EYE.long(), "b.0": EYE[0].long()}, {}),
        ({"J.0": EYE[:0, :0], "b.0": EYE[0, :0]}, {}),
        ({"J.0": EYE, "b.0": EYE[0]}, {"notes": "[" * 100_000}),
    ],
    ids=["last", "negative", "whole", "empty", "nested"],
)
def test_a_tuned_lens_file_of_what_is_none_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "lens.safetensors"
    clones = {name: value.clone() for name, value in tensors.items()}
    save_file(clones, path, metadata={"format": "tuned-lens", "layers": "2"} | facts)
    with pytest.raises(lk.BadModelFile, match="no whole Jacobian lens"):
        lk.circuits.load_lens(path)


def test_notes_nested_without_end_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "lens.safetensors"
    save_file({"J.0": EYE.clone()}, path, metadata={"notes": "[" * 100_000})
    with pytest.raises(lk.BadModelFile, match="can't be read"):
        lk.circuits.load_lens(path)
    save_file({"J.0": EYE.clone()}, path, metadata={"notes": json.dumps(["fine"]), "n_prompts": "-5"})
    assert lk.circuits.load_lens(path).prompts == 0


def test_arguments_of_loading_and_saving_are_checked(tmp_path: Path) -> None:
    lens = lk.circuits.JacobianLens({1: EYE}, 3, None, 2)
    path = lens.save(tmp_path / "lens.safetensors")
    for settings in ({"layers": "x"}, {"layers": 2.0}, {"layers": 0}, {"model": 3}):
        with pytest.raises(lk.BadInput, match="can't be used"):
            lk.circuits.load_lens(path, **settings)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(lk.BadInput, match="folder"):
        lens.save(tmp_path / "folder.safetensors")
    with pytest.raises(lk.BadInput, match="give its path"):
        lens.save(None)


@pytest.mark.parametrize("layer", [2, -1, 7, "1", True])
def test_a_lens_has_matrices_for_what_enters_a_layer_alone(layer: Any) -> None:
    lens = lk.circuits.JacobianLens({1: EYE}, 3, None, 2)
    with pytest.raises(lk.BadInput, match="layers count from 0"):
        dataclasses.replace(lens, jacobians={layer: EYE})
