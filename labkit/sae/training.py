"""Train a TopK sparse autoencoder on activations, with sae-lens's classes and a step that works on few features only."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput
from labkit.sae.dictionary import SAE
from labkit.sae.sparse import decode, topk_encode

if TYPE_CHECKING:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    Trainer: TypeAlias = SAETrainer[TopKTrainingSAE, TopKTrainingSAEConfig]

__all__ = ["Settings", "Step", "start", "steps", "train", "trained"]

DRAWN = 200  # points of a run in a live panel


@dataclass(frozen=True)
class Settings:
    """What a training run is. Lengths are in tokens (rows of activations), so that they mean the same at any batch size.

    features: width of the dictionary. k: features active on a token. tokens: rows read in all; more than there are
    means several passes, each in another order. learning_rate: Adam's, after the warm-up; over the last `decay` of the
    run it falls to nothing. dead_after: a feature that was active on none of so many tokens is dead, and the auxiliary
    loss (Gao et al. 2024, appendix A.2) lets the dead ones explain what the others leave. Libraries' usual ten million
    would never be reached in a short run.
    Raises BadInput for settings that no run can have.
    """

    features: int = 4_608
    k: int = 32
    tokens: int = 5_000_000
    batch: int = 4_096
    learning_rate: float = 1e-3
    warm_up: int = 300_000
    decay: float = 0.2
    dead_after: int = 250_000
    auxiliary: float = 1 / 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("features", 1),
            ("k", 1),
            ("tokens", 1),
            ("batch", 1),
            ("warm_up", 0),
            ("dead_after", 1),
            ("seed", 0),
        ):
            checks.whole(name, getattr(self, name), least)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.fraction("decay", self.decay)
        checks.number("auxiliary", self.auxiliary, 0)
        if self.k > self.features:
            raise BadInput(f"{self.k} features can't be kept where there are {self.features}; give a smaller k.")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch


@dataclass(frozen=True)
class Step:
    """One step of training. tokens: read so far. unexplained: the share of the batch's variance left over.

    auxiliary: the auxiliary loss over the squared error. l0: features active on a token of the batch, in the mean (its
    L0). dead: features active on none of the last tokens.
    """

    step: int
    tokens: int
    unexplained: float
    auxiliary: float
    l0: float
    dead: int
    learning_rate: float


def start(
    d_in: int, settings: Settings, sample: Tensor, *, device: str = "cpu", checkpoint: Path | None = None
) -> Trainer:
    """A trainer before its first step, or where a checkpoint left it.

    sample: (rows, d_in) activations, of which the scale and the mean are taken. device: where the training runs. Decoder
    rows are of length 1 and random, the encoder is the decoder's transpose, the bias is the mean.
    """
    if settings.steps < 1:
        raise BadInput(f"{settings.tokens:,} tokens are less than one batch of {settings.batch:,}; give more.")
    trainer_class, sae_class, sae_config, trainer_config = _classes()
    config = sae_config(
        d_in=d_in,
        d_sae=settings.features,
        k=settings.k,
        apply_b_dec_to_input=True,
        normalize_activations="expected_average_only_in",
        decoder_init_norm=1.0,
        rescale_acts_by_decoder_norm=False,  # rows stay of length 1
        aux_loss_coefficient=settings.auxiliary,
        dtype="float32",
        device=device,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sae = sae_class(config)
    trainer = trainer_class(
        trainer_config(
            total_training_samples=settings.steps * settings.batch,
            train_batch_size_samples=settings.batch,
            lr=settings.learning_rate,
            lr_end=0.0,
            lr_warm_up_steps=min(settings.warm_up // settings.batch, settings.steps // 5),
            lr_decay_steps=int(settings.decay * settings.steps),
            dead_feature_window=math.ceil(settings.dead_after / settings.batch),
            device=device,
        ),
        sae,
        iter(()),
    )
    if checkpoint is not None:
        sae.load_weights_from_checkpoint(checkpoint)
        trainer.load_trainer_state(checkpoint)
    else:
        scale = math.sqrt(d_in) / sample.norm(dim=-1).mean().item()
        trainer.activation_scaler.scaling_factor = scale
        with torch.no_grad():
            sae.b_dec.copy_(sample.mean(0) * scale)
    return trainer


def steps(trainer: Trainer, batches: Callable[[int], Tensor]) -> Iterator[Step]:
    """Train to the end, a step at a time; afterwards the weights are those for activations as they are, without the scale.

    batches: from a step's number to its (batch, d_in) activations: a function of the number alone, so that a run that
    was interrupted goes on as it would have.
    """
    config = trainer.cfg
    while trainer.n_training_steps < config.total_training_steps:
        rate = trainer.optimizer.param_groups[0]["lr"]
        x = batches(trainer.n_training_steps)
        out = trainer.step(x)
        trainer.n_training_steps += 1
        error = out.losses["mse_loss"].item()
        if not math.isfinite(error):
            raise BadInput(
                f"The error is {error} at step {trainer.n_training_steps}: give finite activations, or a lower learning_rate."
            )
        variance = out.sae_in.var(0, correction=0).sum().item()
        auxiliary = out.losses["auxiliary_reconstruction_loss"].item()
        yield Step(
            trainer.n_training_steps,
            trainer.n_training_samples,
            error / variance,
            auxiliary / error,
            trainer.sae.above_zero.sum(-1).float().mean().item(),
            int(trainer.dead_neurons.sum()),
            rate,
        )
    if (factor := trainer.activation_scaler.scaling_factor) is not None:
        unscale(trainer.sae, factor)
        trainer.activation_scaler.scaling_factor = None
        trainer.set_final_sae_metadata()


@torch.no_grad()
def unscale(sae: TopKTrainingSAE, factor: float) -> None:
    """Let an autoencoder trained on factor times x read x. Its rows keep their length, so that activations have x's unit.

    sae-lens's own folding would leave rows of length 1 / factor and activations of a unit of their own.
    """
    sae.b_enc /= factor
    sae.b_dec /= factor
    sae.cfg.normalize_activations = "none"  # saved with it: otherwise a reader takes it for one that scales


class _Classes(NamedTuple):
    trainer: type[Trainer]
    sae: type[TopKTrainingSAE]
    sae_config: type[TopKTrainingSAEConfig]
    trainer_config: type[SAETrainerConfig]


def _classes() -> _Classes:
    """sae-lens's trainer and autoencoder with the sparse step. Made when first used: sae-lens takes seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

    class SparseTopKTrainingSAE(TopKTrainingSAE):  # type: ignore[misc] # sae-lens brings no types
        """sae-lens's TopKTrainingSAE: the same loss and gradients, without the products that are zero."""

        chosen: Tensor  # (batch, k) features of the last step, and which of them were above zero
        above_zero: Tensor

        def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
            x = step_input.sae_in
            values, indices = topk_encode(x, self.b_dec, self.W_enc, self.b_enc, self.cfg.k)
            out = decode(values, indices, self.W_dec) + self.b_dec
            mse = self.mse_loss_fn(out, x).sum(dim=-1).mean()
            auxiliary = self._auxiliary_loss(x, out, step_input.dead_neuron_mask)
            self.chosen, self.above_zero = indices, values.detach() > 0
            return TrainStepOutput(
                sae_in=x,
                sae_out=out,
                feature_acts=values,
                hidden_pre=values,
                loss=mse + auxiliary,
                losses={"mse_loss": mse, "auxiliary_reconstruction_loss": auxiliary},
            )

        def _auxiliary_loss(self, x: Tensor, out: Tensor, dead: Tensor | None) -> Tensor:
            """The loss of TopKTrainingSAE.calculate_topk_aux_loss, from the dead features' columns only."""
            if dead is None or not (count := int(dead.sum())):
                return out.new_zeros(())
            wished = self.cfg.d_in // 2
            columns = dead.nonzero().flatten()
            before = (x - self.b_dec) @ self.W_enc[:, columns] + self.b_enc[columns]
            values, indices = before.topk(min(wished, count), dim=-1, sorted=False)
            active = torch.zeros_like(before).scatter(-1, indices, values)
            left = (x - out).detach()
            loss = (active @ self.W_dec[columns] - left).square().sum(dim=-1).mean()
            scaled: Tensor = self.cfg.aux_loss_coefficient * min(count / wished, 1.0) * loss
            return scaled

    class SparseTrainer(SAETrainer):  # type: ignore[misc] # sae-lens brings no types
        """sae-lens's SAETrainer, for the class above; rows of the decoder are kept at length 1."""

        def _train_step(self, sae: SparseTopKTrainingSAE, sae_in: Tensor) -> TrainStepOutput:
            sae.train()
            out = sae.training_forward_pass(
                TrainStepInput(
                    sae_in=sae_in,
                    dead_neuron_mask=self.dead_neurons,
                    coefficients={},
                    n_training_steps=self.n_training_steps,
                    is_logging_step=False,
                )
            )
            counts = torch.bincount(sae.chosen[sae.above_zero], minlength=sae.cfg.d_sae)
            self.n_forward_passes_since_fired += 1
            self.n_forward_passes_since_fired[counts > 0] = 0
            self.act_freq_scores += counts
            self.n_frac_active_samples += len(sae_in)
            out.loss.backward()
            with torch.no_grad():  # a step along a row would only change its length
                sae.W_dec.grad -= (sae.W_dec.grad * sae.W_dec).sum(-1, keepdim=True) * sae.W_dec
            torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            with torch.no_grad():
                sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
            self.lr_scheduler.step()
            return out

    return _Classes(SparseTrainer, SparseTopKTrainingSAE, TopKTrainingSAEConfig, SAETrainerConfig)


def _checked(x: Tensor, settings: Settings | None, layer: int) -> tuple[Tensor, Settings, int]:
    """What `train` is given, as it is used. Raises BadInput for what can't be."""
    if (
        not isinstance(x, Tensor)
        or x.ndim != 2
        or len(x) < 2
        or not x.is_floating_point()
        or not bool(x.isfinite().all())
    ):
        shown = tuple(x.shape) if hasattr(x, "shape") else type(x).__name__
        raise BadInput(
            f"Training takes finite activations (rows, d_in), a tensor of floats, and this is {shown}; give such."
        )
    layer = checks.whole(
        "layer", layer, 0, wanted="the layer that the activations enter, a whole number from 0 as trace.residual counts"
    )
    if settings is not None and not isinstance(settings, Settings):
        raise BadInput(f"settings are an lk.sae.Settings, and a {type(settings).__name__} is none.")
    if settings is None:
        features = 8 * x.shape[1]
        settings = Settings(features=features, k=min(Settings.k, features))
    if len(x) < settings.batch:
        raise BadInput(f"{len(x):,} rows are less than one batch of {settings.batch:,}; give more, or a smaller batch.")
    if not bool((x != x[0]).any()):
        raise BadInput("All these activations are the same, so that there is nothing to learn; give others.")
    return x.detach(), settings, layer


def train(
    x: Tensor,
    settings: Settings | None = None,
    *,
    layer: int,
    model: str | None = None,
    stop: threading.Event | None = None,
) -> Generator[Step, None, SAE]:
    """Train on activations in memory, a step at a time; the generator's return value is the SAE.

    x: (rows, d_in); the training runs on its device. settings: None for defaults with 8 features a dimension. layer: what x
    enters, as trace.residual counts; 0 where x is of no model. model: its name, so that other models are refused. stop: a
    threading.Event: once it is set, training ends after the step under way, with what there is.
    Each pass over the rows has an order of its own.
    Raises BadInput for activations or settings that can't be used, and where the error stops being a number.
    """
    x, settings, layer = _checked(x, settings, layer)
    trainer = start(x.shape[1], settings, x[: 16 * settings.batch].float(), device=str(x.device))
    each = len(x) // settings.batch
    order: dict[int, Tensor] = {}

    def batch(number: int) -> Tensor:
        turn, place = divmod(number, each)
        if turn not in order:
            order.clear()
            order[turn] = torch.randperm(len(x), generator=torch.Generator().manual_seed(settings.seed + turn))
        return x[order[turn][place * settings.batch : (place + 1) * settings.batch]].float()

    for step in steps(trainer, batch):
        yield step
        if stop is not None and stop.is_set():
            break
    trained = trainer.sae
    scale = trainer.activation_scaler.scaling_factor or 1.0  # not folded yet where it was stopped
    return SAE(
        name=f"{settings.features} features, trained here",
        model=model,
        layer=layer,
        architecture="topk",
        encoder=trained.W_enc.detach().cpu(),
        encoder_bias=trained.b_enc.detach().cpu() / scale,
        decoder=trained.W_dec.detach().cpu(),
        decoder_bias=trained.b_dec.detach().cpu() / scale,
        k=settings.k,
    )


def trained(
    x: Tensor, settings: Settings | None = None, *, layer: int, model: str | None = None
) -> Callable[[threading.Event], Generator[dict[str, object], None, SAE]]:
    """What lk.views.live runs to train while somebody watches: the panel's `result` is the SAE. Arguments as of `train`.

    It draws the share of the variance that is left over and the share of features that are dead, and says how many are at
    work on a token. Stop ends it with what there is.
    """

    x, chosen, layer = _checked(x, settings, layer)

    def work(stop: threading.Event) -> Generator[dict[str, object], None, SAE]:
        yield {"say": "sae-lens is being imported"}
        run = train(x, chosen, layer=layer, model=model, stop=stop)
        every = max(1, chosen.steps // DRAWN)
        while True:
            try:
                step = next(run)
            except StopIteration as end:
                found: SAE = end.value
                return found
            if step.step % every == 0 or step.step in (1, chosen.steps):
                yield {
                    "done": step.step,
                    "total": chosen.steps,
                    "say": f"{step.l0:.1f} active features a token (L0), {step.dead} dead",
                    "values": {"unexplained": step.unexplained, "dead": step.dead / chosen.features},
                }

    return work
