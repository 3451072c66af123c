"""Quantization by other libraries behind the same face: bitsandbytes, torchao, and torch's own packed products.

Each replaces linear maps and nothing else. What is no linear map stays as it is, such as the fused experts of a mixture,
and what was really quantized is read off the tensors afterwards (`inventory.py`), not taken from what a library says.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.quantized import takes_odd_shapes
from labkit.models.quiet import quiet_libraries
from labkit.models.resolve import say
from labkit.quantization.grids import refuse_damaged
from labkit.quantization.inventory import Record, contents, put_record
from labkit.quantization.torch_products import GROUPS, Int4Product, Int8Product
from labkit.quantization.weights import Matrix, matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import BuiltLab

Made = TypeVar("Made", bound="BuiltLab")
Replacing = Callable[[nn.Linear], "nn.Module | str"]  # what stands for a linear map, or why none can
FORMATS = {
    "bitsandbytes": ("nf4", "nf4_single", "int8"),
    "torchao": ("int8",),
    "torch": ("int4", "int8"),
}
NAMES = tuple(FORMATS)
_DEFAULT_GROUP = 64
_BNB_BLOCK = 64


@dataclass(frozen=True)
class Asked:
    """What is to be done by which library. group_size: of torch's int4."""

    backend: str
    format: str
    group_size: int | None

    @property
    def needs_bfloat16(self) -> bool:
        return self.backend == "torch"

    def described(self) -> str:
        group = f", groups of {self.group_size}" if self.group_size else ""
        return f"{self.backend} {self.format}{group}"


def asked(backend: str, format: object, group_size: object) -> Asked:
    """Settings that go together. Raises BadInput."""
    checks.one_of("backend", backend, NAMES)
    if not isinstance(format, str) or format not in FORMATS[backend]:
        shown = format if isinstance(format, str) else type(format).__name__
        others = [name for name in NAMES if shown in FORMATS[name]]
        remedy = f", or backend={others[0]!r}" if others else ", or backend='labkit'"
        raise BadInput(
            f"backend={backend!r} has no format {shown!r}; give {checks.listed(FORMATS[backend], 'or')}{remedy}."
        )
    if backend == "torch" and format == "int4":
        size = _DEFAULT_GROUP if group_size is None else group_size
        if size not in GROUPS:
            raise BadInput(f"group_size={size!r} is none of torch's int4; give {checks.listed(GROUPS, 'or')}.")
        return Asked(backend, format, int(size))
    if group_size is not None:
        checks.refuse("group_size", group_size, f"none with {backend}'s {format}, which has its own")
    return Asked(backend, format, None)


def check_there(wanted: Asked, device: torch.device) -> None:
    """Raise Unavailable, with the one command that would help, where the library or the device can't do it."""
    package = {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}.get(wanted.backend)
    if package is not None and importlib.util.find_spec(package) is None:
        raise Unavailable(f"backend={wanted.backend!r} needs the package {package}: pip install {package}")
    if wanted.backend == "torch" and device.type != "cpu":
        raise Unavailable(
            f"torch's packed products run on a CPU, and this lab is on {device}; load it with lk.load(..., device='cpu')."
        )


def slow_here() -> str | None:
    """Why torch's packed products are slower than plain ones on this CPU."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("AVX2", "AVX512"):
        return None
    if os.environ.get("ATEN_CPU_CAPABILITY", "").lower() == "default":
        return (
            "ATEN_CPU_CAPABILITY=default switches off the instructions that torch's packed products need: they run, several "
            "times slower than the unquantized model; start Python without it"
        )
    return (
        f"torch has no fast packed products for this CPU ({capability}): they run, slower than the unquantized model; use "
        "backend='bitsandbytes', or llama.cpp with a file of lk.quantization.write_gguf"
    )


def through(
    lab: Made,
    backend: str,
    format: object = "int4",
    *,
    group_size: object = None,
    names: Iterable[str] | None = None,
    copy: Callable[[PreTrainedModel, Iterable[Matrix]], PreTrainedModel],
    progress: bool = True,
) -> Made:
    """A new lab whose linear maps another library packed. `quantize(backend=...)` calls this.

    names: which matrices, of all in the layers.  copy: makes the model without the matrices it is given.
    Raises BadInput, Unavailable, as `quantize`.
    """
    wanted = asked(backend, format, group_size)
    check_there(wanted, lab.device)
    there = matrices(lab)
    chosen = [name for name, each in there.items() if each.part == "layer"] if names is None else list(names)
    quiet_libraries()
    with lab.turn(), torch.no_grad(), _quietly():
        replace = _replacing(wanted)
        made: dict[str, nn.Module] = {}
        kept: dict[str, str] = {}
        for name in _shown(chosen, progress):
            module = there[name].module
            refuse_damaged(there[name].weight, name)
            if type(module) is not nn.Linear:
                kept[name] = f"{backend} replaces linear maps (nn.Linear) alone, and this is a {type(module).__name__}"
                continue
            found = replace(module)
            if isinstance(found, str):
                kept[name] = found
            else:
                made[name] = found
        if not made:
            reason = next(iter(kept.values()), "no matrix was asked for")
            raise BadInput(
                f"Nothing of {lab.name} would be quantized: {reason}; use backend='labkit', which packs any matrix."
            )
        model = copy(lab.model, [there[name] for name in made])
        if wanted.needs_bfloat16:
            model = _converted(model, torch.bfloat16)
        for name, module in made.items():
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module)
    return _finished(lab, model, wanted, made, kept)


def _converted(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model in another precision; what is on the meta device is about to be replaced."""
    for module in model.modules():
        for value in module._parameters.values():
            if value is not None and value.is_floating_point() and not value.is_meta:
                value.data = value.data.to(dtype)
    model.config.dtype = dtype
    return model


def _finished(
    lab: Made, model: PreTrainedModel, wanted: Asked, made: Mapping[str, nn.Module], kept: Mapping[str, str]
) -> Made:
    record = Record(wanted.backend, dict.fromkeys(made, wanted.described()), dict(kept))
    put_record(model, record)
    notes = [f"quantized by {wanted.described()}: {len(made)} linear maps"]
    if wanted.needs_bfloat16 and lab.dtype != torch.bfloat16:
        notes.append("all else of the model is in bfloat16 now, which torch's packed products compute in")
    if wanted.backend == "bitsandbytes" and wanted.format != "int8" and lab.dtype != torch.bfloat16:
        notes.append(
            f"computed in {str(lab.dtype).removeprefix('torch.')}; bitsandbytes has a faster product for bfloat16: load the "
            "lab with dtype='bfloat16' first"
        )
    if wanted.backend == "torch" and (slow := slow_here()) is not None:
        notes.append(slow)
    new = type(lab)(
        model,
        lab.tokenizer,
        name=f"{lab.name}, {wanted.described()}",
        licence=lab.licence,
        notes=(*lab.notes, *notes),
    )
    loud = [each for each in contents(new).warnings if "not quantized" in each]
    for each in loud:
        say(f"{lab.name} by {wanted.backend}: {each}")
    new.notes = (*new.notes, *loud)
    return new


# the libraries --------------------------------------------------------------------------------------------------------


def _replacing(wanted: Asked) -> Replacing:
    if wanted.backend == "bitsandbytes":
        return _bitsandbytes_int8 if wanted.format == "int8" else _bitsandbytes_nf4(wanted.format == "nf4")
    if wanted.backend == "torchao":
        return _torchao()
    if wanted.format == "int8":
        return _torch_int8
    size = wanted.group_size
    assert size is not None
    return lambda module: Int4Product.why_not(module.weight, size) or Int4Product(module.weight, module.bias, size)


def _torch_int8(module: nn.Linear) -> nn.Module | str:
    return Int8Product.why_not(module.weight) or Int8Product(module.weight, module.bias)


def _bitsandbytes_nf4(double: bool) -> Replacing:
    library: Any = importlib.import_module("bitsandbytes.nn")

    def replace(module: nn.Linear) -> nn.Module | str:
        weight = module.weight.detach()
        if weight.numel() % _BNB_BLOCK:
            return f"bitsandbytes cuts a matrix into blocks of {_BNB_BLOCK}, and this has {weight.numel()} weights"
        made = library.Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            compute_dtype=weight.dtype,
            compress_statistics=double,
            quant_type="nf4",
            device="meta",
        )
        made.weight = library.Params4bit(
            weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=double
        )
        # its fast product rounds scales and activations to bfloat16; and on saving it turns the weights back, which
        # without double quantization comes out wrong (0.50)
        if weight.dtype != torch.bfloat16 or not double:
            made.support_avx512bf16_for_cpu = False
        whole = _with_bias(made, module).to(weight.device)
        takes_odd_shapes(whole)
        return whole

    return replace


def _bitsandbytes_int8(module: nn.Linear) -> nn.Module | str:
    library: Any = importlib.import_module("bitsandbytes.nn")
    weight = module.weight.detach()
    made = library.Linear8bitLt(
        module.in_features, module.out_features, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    made.weight = library.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    return _with_bias(made, module).to(weight.device)


def _with_bias(made: nn.Module, module: nn.Linear) -> nn.Module:
    made.bias = None if module.bias is None else nn.Parameter(module.bias.detach().clone(), requires_grad=False)
    return made.eval()


def _torchao() -> Replacing:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def replace(module: nn.Linear) -> nn.Module | str:
        made = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
        holder = nn.Sequential(_with_bias(made, module))
        quantize_(holder, Int8WeightOnlyConfig())
        return holder[0]

    return replace


def _shown(names: list[str], progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(names, desc="quantizing", unit="matrix", disable=not progress)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torchao warns of as it is imported: libraries for GPUs that are not here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
