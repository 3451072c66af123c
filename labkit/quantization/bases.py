"""Which model something was made from, an adapter, a lens or a direction: a fingerprint of its weights, and what differs."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.models import catalog
from labkit.models.resolve import is_path_like
from labkit.quantization.inventory import packed_type
from labkit.quantization.weights import packed_shapes
from labkit.trace import running
from labkit.trace.adding import own_parameter, own_parameters
from labkit.trace.building import is_quantized

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Base", "base_of", "hub_name"]

SAMPLED = 4096  # values of a tensor that are hashed
MATRICES = 8  # of the layers that are looked at


@dataclass(frozen=True)
class Base:
    """What tells a base model from others. All sha256, of values rounded to bfloat16, so that 32 and 16 bits agree.

    name: of the lab.  shapes: of the embedding and of all norms and biases outside of it, by name.  ends: values of the
    embedding and of the norms.  layers: values of some matrices of the layers; None of a quantized model, which has others.
    Both are None in float16, which rounds otherwise, and where weights lie on disk until they are used.  packed: what most
    weights of a quantized model are stored as, in words; None of another.
    """

    name: str
    shapes: str
    ends: str | None
    layers: str | None
    packed: str | None = None

    def differs(self, other: Base) -> str | None:
        """In what another model differs, as the middle of a sentence; None where nothing is seen to."""
        if self.shapes != other.shapes:
            return "has parts of other names or shapes"
        if self.ends is not None and other.ends is not None and self.ends != other.ends:
            return "has another embedding or other norms"
        if self.layers is not None and other.layers is not None and self.layers != other.layers:
            return "has other weights in its layers"
        return None

    @property
    def stored_as(self) -> str:
        """How the weights of the layers are stored, in words; what was written before labkit kept it counts as some form."""
        if self.packed is None:
            return "quantized" if self.layers is None and self.ends is not None else "not quantized"
        return f"packed as {self.packed}"

    def as_text(self) -> str:
        """For the metadata of a file."""
        fields = {name: value for name, value in asdict(self).items() if name != "packed" or value is not None}
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def from_text(text: str | None) -> Base | None:
        """Read again; None where there is none, or nothing that labkit wrote."""
        try:
            found = json.loads(text or "")
            packed = found.get("packed")
            return Base(
                **{name: found[name] for name in ("name", "shapes", "ends", "layers")},
                packed=packed if isinstance(packed, str) else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def base_of(lab: LabLike) -> Base:
    """The fingerprint of a lab's model: a few values of each kind of tensor, some milliseconds.

    Of its own weights, also while an adapter is on.
    """
    model = running.language_model(lab.model)
    embedding = model.get_input_embeddings()
    weight = own_parameter(embedding, "weight")
    small: dict[str, torch.Tensor] = {}
    matrices: dict[str, torch.Tensor] = {}
    for name, value in _once(own_parameters(model)).items():
        if value.dim() == 1 and value.is_floating_point():
            small[name] = value
        elif value.dim() >= 2 and value.is_floating_point() and value is not weight:
            matrices[name] = value
    small = {name: value for name, value in small.items() if _is_of_the_model(model, name)}
    plain = weight is not None and weight.is_floating_point()
    shape = tuple(weight.shape) if weight is not None else tuple(packed_shapes(embedding).get("weight", ()))
    shapes = _hash([json.dumps([shape, sorted((name, tuple(value.shape)) for name, value in small.items())]).encode()])
    read = [*small.values(), *matrices.values(), *([] if weight is None else [weight])]
    if lab.dtype == torch.float16 or any(value.is_meta for value in read):
        return Base(lab.name, shapes, None, None, packed_type(model) if is_quantized(model) else None)
    ends = _hash([_sample(value) for _, value in sorted(small.items())] + ([_sample(weight)] if plain else []))  # type: ignore[arg-type]
    names = sorted(matrices)
    chosen = [names[i * (len(names) - 1) // (MATRICES - 1)] for i in range(MATRICES)] if names else []
    quantized = is_quantized(model)
    layers = None if quantized or not names else _hash([_sample(matrices[name]) for name in chosen])
    packed = packed_type(model) if quantized else None
    return Base(lab.name, shapes, ends, layers, packed)


def _once(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Without the later names of what is shared."""
    first: dict[int, str] = {}
    return {name: value for name, value in parameters.items() if first.setdefault(id(value), name) == name}


def _is_of_the_model(model: nn.Module, name: str) -> bool:
    """Whether a vector is a norm or a bias, and not something that a packed weight keeps."""
    return not any(part.startswith("packed_") for part in name.split("."))


def _sample(value: torch.Tensor) -> bytes:
    flat = value.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED]
    return some.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()


def _hash(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def hub_name(lab: LabLike) -> str | None:
    """The name others know a lab's model by; None where there is only a path or a name of one's own."""
    if known := catalog.find(lab.name):
        return known.original
    name = str(getattr(lab.config, "_name_or_path", "") or lab.name)
    return name if name.count("/") == 1 and not is_path_like(name) and not os.path.lexists(name) else None
