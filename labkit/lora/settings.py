"""What a tuning is: the settings of one run, checked once, and the same for the trainer, the script and the checkpoints."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.lora.methods import METHODS

Schedule = Literal["linear", "cosine", "constant", "schedule_free"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant", "schedule_free")
OPTIMIZERS = ("adamw", "sgd", "sophia")
COMPUTE = ("float32", "bfloat16")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Of weights, by the names that users give."""
_WITH_WARMUP = {"constant": "constant_with_warmup"}  # linear and cosine have it under their own names


@dataclass(frozen=True)
class Settings:
    """The settings of a run, as `finetune` takes them. targets: names that are in the model; none with method "full".

    compute: the dtype of products in the forward pass; weights and their gradients keep theirs.
    """

    method: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float
    neftune: float | None
    steps: int
    learning_rate: float
    schedule: str
    optimizer: str
    warmup: int
    batch: int
    packing: bool
    compute: str
    seed: int

    def trainer_options(self, device: str) -> dict[str, str | int | float | bool | None]:
        """SFTConfig's arguments for this run, all that differ from what TRL would take: the script and the run have the same."""
        free = self.schedule == "schedule_free"
        names = {"adamw": "adamw_torch_fused", "sgd": "sgd", "sophia": "sgd"}  # TRL has no Sophia: the run makes it
        options: dict[str, str | int | float | bool | None] = {
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant" if free else _WITH_WARMUP.get(self.schedule, self.schedule),
            "optim": "schedule_free_adamw" if free else names[self.optimizer],
            "warmup_steps": self.warmup,
            "bf16": False,
            "activation_checkpointing": False,
            "router_aux_loss_coef": 0.0,  # of a mixture of experts: the loss is of the tokens alone
            "max_length": None,
            "seed": self.seed,
            "data_seed": self.seed,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "save_strategy": "no",
            "dataloader_pin_memory": False,
        }
        if device == "cpu":
            options["use_cpu"] = True
        return options

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"targets": list(self.targets)}


def checked(
    *,
    method: object,
    rank: object,
    alpha: object,
    dropout: object,
    neftune: object,
    steps: object,
    learning_rate: object,
    schedule: object,
    optimizer: object,
    warmup: object,
    batch: object,
    packing: bool,
    compute: object,
    seed: object,
) -> Settings:
    """Settings without targets, which the model decides. Raises BadInput."""
    steps = checks.whole("steps", steps, 1)
    found = Settings(
        method=checks.one_of("method", method, METHODS),
        rank=checks.whole("rank", rank, 1),
        alpha=checks.number("alpha", alpha, above=0),
        targets=(),
        dropout=checks.fraction("dropout", dropout, one=False),
        neftune=None if neftune is None else checks.number("neftune", neftune, 0),
        steps=steps,
        learning_rate=checks.number("learning_rate", learning_rate, above=0),
        schedule=checks.one_of("schedule", schedule, SCHEDULES),
        optimizer=checks.one_of("optimizer", optimizer, OPTIMIZERS),
        warmup=checks.whole("warmup", warmup, 0, steps - 1),
        batch=checks.whole("batch", batch, 1),
        packing=packing is True,
        compute=checks.one_of("compute", compute, COMPUTE),
        seed=checks.whole("seed", seed, 0, 2**32 - 1, wanted="a whole number from 0 to 4,294,967,295"),  # numpy's
    )
    if found.schedule == "schedule_free" and found.optimizer != "adamw":
        raise BadInput(f"schedule='schedule_free' is a form of AdamW; leave optimizer={found.optimizer!r} out.")
    if found.schedule == "schedule_free" and importlib.util.find_spec("schedulefree") is None:
        raise Unavailable("schedule='schedule_free' needs the package schedulefree: pip install 'labkit[lora]'")
    return found
