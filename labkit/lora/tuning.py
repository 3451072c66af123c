"""A model in training: its twin with what is trained put in, the trainer, and what is measured between steps."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn

from labkit.errors import BadInput, Unavailable
from labkit.lora import checkpoints
from labkit.lora.checkpoints import Checkpoint
from labkit.lora.forgetting import Measured, Measuring
from labkit.lora.methods import METHODS, lora_config
from labkit.lora.process_state import AccelerateStates, kept_process_state
from labkit.lora.settings import Settings
from labkit.lora.trainers import OwnDraws, Trainer, draws_elsewhere, epoch_batches, neftune, seed_dropout, trainer_of
from labkit.lora.twins import twin, whole_copy
from labkit.quantization.weights import is_conv1d
from labkit.trace import running
from labkit.trace.lab_like import BuiltLab

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from labkit.generation.record import Generation
    from labkit.lora.masks import Prepared

_INITIAL = "initial/"  # in a checkpoint, what a PiSSA adapter began with


class TunableLab(BuiltLab, Protocol):
    """A model on the bench of which another can be made that writes."""

    @property
    def closed(self) -> bool: ...

    def generate(
        self,
        prompt: object,
        /,
        *,
        max_new_tokens: int,
        chat: bool | None,
        template: Mapping[str, object] | None,
        alternatives: int,
    ) -> Generation | list[Generation]: ...


@dataclass(frozen=True)
class Step:
    """One step of a run, and what was measured after it (NaN where nothing was). Losses in nats a token.

    step: from 1; 0 is the model before it learnt anything.  loss: of the step's batch, before it was learnt from.
    held_out, kl: of the first `measure_samples` held-out samples; NaN throughout where none are held out.  forgetting: as
    `Measured`.  learning_rate: of the step.  gradient_norm: before it was clipped to 1.
    tokens_per_second: of the step, padding left out.  seconds_left: of the run, with what will be measured.
    """

    step: int
    loss: float = math.nan
    held_out: float = math.nan
    forgetting: float = math.nan
    kl: float = math.nan
    learning_rate: float = math.nan
    gradient_norm: float = math.nan
    tokens_per_second: float = math.nan
    seconds_left: float = math.nan


def padding_tokenizer(lab: TunableLab) -> PreTrainedTokenizerBase:
    """The lab's tokenizer, or a copy of it that pads with a token that the model has a row for: the one that ends a text.

    Padding carries no loss and is not looked at, but it is embedded. Raises Unavailable where there is no such token.
    """
    rows = running.embedding_rows(lab.model)
    core = getattr(lab.tokenizer, "_tokenizer", None)  # merges and vocabulary, which a trainer only reads
    tokenizer = copy.deepcopy(lab.tokenizer, {id(core): core})  # the trainer may change the rest
    own, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if isinstance(own, int) and own < rows:
        return tokenizer
    if not isinstance(end, int) or end >= rows:
        raise Unavailable(
            f"The tokenizer of {lab.name} has no token to fill short samples up with; give it one: lab.tokenizer.pad_token = ..."
        )
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@dataclass(frozen=True)
class Plan:
    """What is to be done, beside the settings.

    data: what is trained on.  measuring: what is measured; every: after how many steps.
    prompt: what is answered each time, in `new_tokens` tokens; None for nothing.
    folder: where checkpoints go, every `save_every` steps; identity: what they are of.
    template: the chat template's arguments; prompt_template: with the tools that the prompt's conversation was held with.
    until_loss: the held-out loss at which the run ends; None to go on to the last step.
    """

    data: Prepared
    measuring: Measuring
    every: int
    prompt: object
    new_tokens: int
    folder: Path | None
    save_every: int
    identity: Mapping[str, object]
    template: Mapping[str, object] | None = None
    prompt_template: Mapping[str, object] | None = None
    until_loss: float | None = None


class Tuning:
    """A run's model, from before its first step (or where a checkpoint left it) to its last.

    base: the lab whose weights the twin shares.  lab: around the model in training.  model: as peft wraps it, or the whole
    copy with method "full".
    """

    def __init__(self, base: TunableLab, settings: Settings, plan: Plan, start: Checkpoint | None = None) -> None:
        self.settings, self.plan, self.done = settings, plan, 0 if start is None else start.step
        self.history = [Step(**row) for row in start.history] if start is not None else []  # type: ignore[arg-type]
        self.samples = list(start.samples) if start is not None else []
        self._device = base.device
        self._generator = torch.Generator(base.device)
        self._initial: dict[str, torch.Tensor] = {}
        self._start = start
        self._diverged = False
        self._accelerate = AccelerateStates()
        with kept_process_state(), self._accelerate.put_in():
            self.model = self._made(base)
            self._trained = tuple(name for name, weight in self.model.named_parameters() if weight.requires_grad)
            self.lab = type(base)(
                cast("PreTrainedModel", self.model), base.tokenizer, name=f"{base.name}, tuned", licence=base.licence
            )
            self._files = tempfile.TemporaryDirectory(prefix="labkit-")
            self._trainer = self._trainer_of(base)
        if start is not None:
            self._take_up(start, base)

    # before the first step -----------------------------------------------------------------------------------------

    def _made(self, base: TunableLab) -> PeftModel | PreTrainedModel:
        """The model with what is trained. The random state is the caller's to keep."""
        from transformers import set_seed

        it = self.settings
        set_seed(it.seed)
        model: PeftModel | PreTrainedModel
        if METHODS[it.method].is_full:
            model = whole_copy(base)
        else:
            from peft import get_peft_model

            body = twin(base)
            if any(hasattr(weight, "quant_state") for weight in body.parameters()):
                vars(body)["is_loaded_in_4bit"] = True  # peft's layers for bitsandbytes go by this
            config = lora_config(it.method, it.rank, it.alpha, it.targets, it.dropout)
            try:
                model = cast("PeftModel", get_peft_model(body, config))
            except ValueError as error:  # of modules that it has no adapter for
                told = " ".join(str(error).split())[:200]
                raise BadInput(f"peft can't put an adapter beside what targets names ({told}); name others.") from error
            # TRL would train the adapter in bfloat16, whatever is computed in
            vars(body).pop("is_loaded_in_4bit", None)
            if METHODS[it.method].residual:
                weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
                self._initial = {name: weight.detach().clone() for name, weight in weights.items()}
        seed_dropout(model, self._generator)
        self._own_draws = OwnDraws(self._generator) if draws_elsewhere(model, base.device) else None
        self._draws_elsewhere = self._own_draws is not None and draws_elsewhere(model, base.device, self._own_draws)
        self._generator.manual_seed(it.seed)
        return model

    def _trainer_of(self, base: TunableLab) -> Trainer:
        it = self.settings
        options = {**it.trainer_options(base.device.type), **self.plan.data.settings}
        options["max_steps"] = max(1, it.steps - self.done)
        trainer = trainer_of(
            self.model,
            self.plan.data.dataset(),
            padding_tokenizer(base),
            self._files.name,
            options,
            (self._step_begins, self._logged),
        )
        rows = len(trainer.train_dataset)
        self._steps_a_pass = math.ceil(rows / it.batch)
        trainer.batches = epoch_batches(rows, it.batch, it.steps, it.seed)[self.done :]
        trainer.total_steps = it.steps
        trainer.restore = self._restore
        trainer.autocast = torch.bfloat16 if it.compute == "bfloat16" else None
        trainer.random_draws = self._random_draws
        trainer.sophia = self._generator if it.optimizer == "sophia" else None
        return trainer

    def _take_up(self, start: Checkpoint, base: TunableLab) -> None:
        """The weights of a checkpoint; of PiSSA the frozen ones too, as they follow from what the adapter began with."""
        weights = dict(start.weights)
        self._initial = {
            name.removeprefix(_INITIAL): weights.pop(name) for name in list(weights) if name.startswith(_INITIAL)
        }
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(weights[name])
        self._generator.set_state(start.generator)
        original = running.language_model(base.model)
        for name, a in self._initial.items():
            if ".lora_A." in name:
                path = name.partition(".lora_A.")[0]
                layer = cast("LoraLayer", self.model.get_submodule(path))
                b = self._initial[name.replace(".lora_A.", ".lora_B.")]
                taken = layer.scaling["default"] * b @ a
                own = original.get_submodule(path.removeprefix("base_model.model.")).get_parameter("weight").detach()
                layer.get_base_layer().weight.data = own - (taken.T if is_conv1d(layer.get_base_layer()) else taken)

    def _restore(self, trainer: Trainer) -> None:
        """Optimiser and schedule of the checkpoint that the run goes on from."""
        if self._start is not None and trainer.lr_scheduler is not None:
            self._restore_optimizer(self._start)
            trainer.lr_scheduler.load_state_dict(dict(self._start.schedule))

    def _restore_optimizer(self, start: Checkpoint) -> None:
        if self._trainer.optimizer is not None:
            self._trainer.optimizer.load_state_dict(copy.deepcopy(dict(start.optimizer)))

    # the steps -----------------------------------------------------------------------------------------------------

    def run(
        self, publish: Callable[[Step], None], between: Callable[[], bool], stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Train to the end.

        publish: given each step; between: called after each, returns whether to stop there; stopping: whether it will be, so
        that nothing more is measured.
        """
        self._publish, self._between, self._stopping = publish, between, stopping
        try:
            self._begin()
            if self.done < self.settings.steps and not self.reached:
                noise = neftune(self.lab.model, self.settings.neftune, self._generator)
                with self._accelerate.put_in(), noise:
                    self._trainer.train()
            elif self._start is not None and self.settings.schedule == "schedule_free":
                # a checkpoint has the weights that steps are taken with; the optimiser leads to those that are used
                self._trainer.create_optimizer()
                self._restore_optimizer(self._start)
        finally:
            self._ended()

    @property
    def reached(self) -> bool:
        """Whether the held-out loss has come down to where the run was to end."""
        return any(self._is_goal(step) for step in self.history)

    def _is_goal(self, step: Step) -> bool:
        return self.plan.until_loss is not None and step.held_out <= self.plan.until_loss

    def _ended(self) -> None:
        if self._evaluating_optimizer is not None:
            self._evaluating_optimizer("eval")
        self._trainer.optimizer = self._trainer.lr_scheduler = None  # twice the size of what was trained
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        self._files.cleanup()

    @property
    def _evaluating_optimizer(self) -> Callable[[str], None] | None:
        """Sends a schedule-free optimiser to the weights that are measured ("eval") or those it trains ("train")."""
        optimizer = getattr(self._trainer.optimizer, "optimizer", self._trainer.optimizer)
        if not hasattr(optimizer, "eval"):
            return None
        return lambda mode: getattr(optimizer, mode)()

    @contextlib.contextmanager
    def as_measured(self) -> Iterator[None]:
        """The weights as they are to be used: those of a schedule-free optimiser are not the ones it takes steps with."""
        switch = self._evaluating_optimizer
        if switch is None:
            yield
            return
        switch("eval")
        try:
            yield
        finally:
            switch("train")

    def _begin(self) -> None:
        self._step_seconds: list[float] = []
        self._measure_seconds: list[float] = []
        self._tokens = 0.0
        if not self.history:
            self._tell(Step(0), measure=True)

    def _step_begins(self) -> None:
        self._began = time.perf_counter()
        if self.done % self._steps_a_pass == 0 and self._device.type == "cpu":
            # a loader draws once for each pass over the rows: so dropout is as in a plain script
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)

    def _logged(self, logs: Mapping[str, float]) -> bool:
        """After a step: what is measured, kept and told of it. Whether to stop."""
        seconds = time.perf_counter() - self._began
        self._step_seconds.append(seconds)
        self.done += 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self._diverged = True
            raise BadInput(
                f"The loss is {loss} at step {self.done}: the weights have left the numbers; give a lower learning_rate than "
                f"{self.settings.learning_rate:g}."
            )
        tokens = float(logs.get("num_tokens", math.nan))
        step = Step(
            self.done,
            loss=loss,
            learning_rate=float(logs.get("learning_rate", math.nan)),
            gradient_norm=float(logs.get("grad_norm", math.nan)),
            tokens_per_second=(tokens - self._tokens) / seconds,
        )
        self._tokens = tokens
        last = self.done >= self.settings.steps
        self._tell(step, measure=last or (self.done % self.plan.every == 0 and not self._stopping()))
        last = last or self.reached
        saved = self.plan.folder is not None and (last or self.done % self.plan.save_every == 0)
        if saved:
            self.save()
        stop = self._between() and not last
        if stop and self.plan.folder is not None and not saved:
            self.save()
        return stop or last

    def _tell(self, step: Step, *, measure: bool) -> None:
        if measure:
            began = time.perf_counter()
            found, text = self.measured()
            self._measure_seconds.append(time.perf_counter() - began)
            step = replace(step, **found._asdict())
            if text is not None:
                self.samples.append((step.step, text))
        step = replace(step, seconds_left=0.0 if self._is_goal(step) else self._seconds_left(step.step))
        self.history.append(step)
        self._publish(step)

    def measured(self) -> tuple[Measured, str | None]:
        """What is measured of the model as it is now, and its answer to the fixed prompt; no more of it once asked to stop."""
        last = self.done >= self.settings.steps

        def stopping() -> bool:
            return not last and self._stopping()

        with self.as_measured():
            found = self.plan.measuring(self.lab.model, stopping)
            if self.plan.prompt is None or stopping():
                return found, None
            made = self.lab.generate(
                self.plan.prompt,
                max_new_tokens=self.plan.new_tokens,
                chat=None,
                template=self.plan.prompt_template,
                alternatives=1,
            )
            assert not isinstance(made, list)
            return found, made.text

    def _seconds_left(self, step: int) -> float:
        if not self._step_seconds:
            return math.nan
        steps = self.settings.steps - step
        measures = sum(
            n == self.settings.steps or n % self.plan.every == 0 for n in range(step + 1, self.settings.steps + 1)
        )
        recent = self._step_seconds[-10:]
        each = sum(self._measure_seconds) / len(self._measure_seconds) if self._measure_seconds else 0.0
        return steps * sum(recent) / len(recent) + measures * each

    def save(self) -> None:
        """Write a checkpoint into the run's folder."""
        trainer = self._trainer
        assert self.plan.folder is not None
        assert trainer.optimizer is not None
        assert trainer.lr_scheduler is not None
        weights = {name: weight.detach() for name, weight in self._weights().items()}
        checkpoints.write(
            self.plan.folder,
            Checkpoint(
                step=self.done,
                weights=weights | {f"{_INITIAL}{name}": weight for name, weight in self._initial.items()},
                optimizer=trainer.optimizer.state_dict(),
                schedule=trainer.lr_scheduler.state_dict(),
                generator=self._generator.get_state(),
                history=[vars(step) for step in self.history],
                samples=self.samples,
                identity=self.plan.identity,
            ),
        )

    def check_numbers(self) -> None:
        """Raise Unavailable where the weights have left the numbers, so that nothing can be taken from the run."""
        if self._diverged or not all(bool(weight.isfinite().all()) for weight in self._weights().values()):
            raise Unavailable(
                "The weights of this run have left the numbers, and nothing can be taken from it; tune again with a lower "
                f"learning_rate than {self.settings.learning_rate:g}."
            )

    def _weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        there = dict(self.model.named_parameters())
        return {name: there[name] for name in self._trained}

    @contextlib.contextmanager
    def _random_draws(self) -> Iterator[None]:
        """For a model with dropout inside its attention function: it draws from the run's generator for a step.

        Where it draws in a way that takes no generator (fused on CUDA), the process's random state is the run's for a step.
        """
        if not self._draws_elsewhere:
            with self._own_draws or contextlib.nullcontext():
                yield
            return
        cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if cuda else []):
            if cuda:
                torch.cuda.set_rng_state(self._generator.get_state(), self._device)
            else:
                torch.set_rng_state(self._generator.get_state())
            yield
            self._generator.set_state(torch.cuda.get_rng_state(self._device) if cuda else torch.get_rng_state())
