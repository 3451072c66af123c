"""TRL's SFTTrainer as `finetune` runs it: in a thread of its own, without the process's random state, files or network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from labkit.lora.sophia import Sophia, gauss_newton_bartlett

if TYPE_CHECKING:
    import datasets
    from torch._ops import OpOverload
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl
    from trl.trainer.sft_trainer import SFTTrainer

__all__ = [
    "OwnDraws",
    "SeededDropout",
    "Trainer",
    "draws_elsewhere",
    "epoch_batches",
    "neftune",
    "seed_dropout",
    "trainer_of",
]


class SeededDropout(nn.Module):
    """Dropout that draws from a generator of its own, so that a run and its user's own draws leave each other alone.

    From the same state it drops what torch's dropout drops.
    """

    def __init__(self, p: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_dropout(model: nn.Module, generator: torch.Generator | None) -> None:
    """Put `SeededDropout` in the place of every dropout of a model."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is nn.Dropout:
                parent._modules[name] = SeededDropout(child.p, generator).train(child.training)


class OwnDraws(TorchDispatchMode):
    """For a `with`: what this thread draws with an operation that takes a generator comes from this one.

    The numbers are those that torch would draw from the same state. Other threads are not concerned.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        given = kwargs or {}
        if _takes_generator(func) and given.get("generator") is None:
            given = {**given, "generator": self._generator}
        return func(*args, **given)


@cache
def _takes_generator(operation: OpOverload) -> bool:
    return any(argument.name == "generator" for argument in operation._schema.arguments)


def draws_elsewhere(model: nn.Module, device: torch.device, within: OwnDraws | None = None) -> bool:
    """Whether a pass in training draws from the process's random state all the same: inside attention functions, which take
    dropout as a number, or as noise in a router. Found by trying it; the random state is the caller's to keep.

    within: entered for it.
    """

    def state() -> torch.Tensor:
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    before = state()
    ids = torch.zeros((1, 2), dtype=torch.long, device=device)
    model.train()
    with torch.no_grad(), within or contextlib.nullcontext():
        model(input_ids=ids, use_cache=False)
    return not torch.equal(before, state())


@contextlib.contextmanager
def neftune(model: PreTrainedModel, alpha: float | None, generator: torch.Generator) -> Iterator[None]:
    """Noise on the embeddings in training, uniform and of size alpha / sqrt(tokens * width) (NEFTune, Jain et al. 2023).

    transformers' own hook draws from the process's random state.
    """
    if not alpha:
        yield
        return

    def noisy(module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        size = alpha / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-size, size, generator=generator)

    handle = model.get_input_embeddings().register_forward_hook(noisy)
    try:
        yield
    finally:
        handle.remove()


def epoch_batches(rows: int, batch: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows are in each step, in the order that transformers' Trainer takes them with `data_seed`: each pass over the
    rows has an order of its own, and its last batch what is left.
    """
    found: list[list[int]] = []
    epoch = 0
    while len(found) < steps:
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        found += [order[start : start + batch] for start in range(0, rows, batch)]
        epoch += 1
    return found[:steps]


class Trainer(Protocol):
    """What of a trainer a run uses.

    batches: which rows are in each step to come.  total_steps: with those behind it.  autocast: the dtype of products, or None.
    random_draws: entered for each step.  restore: called once optimiser and schedule are there.
    sophia: what the estimates of `Sophia` draw from, where that is the optimiser; else None.
    """

    batches: Sequence[Sequence[int]]
    total_steps: int
    autocast: torch.dtype | None
    random_draws: Callable[[], contextlib.AbstractContextManager[None]]
    restore: Callable[[Trainer], None] | None
    sophia: torch.Generator | None
    train_dataset: Sized
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def train(self) -> object: ...

    def create_optimizer(self) -> object: ...


def trainer_of(
    model: nn.Module,
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    folder: str,
    options: Mapping[str, object],
    calls: tuple[Callable[[], object], Callable[[Mapping[str, float]], bool]],
) -> Trainer:
    """A trainer of a model on rows of token ids and labels. options: of SFTConfig.  folder: for what it writes.  tokenizer: with
    a padding token.

    calls: as a step begins; and after it, given what the trainer tells of it, which returns whether to stop.
    """
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig

    given = cast("dict[str, Any]", dict(options))
    packing = bool(given.get("packing"))
    config = SFTConfig(
        output_dir=folder,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": not packing},  # the rows are tokenized, and packed there
        **given,
    )
    config._n_gpu = 1  # of several GPUs the one that the model is on
    made: Any = _trainer_class()(
        model=cast("PreTrainedModel", model),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[_callback(*calls)],
    )
    made.remove_callback(PrinterCallback)
    found: Trainer = made
    return found


@cache
def _trainer_class() -> type[SFTTrainer]:
    """The trainer's class. Made when first used: TRL takes seconds to import."""
    from trl.trainer.sft_trainer import SFTTrainer

    class BatchTrainer(SFTTrainer):
        """SFTTrainer with batches chosen beforehand, whose optimiser may have steps behind it. Its fields: see `Trainer`."""

        batches: Sequence[Sequence[int]] = ()
        total_steps: int = 0
        autocast: torch.dtype | None = None
        random_draws: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        restore: Callable[[Trainer], None] | None = None
        sophia: torch.Generator | None = None

        def _send_telemetry(self) -> None:
            """Nothing is sent anywhere."""

        def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
            rows = self._remove_unused_columns(self.train_dataset, description="training")
            return DataLoader(
                cast("Dataset[dict[str, torch.Tensor]]", rows),
                batch_sampler=[list(batch) for batch in self.batches],
                collate_fn=self.data_collator,
                generator=torch.Generator(),  # else it draws from the process's own
            )

        def create_optimizer(self, *given: object) -> torch.optim.Optimizer:
            if self.sophia is not None and self.optimizer is None:
                model = cast("nn.Module", self.model)
                weights = [weight for weight in model.parameters() if weight.requires_grad]
                self.optimizer = Sophia(weights, self.args.learning_rate)
            made: torch.optim.Optimizer = super().create_optimizer(*given)
            return made

        def create_scheduler(
            self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
        ) -> torch.optim.lr_scheduler.LRScheduler:
            made = super().create_scheduler(self.total_steps, optimizer)
            if self.restore is not None:
                self.restore(cast("Trainer", self))
            return made

        def autocast_smart_context_manager(
            self, cache_enabled: bool | None = True
        ) -> contextlib.AbstractContextManager[None]:
            if self.autocast is None:
                return contextlib.nullcontext()
            return torch.autocast(self.args.device.type, dtype=self.autocast)

        def training_step(
            self, model: nn.Module, inputs: dict[str, torch.Tensor], *rest: object, **keywords: object
        ) -> torch.Tensor:
            with self.random_draws():
                optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # within accelerate's
                if self.sophia is not None and isinstance(optimizer, Sophia) and optimizer.wants_estimate:
                    model.train()
                    moved = self._prepare_inputs(inputs)
                    with self.compute_loss_context_manager():
                        optimizer.estimate(gauss_newton_bartlett(model, moved, optimizer.trained, self.sophia))
                loss: torch.Tensor = super().training_step(model, inputs, *rest, **keywords)  # type: ignore[no-untyped-call]
                return loss

    return BatchTrainer


def _callback(step_begins: Callable[[], object], logged: Callable[[Mapping[str, float]], bool]) -> TrainerCallback:
    """A callback that calls plain functions."""
    from transformers import TrainerCallback

    class Calls(TrainerCallback):
        def on_step_begin(self, args: object, state: object, control: object, **_more: object) -> None:
            step_begins()

        def on_log(
            self, args: object, state: object, control: TrainerControl, logs: object = None, **_more: object
        ) -> None:
            if isinstance(logs, dict) and "loss" in logs and logged(logs):
                control.should_training_stop = True

    return Calls()
