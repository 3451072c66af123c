"""The trainer takes sae-lens's steps, finds known directions, goes on where it was interrupted, and undoes its scale."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import training
from labkit.sae.training import Settings, start, steps, train
from labkit.sae.training import trained as watched
from labkit.views.live_panel.record import as_event

pytestmark = pytest.mark.usefixtures("sae_lens")

D_IN, DIRECTIONS, AT_WORK = 16, 24, 2
SHORT = Settings(features=40, k=3, tokens=64 * 30, batch=64, warm_up=64 * 4, dead_after=64 * 3, learning_rate=3e-3)


def truth() -> Tensor:
    """(24, 16) directions of length 1: more than fit at right angles."""
    return normalize(torch.randn(DIRECTIONS, D_IN, generator=torch.Generator().manual_seed(9)), dim=-1)


def superposed(batch: int, *, scale: float = 7.0) -> Callable[[int], Tensor]:
    """From a step's number to rows that are each the sum of two known directions, far from zero and of length unlike 1."""
    directions = truth()
    offset = torch.linspace(-1, 1, D_IN)

    def rows(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000 + step)
        chosen = torch.rand(batch, DIRECTIONS, generator=generator).topk(AT_WORK).indices
        strengths = 1.0 + torch.rand(batch, AT_WORK, generator=generator)
        return scale * ((strengths[..., None] * directions[chosen]).sum(1) + offset)

    return rows


def cosines(decoder: Tensor) -> float:
    """How well the rows of a decoder have found the directions: the mean of each one's largest cosine."""
    return float((truth() @ normalize(decoder.detach(), dim=-1).T).max(-1).values.mean())


# the same steps as sae-lens's ------------------------------------------------------------------------------------------


def pair(dead: int) -> tuple[Any, Any]:
    """Our trainer and sae-lens's own, with the same weights in float64 and the same features dead."""
    from sae_lens.saes.topk_sae import TopKTrainingSAE
    from sae_lens.training.sae_trainer import SAETrainer

    ours = start(D_IN, SHORT, superposed(64)(0))
    sae = TopKTrainingSAE(copy.deepcopy(ours.sae.cfg))
    with torch.no_grad():  # encoder and decoder unlike each other, biases unlike zero
        for parameter in ours.sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        ours.sae.W_dec /= ours.sae.W_dec.norm(dim=-1, keepdim=True)
    sae.load_state_dict(ours.sae.state_dict())
    theirs: Any = SAETrainer(copy.deepcopy(ours.cfg), sae, iter(()))
    theirs.activation_scaler.scaling_factor = ours.activation_scaler.scaling_factor
    for trainer in (ours, theirs):
        trainer.sae.to(torch.float64)
        trainer.n_forward_passes_since_fired[:dead] = 1e6
        assert int(trainer.dead_neurons.sum()) == dead
    return ours, theirs


# the auxiliary loss has other weights below and above half the width of dead features, which is 8, and none without any
@pytest.mark.parametrize("dead", [0, 1, 5, 8, 20, 40])
def test_loss_and_gradients_are_those_of_sae_lens(dead: int) -> None:
    from sae_lens.saes.sae import TrainStepInput

    trainers = pair(dead)
    x = trainers[0].activation_scaler(superposed(64)(1).double())
    outs = []
    for trainer in trainers:
        given = TrainStepInput(x, {}, trainer.dead_neurons, n_training_steps=0, is_logging_step=False)
        out = trainer.sae.training_forward_pass(given)
        out.loss.backward()
        outs.append(out)
    ours, theirs = outs
    torch.testing.assert_close(ours.sae_out, theirs.sae_out, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-10, atol=0)
    assert ours.losses.keys() == theirs.losses.keys()
    for name in ours.losses:
        torch.testing.assert_close(ours.losses[name], theirs.losses[name].double(), rtol=1e-10, atol=0)
    assert bool(ours.losses["auxiliary_reconstruction_loss"] > 0) == (dead > 0)
    gradients = {name: p.grad for name, p in trainers[1].sae.named_parameters()}
    for name, parameter in trainers[0].sae.named_parameters():
        assert bool(gradients[name].any())
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-10, msg=name)


def test_steps_differ_from_sae_lenss_only_in_the_decoder_rows_kept_at_length_1() -> None:
    ours, theirs = pair(dead=12)
    batches = superposed(64)
    decoder = theirs.sae.W_dec
    # the two things done on purpose, done to sae-lens's from outside: no gradient along a row, and its length set back
    decoder.register_hook(lambda g: g - (g * decoder.detach()).sum(-1, keepdim=True) * decoder.detach())
    for step in range(6):
        rate = ours.optimizer.param_groups[0]["lr"]
        assert rate == theirs.optimizer.param_groups[0]["lr"]
        x = batches(step).double()
        ours.step(x)
        theirs.step(x)
        with torch.no_grad():
            decoder /= decoder.norm(dim=-1, keepdim=True)
        ours.n_training_steps += 1
        theirs.n_training_steps += 1
        for name, parameter in ours.sae.named_parameters():
            torch.testing.assert_close(parameter, theirs.sae.get_parameter(name), rtol=0, atol=1e-8, msg=name)
        for name in ("n_forward_passes_since_fired", "act_freq_scores", "dead_neurons"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.n_frac_active_samples == theirs.n_frac_active_samples
        assert ours.n_training_samples == theirs.n_training_samples
    torch.testing.assert_close(ours.sae.W_dec.norm(dim=-1), torch.ones(40, dtype=torch.float64))


# what it learns --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Any, list[training.Step], float, Settings]:
    """A trainer after its run, its steps, how well its decoder fitted before, and the settings."""
    settings = Settings(
        features=32, k=AT_WORK, tokens=256 * 500, batch=256, warm_up=256 * 20, dead_after=256 * 20, learning_rate=1e-2
    )
    batches = superposed(settings.batch)
    trainer = start(D_IN, settings, batches(0))
    before = cosines(trainer.sae.W_dec)
    return trainer, list(steps(trainer, batches)), before, settings


def test_known_directions_are_found_by_training_and_not_before(trained: Any) -> None:
    trainer, record, before, _ = trained
    assert before < 0.75
    assert cosines(trainer.sae.W_dec) > 0.95
    assert record[0].unexplained > 0.3
    assert record[-1].unexplained < 0.05


def test_the_record_says_what_happened(trained: Any) -> None:
    _, record, _, settings = trained
    assert [s.step for s in record] == list(range(1, 501))
    assert [s.tokens for s in record] == [256 * i for i in range(1, 501)]
    rates = [s.learning_rate for s in record]
    assert rates[0] < 0.1 * settings.learning_rate  # it warms up, stays, and falls over the last fifth
    assert all(math.isclose(rate, settings.learning_rate) for rate in rates[25:395])
    assert all(a > b for a, b in pairwise(rates[401:]))
    assert rates[-1] < 0.02 * settings.learning_rate
    assert all(0 <= s.dead <= settings.features for s in record)
    assert all(0 < s.l0 <= settings.k for s in record)
    assert all((s.auxiliary > 0) == (s.dead > 0) for s in record[1:] if s.dead == record[s.step - 2].dead)
    assert settings.steps == 500


def test_the_scale_is_folded_into_the_weights(trained: Any, tmp_path: Path) -> None:
    """Saved as sae-lens saves it and opened by labkit, it explains the activations as they are, as well as in training."""
    trainer, record, _, settings = trained
    assert trainer.activation_scaler.scaling_factor is None
    trainer.sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    trainer.sae.cfg.metadata.model_name = "toy"
    trainer.sae.save_inference_model(tmp_path / "toy")
    sae = lk.sae.load(tmp_path / "toy")
    assert (sae.layer, sae.model, sae.architecture, sae.k, len(sae)) == (4, "toy", "topk", AT_WORK, 32)
    x = superposed(settings.batch)(499)  # the last batch
    left = (x - sae.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert float(left) == pytest.approx(record[-1].unexplained, rel=0.02)
    torch.testing.assert_close(sae.decoder.norm(dim=-1), torch.ones(32))  # so that activations are in the unit of x


def test_without_the_scale_all_is_as_with_it(trained: Any) -> None:
    """f(x) and what is told of it grow by the factor that x does."""
    sae = copy.deepcopy(trained[0].sae)
    with torch.no_grad():
        x, factor = superposed(20)(3), 0.37
        wanted, told = sae.encode(x), sae(x)
        training.unscale(sae, 1 / factor)  # now it is for factor times x
        torch.testing.assert_close(sae.encode(factor * x), factor * wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sae(factor * x), factor * told, rtol=1e-4, atol=1e-4)
        assert bool(wanted.any())


def test_a_start_is_of_the_sample_and_the_seed() -> None:
    sample = superposed(64)(0)
    trainer = start(D_IN, SHORT, sample)
    sae, factor = trainer.sae, trainer.activation_scaler.scaling_factor
    assert factor is not None
    assert float((sample * factor).norm(dim=-1).mean()) == pytest.approx(math.sqrt(D_IN), rel=1e-5)
    torch.testing.assert_close(sae.b_dec.detach(), (sample * factor).mean(0))
    torch.testing.assert_close(sae.W_dec.norm(dim=-1).detach(), torch.ones(40))
    torch.testing.assert_close(sae.W_enc.detach(), sae.W_dec.detach().T)
    torch.manual_seed(77)  # what was drawn before does not matter
    assert torch.equal(start(D_IN, SHORT, sample).sae.W_dec, sae.W_dec)
    assert not torch.equal(start(D_IN, replace(SHORT, seed=1), sample).sae.W_dec, sae.W_dec)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    settings = replace(SHORT, features=120, dead_after=64)
    batches = superposed(settings.batch)
    whole = start(D_IN, settings, batches(0))
    record = list(steps(whole, batches))
    assert record[16].dead  # so that the count of steps without work matters, too
    assert any(s.dead for s in record[17:])

    first = start(D_IN, settings, batches(0))
    for step in steps(first, batches):
        if step.step == 17:
            first.save_checkpoint("at_17", base_path=tmp_path)
            break
    again = start(D_IN, settings, torch.ones(2, D_IN), checkpoint=tmp_path / "at_17")  # the sample is not looked at
    rest = list(steps(again, batches))
    assert rest == record[17:]
    for name, parameter in whole.sae.named_parameters():
        assert torch.equal(parameter, again.sae.get_parameter(name)), name
    assert again.activation_scaler.scaling_factor is None


def test_a_run_that_is_over_stays_as_it_is(tmp_path: Path) -> None:
    batches = superposed(SHORT.batch)
    trainer = start(D_IN, SHORT, batches(0))
    assert len(list(steps(trainer, batches))) == 30
    weights = {name: p.detach().clone() for name, p in trainer.sae.named_parameters()}
    trainer.save_checkpoint("end", base_path=tmp_path)
    again = start(D_IN, SHORT, batches(0), checkpoint=tmp_path / "end")
    for done in (trainer, again):  # the scale is not folded a second time
        assert list(steps(done, batches)) == []
        assert all(torch.equal(p, weights[name]) for name, p in done.sae.named_parameters())


# what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_no_numbers_end_the_run(bad: float) -> None:
    batches = superposed(SHORT.batch)

    def broken(step: int) -> Tensor:
        x = batches(step)
        if step == 3:
            x[5, 2] = bad
        return x

    done = []
    with pytest.raises(BadInput, match="at step 4: give finite activations, or a lower learning_rate"):  # noqa: PT012
        for step in steps(start(D_IN, SHORT, batches(0)), broken):
            done.append(step.step)
    assert done == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": 8, "k": 9}, "9 features can't be kept where there are 8; give a smaller k"),
        ({"tokens": 63, "batch": 64}, "63 tokens are less than one batch of 64; give more"),
        ({"tokens": 0}, "tokens=0 can't be used"),
        ({"k": 0}, "k=0 can't be used"),
        ({"features": 0, "k": 0}, "features=0 can't be used"),
        ({"batch": 0}, "batch=0 can't be used"),
        ({"batch": -4}, "batch=-4 can't be used"),
        ({"k": 4.0}, "k=4.0 can't be used; give a whole number from 1"),
        ({"features": True}, "features=True can't be used"),
        ({"tokens": 1e6}, "tokens=1000000.0 can't be used"),
        ({"learning_rate": math.nan}, "learning_rate=nan can't be used; give a number above 0"),
        ({"learning_rate": math.inf}, "learning_rate=inf can't be used"),
        ({"learning_rate": -1}, "learning_rate=-1 can't be used"),
        ({"learning_rate": 0}, "learning_rate=0 can't be used"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 can't be used"),
        ({"learning_rate": "fast"}, "learning_rate='fast' can't be used"),
        ({"learning_rate": True}, "learning_rate=True can't be used"),
        ({"decay": 1.5}, "decay=1.5 can't be used; give a number from 0 to 1"),
        ({"decay": -0.1}, "decay=-0.1 can't be used"),
        ({"decay": math.nan}, "decay=nan can't be used"),
        ({"auxiliary": -1.0}, "auxiliary=-1.0 can't be used"),
        ({"auxiliary": math.inf}, "auxiliary=inf can't be used"),
        ({"dead_after": 0}, "dead_after=0 can't be used; give a whole number from 1"),
        ({"seed": 1.5}, "seed=1.5 can't be used; give a whole number from 0"),
        ({"seed": -1}, "seed=-1 can't be used"),
        ({"warm_up": -1}, "warm_up=-1 can't be used; give a whole number from 0"),
        ({"warm_up": 100.0}, "warm_up=100.0 can't be used"),
    ],
)
def test_settings_that_make_no_run_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        start(D_IN, Settings(**settings), torch.randn(10, D_IN))


def test_settings_that_no_run_can_have_are_refused_as_they_are_made() -> None:
    for wrong in ({"features": 10, "k": 20}, {"batch": "64"}, {"tokens": None}):
        with pytest.raises(BadInput):
            Settings(**wrong)
    with pytest.raises(BadInput, match="20 features can't be kept where there are 10"):
        replace(Settings(features=10, k=5), k=20)


def test_the_default_settings_fit_activations_of_few_dimensions() -> None:
    assert next(train(torch.randn(5_000, 2), layer=0)).l0 <= 16


def test_settings_at_their_ends_are_a_run() -> None:
    ends = replace(SHORT, learning_rate=1, decay=0, auxiliary=0, warm_up=0, dead_after=1, seed=0, tokens=64 * 2)
    assert len(list(steps(start(D_IN, ends, superposed(64)(0)), superposed(64)))) == 2
    assert len(list(steps(start(D_IN, replace(ends, decay=1.0), superposed(64)(0)), superposed(64)))) == 2
    assert start(D_IN, replace(ends, seed=np.int64(3)), superposed(64)(0)).cfg.lr == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.ones(600, D_IN), "All these activations are the same, so that there is nothing to learn"),
        (torch.arange(D_IN).float().expand(600, -1), "All these activations are the same"),
        (
            torch.randint(9, (600, D_IN)),
            rf"finite activations \(rows, d_in\), a tensor of floats, and this is \(600, {D_IN}",
        ),
        (np.random.default_rng(0).normal(size=(600, D_IN)), rf"a tensor of floats, and this is \(600, {D_IN}\)"),
        ([[1.0] * D_IN, [2.0] * D_IN], "a tensor of floats, and this is list"),
        (None, "this is NoneType"),
        (torch.randn(D_IN), rf"this is \({D_IN},\)"),
        (torch.randn(2, 300, D_IN), rf"this is \(2, 300, {D_IN}\)"),
        (torch.randn(1, D_IN), rf"this is \(1, {D_IN}\)"),
        (torch.randn(600, D_IN).index_fill(0, torch.tensor([7]), math.nan), "finite activations"),
        (torch.randn(600, D_IN).index_fill(0, torch.tensor([7]), -math.inf), "finite activations"),
    ],
    ids=[
        *("ones", "alike", "whole numbers", "numpy", "list", "none"),
        *("one row", "three dimensions", "a single row", "nan", "infinite"),
    ],
)
def test_activations_that_teach_nothing_are_refused(x: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        next(train(x, SHORT, layer=0))
    with pytest.raises(BadInput, match=said):  # at once, and not when a panel runs it
        watched(x, SHORT, layer=0)


def test_one_number_that_differs_is_enough() -> None:
    x = torch.ones(64, D_IN)
    x[-1, -1] = 1.5
    assert next(train(x, SHORT, layer=0)).step == 1


@pytest.mark.parametrize("layer", [-1, True, 1.5, "1", None])
def test_a_layer_that_is_none_is_refused(layer: Any) -> None:
    x = torch.randn(600, D_IN)
    with pytest.raises(BadInput, match=rf"layer={layer!r} can't be used; give the layer that the activations enter"):
        next(train(x, SHORT, layer=layer))


def test_the_layer_has_to_be_said() -> None:
    """So that nobody's autoencoder is taken for one of layer 0."""
    x = torch.randn(600, D_IN)
    for run in (train, watched):
        with pytest.raises(TypeError, match="layer"):
            run(x, SHORT)  # type: ignore[operator]


def test_a_layer_may_be_numpys() -> None:
    x = torch.randn(600, D_IN)
    run = train(x, replace(SHORT, tokens=64), layer=np.int64(3))  # type: ignore[arg-type]
    next(run)
    with pytest.raises(StopIteration) as end:
        next(run)
    assert type(end.value.value.layer) is int
    assert end.value.value.layer == 3


def test_the_defaults_are_a_run() -> None:
    assert Settings().steps == 1_220
    assert Settings().k < Settings().features


def test_a_watched_run_is_the_same_run_and_says_what_a_panel_draws() -> None:
    x = torch.randn(600, D_IN, generator=torch.Generator().manual_seed(3))
    settings = Settings(features=40, k=4, tokens=2_000, batch=100, warm_up=100, dead_after=500)
    work = watched(x, settings, layer=3, model="tiny")(threading.Event())
    events = []
    while True:
        try:
            events.append(as_event(next(work)))
        except StopIteration as end:
            found = end.value
            break
    record, plain = [], train(x, settings, layer=3, model="tiny")
    while True:
        try:
            record.append(next(plain))
        except StopIteration as end:
            wanted = end.value
            break
    assert torch.equal(found.decoder, wanted.decoder)
    assert (found.layer, found.model) == (3, "tiny")
    assert [(e.done, e.total) for e in events[1:]] == [(i, 20) for i in range(1, 21)]
    assert [e.values["unexplained"] for e in events[1:]] == [s.unexplained for s in record]
    assert [e.values["dead"] for e in events[1:]] == [s.dead / 40 for s in record]
    assert events[-1].say == f"{record[-1].l0:.1f} active features a token (L0), {record[-1].dead} dead"


def test_a_watched_run_that_is_stopped_gives_what_there_is() -> None:
    x, stop = torch.randn(600, D_IN), threading.Event()
    work = watched(x, Settings(features=40, k=4, tokens=2_000, batch=100), layer=0)(stop)
    next(work)
    next(work)
    stop.set()
    with pytest.raises(StopIteration) as end:
        next(work)
    assert len(end.value.value) == 40
    assert bool(end.value.value.encode(x).isfinite().all())


@pytest.mark.parametrize(
    "settings", [3, {"features": 8}, Settings(features=40, k=4, batch=64_000), Settings(features=40, k=4)]
)
def test_settings_are_looked_at_before_they_are_used(settings: Any) -> None:
    x = torch.randn(100, D_IN)
    for begin in (lambda: next(train(x, settings, layer=0)), lambda: watched(x, settings, layer=0)):
        with pytest.raises(BadInput):
            begin()
