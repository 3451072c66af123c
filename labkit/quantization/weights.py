"""The matrices of a model that can be quantized: the linear maps of its layers, fused experts, the embedding and the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from labkit.models.memory import part
from labkit.trace import running
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

Part = Literal["layer", "head", "embedding"]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight that a linear map, or each of several experts, multiplies its input with.

    name: of the module, such as "model.layers.0.self_attn.q_proj"; of fused experts with their parameter,
        "model.layers.0.mlp.experts.down_proj".
    layer: None for the embedding and the output head.  matrix: what stands in the same place of each layer, as short as it
        is told apart: "q_proj", "attn.c_proj", "experts.down_proj".  part: "layer", "head" or "embedding".
    shape: (outputs, inputs), or (experts, outputs, inputs), whichever way the module stores it; transposed: as
        (inputs, outputs), as in GPT-2's Conv1D.  module, parameter: where it is.
    tied: head and embedding are one tensor, which counts once.
    """

    name: str
    layer: int | None
    matrix: str
    shape: torch.Size
    part: Part
    module: nn.Module = field(repr=False)
    parameter: str = "weight"
    transposed: bool = False
    tied: bool = False

    @property
    def weight(self) -> torch.Tensor:
        """The matrix as it is now, (..., outputs, inputs): each row makes one output. Not to be written to."""
        found: torch.Tensor = getattr(self.module, self.parameter)
        found = found.detach()
        return found.transpose(-1, -2) if self.transposed else found


def matrices(lab: LabLike) -> dict[str, Matrix]:
    """The matrices of a lab by name, in the order of the layers, then the embedding and the head.

    Linear maps inside the layers and the experts of a mixture where they are fused to one tensor (experts, outputs,
    inputs). Routers are none of them: they are small, and a choice that flips costs more than their bytes. Of a quantized
    lab, those that labkit packed are among them, and `weight` gives their values.
    """
    check_lab(lab)
    found: list[Matrix] = []
    names = {id(module): name for name, module in running.language_model(lab.model).named_modules()}
    seen: set[int] = set()
    for index, layer in enumerate(lab.anatomy.layers):
        if id(layer.module) in seen:  # a module that is used as several layers
            continue
        base = names[id(layer.module)]
        for path, module in layer.module.named_modules():
            if id(module) in seen or part(f"{base}.{path}", type(module).__name__) == "router":
                continue
            seen.add(id(module))
            for parameter, transposed in parameters_of(module):
                weight = shape_of(module, parameter)
                shape = torch.Size((*weight[:-2], weight[-1], weight[-2])) if transposed else weight
                own = path if parameter == "weight" else f"{path}.{parameter}"
                found.append(Matrix(f"{base}.{own}", index, own, shape, "layer", module, parameter, transposed))
    found = [*_shortened(found), *_ends(lab, names)]
    return {each.name: each for each in found}


def weight_error(weight: torch.Tensor, other: torch.Tensor) -> float:
    """The root mean square of the change from one to the other, over that of the weights themselves."""
    before = weight.double()
    return float((other.double() - before).norm() / before.norm().clamp(min=1e-300))


def shape_of(module: nn.Module, parameter: str) -> torch.Size:
    """The shape of a weight as its module has it, without unpacking it."""
    packed = packed_shapes(module).get(parameter)
    return module._parameters[parameter].shape if packed is None else packed  # type: ignore[union-attr]


def packed_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """By parameter, the shapes of the weights that labkit packed in a module."""
    shapes: dict[str, torch.Size] = getattr(module, "packed_shapes", {})
    return shapes


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map with the matrix `weight`: torch's own, a subclass of it, or GPT-2's Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D: a linear map that stores (inputs, outputs)."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


def parameters_of(module: nn.Module) -> Iterator[tuple[str, bool]]:
    """(parameter, transposed) of each matrix of a module itself."""
    there = {name for name, value in module._parameters.items() if value is not None and value.is_floating_point()}
    there |= set(packed_shapes(module))
    if is_linear(module):
        if "weight" in there and len(shape_of(module, "weight")) == 2:
            yield "weight", is_conv1d(module)
        return
    if "conv" in type(module).__name__.lower():
        return
    for name in sorted(there):
        shape = shape_of(module, name)
        if len(shape) == 3 and min(shape) > 1:
            yield name, bool(getattr(module, "is_transposed", False))


def _shortened(found: list[Matrix]) -> list[Matrix]:
    """With the shortest end of each path that tells it from the other paths; a parameter never stands alone."""
    paths = {each.matrix for each in found}
    least = {each.matrix: 1 if each.parameter == "weight" else 2 for each in found}
    short = {path: path for path in paths}
    for length in range(1, max((path.count(".") + 1 for path in paths), default=0) + 1):
        ends = {path: ".".join(path.split(".")[-length:]) for path in paths}
        counted = Counter(ends.values())
        for path in paths:
            if short[path] == path and counted[ends[path]] == 1 and length >= least[path]:
                short[path] = ends[path]
    return [replace(each, matrix=short[each.matrix]) for each in found]


def _ends(lab: LabLike, names: dict[int, str]) -> list[Matrix]:
    """The embedding and the output head."""
    embedding, head = lab.model.get_input_embeddings(), lab.model.get_output_embeddings()
    tied = head is not None and _is_tied(embedding, head)
    found: list[Matrix] = []
    ends: tuple[tuple[nn.Module | None, Part], ...] = ((embedding, "embedding"), (head, "head"))
    for module, which in ends:
        if module is None or not ("weight" in packed_shapes(module) or _has_matrix(module)):
            continue
        name = names[id(module)]
        shape = shape_of(module, "weight")
        found.append(Matrix(name, None, name.rpartition(".")[2], shape, which, module, tied=tied))
    return found


def _has_matrix(module: nn.Module) -> bool:
    weight: object = module._parameters.get("weight")
    return isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.is_floating_point()


def _is_tied(embedding: nn.Module, head: nn.Module) -> bool:
    """Whether two modules have one tensor, or one packed weight, between them."""
    for held in ("_parameters", "_modules"):
        for name, value in vars(embedding)[held].items():
            if value is not None and any(value is other for other in vars(head)[held].values()):
                return str(name).endswith("weight")
    return False
