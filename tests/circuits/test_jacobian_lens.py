"""The Jacobian lens: its estimator against autograd's own Jacobian, its readout against the logit lens, its files."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build
from torch import nn

import labkit as lk
from labkit.circuits import jacobians, lens_files
from labkit.circuits.jacobian_lens import JacobianLens

IDS = [(7 * i * i + 3 * i + 1) % 60 + 3 for i in range(24)]
TEXTS = [[(5 * i * i + 7 * i * k + k) % 60 + 3 for i in range(22 + k)] for k in range(6)]
LAYERED = "llama3"


@pytest.fixture
def lab() -> Any:
    return _lab(LAYERED)


def _lab(name: str, layers: int = 3, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    deeper = dataclasses.replace(family, fields={**family.fields, "num_hidden_layers": layers, **fields})
    return lk.Lab(build(deeper), Tokens(), name=f"tiny {name}")


def _changed(name: str, what: str = "embed_tokens") -> lk.Lab:
    """Another model of the same shapes."""
    model = _lab(LAYERED).model
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if what in parameter:
                value.mul_(1.5)
    return lk.Lab(model, Tokens(), name=name)


def _traced(lab: lk.Lab, ids: list[int] = IDS) -> lk.Trace:
    return lab.trace(ids, keep=("residual", "logits"))


def _fitted(lab: lk.Lab, **settings: Any) -> JacobianLens:
    return lk.circuits.fit_lens(lab, TEXTS, progress=False, **settings)


def _identity(lab: lk.Lab) -> JacobianLens:
    width, layers = lab.config.hidden_size, lab.config.num_hidden_layers
    return JacobianLens({layer: torch.eye(width) for layer in range(1, layers)}, 1, lab.name, layers)


def _by_hand(model: Any, ids: list[int], layer: int) -> torch.Tensor:
    """The estimator written out: the whole Jacobian of the last layer's output by another's, then its means and sums."""
    layers: list[nn.Module] = list(model.model.layers)

    def last(moved: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handles = [
            layers[layer].register_forward_hook(lambda _m, _a, out: out + moved),
            layers[-1].register_forward_hook(lambda _m, _a, out: seen.append(out)),
        ]
        model(torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return seen[0][0]

    whole = torch.autograd.functional.jacobian(
        last, torch.zeros(len(ids), model.config.hidden_size).double(), vectorize=True
    )
    counted = range(16, len(ids) - 1)
    total = sum(whole[later, :, here, :] for here in counted for later in counted if later >= here)
    return total / len(counted)  # type: ignore[return-value, operator]


# the estimator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama3", "gemma3", "qwen3"])
def test_the_jacobian_is_that_of_autograd_written_out(family: str) -> None:
    lab = _lab(family)
    lab.model.double()
    with lab.turn():
        found = jacobians.text_jacobians(lab, IDS)
    for layer in range(2):
        torch.testing.assert_close(found[layer].double(), _by_hand(lab.model, IDS, layer), atol=1e-6, rtol=1e-5)


def test_rows_come_alone_or_together_alike(lab: lk.Lab) -> None:
    with lab.turn():
        together = jacobians.text_jacobians(lab, IDS)
        alone = jacobians.text_jacobians(lab, IDS, rows=[3, 0, 9], together=1)
    torch.testing.assert_close(alone, together[:, [3, 0, 9]], atol=1e-5, rtol=1e-4)


def test_a_fit_is_the_mean_over_texts_and_says_how_its_halves_agree(lab: lk.Lab) -> None:
    fitted = _fitted(lab)
    with lab.turn():
        each = torch.stack([jacobians.text_jacobians(lab, ids) for ids in TEXTS])
    assert fitted.prompts == len(TEXTS)
    assert sorted(fitted.jacobians) == [1, 2]
    torch.testing.assert_close(fitted.jacobians[2], each.mean(0)[1])
    even, odd = each[::2].mean(0)[1], each[1::2].mean(0)[1]
    off = ~torch.eye(even.shape[-1], dtype=torch.bool)
    expected = torch.corrcoef(torch.stack([even[off], odd[off]]))[0, 1]
    assert fitted.agreement[2] == pytest.approx(float(expected), abs=1e-4)


def test_a_fit_leaves_the_model_as_it_was_and_no_hooks(lab: lk.Lab) -> None:
    before = [(p.requires_grad, p.grad) for p in lab.model.parameters()]
    _fitted(lab)
    assert [(p.requires_grad, p.grad) for p in lab.model.parameters()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())


def test_a_fit_that_is_stopped_keeps_what_it_has(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, real, count = threading.Event(), jacobians.text_jacobians, [0]

    def counted(*given: Any, **named: Any) -> torch.Tensor:
        count[0] += 1
        if count[0] == 5:
            stop.set()
        return real(*given, **named)

    monkeypatch.setattr("labkit.circuits.lens_fitting.text_jacobians", counted)
    fitted = _fitted(lab, stop=stop)
    assert fitted.prompts == 4
    assert fitted.notes == ("the fit was ended after 4 of 6 texts",)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())


def test_an_interrupt_keeps_what_is_there(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = jacobians.text_jacobians, [0]

    def interrupted(*given: Any, **named: Any) -> torch.Tensor:
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr("labkit.circuits.lens_fitting.text_jacobians", interrupted)
    assert _fitted(lab).prompts == 5


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (TEXTS[:2], "2 texts with 18 tokens or more are too few; give 4 at least"),
        ([], "0 texts .* too few"),
        ([*TEXTS[:3], [4, 5, 6]], "3 of 4 texts"),
        ([""] * 5, "empty"),
        (7, "texts"),
    ],
)
def test_too_few_texts_are_refused(lab: lk.Lab, texts: Any, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        lk.circuits.fit_lens(lab, texts, progress=False)


def test_short_texts_are_left_out_and_counted(lab: lk.Lab) -> None:
    fitted = lk.circuits.fit_lens(lab, [*TEXTS, [4, 5, 6]], progress=False)
    assert fitted.prompts == 6
    assert fitted.notes == ("1 text of under 18 tokens was left out",)


def test_a_model_that_looks_both_ways_or_has_one_layer_is_refused() -> None:
    single = _lab(LAYERED, layers=1)
    with pytest.raises(lk.Unavailable, match="single layer"):
        _fitted(single)
    with pytest.raises(
        lk.Unavailable, match=r"looks at later tokens too.*fit a lens on a causal model.*lk\.circuits\.probe"
    ):
        _fitted(_lab(LAYERED, is_causal=False))


def test_jacobians_that_are_no_numbers_spoil_no_average() -> None:
    lab = _lab(LAYERED)
    with torch.no_grad():
        lab.model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(lk.Unavailable, match="holds NaN or infinity"):
        _fitted(lab)


# reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama3", "gemma2", "gpt2"])
def test_with_the_identity_it_is_the_logit_lens_exactly(family: str) -> None:
    fields = {"n_layer": 3} if family == "gpt2" else {}
    lab = _lab(family, **fields)
    trace = _traced(lab)
    layers = trace.layers
    identity = JacobianLens({i: torch.eye(lab.config.hidden_size) for i in range(1, layers)}, 1, lab.name, layers)
    logit = lk.logit_lens(lab, trace, k=2)
    wanted = logit.table[logit.table["layer"] > 0].reset_index(drop=True)
    for read in (
        lk.lens(lab, trace, lens=identity).rows(k=2),
        lk.lens(lab, trace, "logit").rows(range(1, layers + 1), k=2),
    ):
        assert read.table.equals(wanted)
    read = lk.lens(lab, trace, lens=identity)
    for layer in read.layers:
        assert torch.equal(read.logits(layer), lk.lens_logits(lab, trace, layer))


def test_it_reads_softmax_of_unembedding_of_norm_of_jacobian_times_state(lab: lk.Lab) -> None:
    fitted, trace = _fitted(lab), _traced(lab)
    read = lk.lens(lab, trace, kind="jacobian", lens=fitted)
    assert read.layers == (1, 2, 3)
    h = trace.residual(2)[7].double() @ fitted.jacobians[2].double().T
    norm, eps = lab.model.model.norm, lab.config.rms_norm_eps
    h = h / (h.pow(2).mean() + eps).sqrt() * norm.weight.double()
    wanted = (lab.model.lm_head.weight.double() @ h).softmax(-1).detach()
    torch.testing.assert_close(read.distribution(2, 7).double(), wanted, atol=1e-6, rtol=1e-4)
    token, id_, probability = read.top(2, 7, 3)[0]
    assert id_ == int(wanted.argmax())
    assert probability == pytest.approx(float(wanted.max()), abs=1e-6)
    assert token == f"t{id_} "
    assert len(read.top(2, 7, 3)) == 3
    assert len(read.top(2, -1)) == 5
    assert read.top(2, -1) == read.top(2, len(trace) - 1)


def test_the_last_layer_is_the_models_own_prediction(lab: lk.Lab) -> None:
    trace = _traced(lab)
    read = lk.lens(lab, trace, lens=_fitted(lab))
    torch.testing.assert_close(read.logits(3), trace.logits, atol=1e-5, rtol=1e-5)
    assert read.rows(-1).table["kl"].max() < 1e-6


def test_a_column_and_the_table_say_what_the_cells_say(lab: lk.Lab) -> None:
    read = lk.lens(lab, _traced(lab), lens=_fitted(lab))
    column = read.column(9, k=2)
    assert list(column) == [1, 2, 3]
    for layer, tops in column.items():
        assert [one.id for one in tops] == [one.id for one in read.top(layer, 9, 2)]
        row = read.table[(read.table["layer"] == layer) & (read.table["position"] == 9)].iloc[0]
        assert row["top_id"] == tops[0].id
        assert row["top_probability"] == pytest.approx(tops[0].probability, abs=1e-6)
    assert "jacobian lens of tiny llama3" in repr(read)
    assert "Jacobian lens" in repr(read.rows(2))


def test_what_cannot_be_read_is_refused(lab: lk.Lab) -> None:
    trace, fitted = _traced(lab), _fitted(lab)
    with pytest.raises(lk.BadInput, match=r"kind='jacobain' is no kind of lens .*jacobian"):
        lk.lens(lab, trace, kind="jacobain")  # type: ignore[arg-type]
    with pytest.raises(lk.Unavailable, match="no tuned lens"):
        lk.lens(lab, trace, kind="tuned")
    with pytest.raises(lk.Unavailable, match=r"ships no Jacobian lens for tiny llama3; fit one: .*fit_lens"):
        lk.lens(lab, trace)
    with pytest.raises(lk.BadInput, match="takes no fitted lens"):
        lk.lens(lab, trace, kind="logit", lens=fitted)
    with pytest.raises(lk.BadInput, match="is none"):
        lk.lens(lab, trace, lens=fitted.jacobians)  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="Trace"):
        lk.lens(lab, "a text", lens=fitted)  # type: ignore[arg-type]
    with pytest.raises(lk.Unavailable, match="logits not kept"):
        lk.lens(lab, lab.trace(IDS, keep="residual"), lens=fitted)
    read = lk.lens(lab, trace, lens=fitted)
    with pytest.raises(lk.BadInput, match="no matrix for layer 0: it reads at layers 1 to 3"):
        read.top(0, 3)
    with pytest.raises(lk.BadInput, match="no layer 9"):
        read.top(9, 3)
    with pytest.raises(lk.BadInput, match="no position 99"):
        read.top(1, 99)
    with pytest.raises(lk.BadInput, match="k=0"):
        read.top(1, 3, 0)
    with pytest.raises(lk.BadInput, match="layers is empty"):
        read.rows([])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: _lab(LAYERED, layers=4), "3 layers of width .* has 4 of"),
        (lambda: _changed("another"), "was fitted on tiny llama3, and another has another embedding or other norms"),
        (
            lambda: _changed("tiny llama3", "o_proj"),
            "and tiny llama3 has other weights in its layers; fit one .*base=None",
        ),
    ],
)
def test_a_lens_of_another_model_is_refused(lab: lk.Lab, other: Any, said: str) -> None:
    fitted, another = _fitted(lab), other()
    with pytest.raises(lk.BadInput, match=said):
        lk.lens(another, _traced(another), lens=fitted)


def test_the_same_model_under_another_name_is_told_by_its_weights(lab: lk.Lab, tmp_path: Path) -> None:
    same = lk.Lab(_lab(LAYERED).model.to(torch.bfloat16), Tokens(), name="another")
    fitted = _fitted(lab)
    for kept in (
        fitted,
        *(lens_files.load_lens(fitted.save(tmp_path / name), allow_pickle=True) for name in ("l.safetensors", "l.pt")),
    ):
        assert kept.base == fitted.base
        kept.belongs(same)
        kept.belongs(lab)
        with pytest.raises(lk.BadInput, match="other weights in its layers"):
            kept.belongs(_changed("tiny llama3", "mlp"))
    dataclasses.replace(fitted, base=None).belongs(_changed("tiny llama3", "mlp"))


def test_a_lens_without_a_fingerprint_opens_with_a_note(lab: lk.Lab, tmp_path: Path) -> None:
    published = dataclasses.replace(_fitted(lab), base=None)
    for name in ("l.safetensors", "l.pt"):
        opened = lens_files.load_lens(published.save(tmp_path / name), allow_pickle=True)
        assert opened.notes == (lens_files.UNKNOWN,)
        opened.belongs(lab)
        with pytest.raises(lk.BadInput, match="was fitted on tiny llama3, and this is another"):
            opened.belongs(_changed("another"))
        assert lens_files.load_lens(opened.save(tmp_path / "again.safetensors")).notes == (lens_files.UNKNOWN,)


def test_a_float64_model_is_read_in_float64() -> None:
    lab = _lab(LAYERED)
    lab.model.double()
    fitted, trace = _fitted(lab), _traced(lab)
    assert {matrix.dtype for matrix in fitted.jacobians.values()} == {torch.float64}
    read = lk.lens(lab, trace, lens=fitted)
    carried = trace.residual(2) @ fitted.jacobians[2].T
    torch.testing.assert_close(read.state(2), carried, atol=1e-14, rtol=1e-13)
    assert (read.state(2) - fitted.carried(trace.residual(2).float(), 2)).abs().max() > 1e-9, "float32 would show"
    assert read.logits(2).dtype is torch.float32, "as those of a trace"


def test_texts_that_occur_twice_are_one(lab: lk.Lab) -> None:
    once, twice = _fitted(lab), lk.circuits.fit_lens(lab, [*TEXTS, TEXTS[0], [*TEXTS[1], 9]], length=24, progress=False)
    assert twice.prompts == len(TEXTS) + 1, "the eighth differs within the tokens that are read"
    assert twice.notes == ("1 text stood there before and was left out",)
    assert once.notes == ()
    with pytest.raises(lk.BadInput, match="3 texts with 18 tokens or more are too few"):
        lk.circuits.fit_lens(lab, TEXTS[:3] * 2, progress=False)


@pytest.mark.parametrize(
    "matrices", [{}, {1: torch.ones(4, 3)}, {1: torch.eye(4), 2: torch.eye(3)}, {1: torch.ones(4)}]
)
def test_matrices_that_are_no_lens_are_refused(matrices: dict[int, torch.Tensor]) -> None:
    with pytest.raises(lk.BadInput, match=r"all alike, and this one has (no matrix|matrices of the shapes)"):
        lk.circuits.JacobianLens(matrices, 4, "tiny", 3)


# files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lens.safetensors", "lens.pt"])
def test_what_is_saved_is_loaded_again(lab: lk.Lab, tmp_path: Path, name: str) -> None:
    fitted = _fitted(lab)
    path = fitted.save(tmp_path / "deep" / name)
    again = lk.circuits.load_lens(path, allow_pickle=True)
    assert (again.prompts, again.model, again.layers, again.d_model) == (6, lab.name, 3, fitted.d_model)
    for layer, matrix in fitted.jacobians.items():
        torch.testing.assert_close(again.jacobians[layer], matrix.half().float())
    if name.endswith("safetensors"):
        assert again.agreement == pytest.approx(dict(fitted.agreement), abs=1e-4)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_the_published_format_counts_layers_by_what_leaves_them(lab: lk.Lab, tmp_path: Path) -> None:
    """As anthropics/jacobian-lens writes it and TransformerLens reads it: no facts but the four."""
    published = {0: torch.eye(4) * 2, 1: torch.eye(4) * 3}
    content = {"J": {k: v.half() for k, v in published.items()}, "n_prompts": 7, "source_layers": [0, 1], "d_model": 4}
    torch.save(content, tmp_path / "published.pt")
    found = lk.circuits.load_lens(tmp_path / "published.pt", allow_pickle=True)
    assert (found.prompts, found.model, found.layers, found.readable) == (7, None, 3, (1, 2, 3))
    assert torch.equal(found.jacobians[1], published[0])
    assert torch.equal(found.jacobians[2], published[1])
    found.save(tmp_path / "ours.pt")
    written = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert set(content) <= set(written)
    assert written["source_layers"] == [0, 1]
    assert written["n_prompts"] == 7
    assert torch.equal(written["J"][1], content["J"][1])
    assert written["J"][1].dtype == torch.float16


def test_a_checkpoint_of_a_published_fit_is_a_lens(tmp_path: Path) -> None:
    torch.save(
        {"jacobian_sum": {0: torch.eye(4) * 6}, "n_done": 3, "next_idx": 3, "source_layers": [0]}, tmp_path / "c.pt"
    )
    found = lk.circuits.load_lens(tmp_path / "c.pt", allow_pickle=True, model="m")
    assert torch.equal(found.jacobians[1], torch.eye(4) * 2)
    assert found.model == "m"


@pytest.mark.parametrize(("width", "groups"), [(64, 2), (24, 1)])
def test_eight_bits_with_a_scale_for_each_group_lose_little(width: int, groups: int, tmp_path: Path) -> None:
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    matrix[:, 0] *= 50  # costs its own group alone
    path = lens_files.write(JacobianLens({1: matrix}, 3, "m", 2), tmp_path / "small.safetensors", bits=8)
    again = lk.circuits.load_lens(path).jacobians[1]
    parts = matrix.unflatten(1, (groups, -1))
    most = parts.abs().amax(2, keepdim=True) / 127 * 0.5 * 1.05
    assert bool(((again - matrix).unflatten(1, (groups, -1)).abs() <= most + 1e-3 * parts.abs()).all())


def test_eight_bits_without_their_scales_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = lens_files.write(JacobianLens({1: torch.eye(64)}, 3, "m", 2), tmp_path / "small.safetensors", bits=8)
    held = load_file(path)
    for scale in (None, held["scale.0"][:5], held["scale.0"].float()):
        save_file({"J.0": held["J.0"]} | ({} if scale is None else {"scale.0": scale.contiguous()}), path)
        with pytest.raises(lk.BadModelFile, match=r"J\.0 has no scale"):
            lk.circuits.load_lens(path)


def test_pickles_and_damaged_files_are_refused(lab: lk.Lab, tmp_path: Path) -> None:
    fitted = _fitted(lab)
    pickled = fitted.save(tmp_path / "lens.pt")
    with pytest.raises(lk.BadModelFile, match=r"is a pickle.*allow_pickle=True"):
        lk.circuits.load_lens(pickled)
    with pytest.raises(lk.ModelNotFound, match="no file"):
        lk.circuits.load_lens(tmp_path / "nothing.pt")
    with pytest.raises(lk.BadInput, match=r"saved as NAME.safetensors"):
        fitted.save(tmp_path / "lens.bin")
    whole = fitted.save(tmp_path / "lens.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(lk.BadModelFile):
        lk.circuits.load_lens(cut)
    (tmp_path / "cut.pt").write_bytes(pickled.read_bytes()[:100])
    with pytest.raises(lk.BadModelFile, match="can't be read"):
        lk.circuits.load_lens(tmp_path / "cut.pt", allow_pickle=True)


class _Evil:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"J": {0: _Evil()}}, "can't be read"),
        ({"weights": torch.eye(3)}, "holds no Jacobian lens"),
        ({"J": {0: torch.zeros(3, 4)}, "n_prompts": 1}, "square and alike"),
        ({"J": {0: torch.eye(3), 1: torch.eye(4)}, "n_prompts": 1}, "square and alike"),
        ({"J": {0: torch.full((3, 3), float("nan"))}, "n_prompts": 1}, "numbers that are none"),
        ({"J": {0: torch.eye(3), 2: torch.eye(3)}, "n_prompts": 1, "target_layer": 1}, "output of layer 2"),
        ({"J": {0: torch.eye(3)}, "n_prompts": "many"}, "says about itself"),
        ({"jacobian_sum": {0: torch.eye(3)}, "n_done": 0}, "has not begun"),
    ],
)
def test_what_is_no_lens_is_refused(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(lk.BadModelFile, match=said):
        lk.circuits.load_lens(tmp_path / "odd.pt", allow_pickle=True)
    assert "ran" not in capsys.readouterr().out
