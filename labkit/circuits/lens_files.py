"""Jacobian lenses in files: safetensors, and the published format of neuronpedia/jacobian-lens.

A published lens is what torch.save makes of {"J": {l: (d_model, d_model)}, "n_prompts", "source_layers", "d_model"}, where l
is the layer that a state leaves; a checkpoint of a fit has the sums as "jacobian_sum" and "n_done" instead. labkit counts by
the layer that a state enters, one more. In safetensors the same numbers have the names "J.0", "J.1", ..., and the facts are
the file's metadata. What labkit ships is stored in eight bits a number; every GROUP numbers of a row have a scale ("scale.0").
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import torch

from labkit import checks
from labkit.circuits.jacobian_lens import JacobianLens, plain_name
from labkit.circuits.tuned_lens import TunedLens
from labkit.errors import BadInput, BadModelFile, ModelNotFound
from labkit.models.files.safetensors_header import SafetensorsHeader, read_safetensors_header
from labkit.models.shipped import checked_lens
from labkit.quantization.bases import Base
from labkit.trace.along import exact

SHIPPED_MODEL = "smollm2-135m-instruct"
FILE = "lens.safetensors"
PICKLES = (".pt", ".pth")
TUNED = "tuned-lens"
_MOST_LAYERS = 10_000
_FLOATS = ("F32", "F16", "BF16")
_STORED = (*_FLOATS, "I8")
_LEVELS = 127
UNKNOWN = "its model can't be verified: the file has no fingerprint, so only name, layers and width are compared"
GROUP = 32  # numbers of a row that share a scale; a narrower or uneven row has one
_SMALLEST = 1e-7  # scale that float16 still holds


def load_lens(
    path: str | Path, *, model: str | None = None, layers: int | None = None, allow_pickle: bool = False
) -> JacobianLens:
    """A Jacobian lens from a file: one that `JacobianLens.save` wrote, or a published one; or a `TunedLens` that was saved.

    path: NAME.safetensors; or NAME.pt, such as "gpt2-small/jlens/Salesforce-wikitext/gpt2_jacobian_lens.pt" of
        neuronpedia/jacobian-lens, as huggingface_hub.hf_hub_download(...) gives its place on disk.
    A file that labkit wrote has a fingerprint of the model's weights; of others, published ones among them, a note says that
    only name, layers and width are compared.
    model: the name of the model it is of, where its file does not say or calls it otherwise.  layers: how many that model has,
        where its file does not say and the lens leaves out some; None takes it to be of all layers but the last.
    allow_pickle: a .pt file is a pickle. It is opened by torch's reader of tensors and plain values alone (weights_only),
        which runs no code of the file's, but only when this is asked for.
    Raises ModelNotFound where there is no such file, BadModelFile for a damaged one or one that is no such lens, and for a
    pickle that was not asked for.
    """
    layers = None if layers is None else checks.whole("layers", layers, 2)
    if model is not None and not isinstance(model, str):
        checks.refuse("model", model, "the model's name")
    if not isinstance(path, str | Path):
        raise BadInput(f"A lens is loaded from a file, and a {type(path).__name__} names none; give its path.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelNotFound(
            f"There is no file {str(path)!r}; give the path of a .safetensors file that lens.save wrote, or of a published .pt."
        )
    if file.suffix in PICKLES:
        if not allow_pickle:
            raise BadModelFile(
                f"{file.name} is a pickle, which can run code when it is opened carelessly; load_lens(path, allow_pickle=True) "
                "reads the tensors and numbers of a published lens alone, and lens.save('lens.safetensors') then writes it "
                "without."
            )
        return _from_pickle(file, model, layers)
    return _from_safetensors(file, model, layers)


def shipped_lens(name: str) -> JacobianLens | None:
    """The lens that comes with labkit for the model of a name; None where there is none. Raises BadModelFile when damaged."""
    if plain_name(name) != SHIPPED_MODEL:
        return None
    return _shipped()


@cache
def _shipped() -> JacobianLens:
    return _from_safetensors(checked_lens() / FILE, None, None)


# writing --------------------------------------------------------------------------------------------------------------


def write(lens: JacobianLens, path: str | Path, *, bits: int = 16) -> Path:
    """Write a lens, whole or not at all. bits: 8 stores whole numbers up to 127, with a float16 scale for every GROUP of them."""
    if not isinstance(path, str | Path):
        raise BadInput(f"A lens is saved to a file, and a {type(path).__name__} names none; give its path.")
    file = Path(path).expanduser()
    if file.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; give the path of a file in it.")
    if file.suffix not in (".safetensors", *PICKLES):
        raise BadInput(
            f"A lens is saved as NAME.safetensors, or as NAME.pt as published ones are, and not as {file.name}."
        )
    if isinstance(lens, TunedLens) and file.suffix in PICKLES:
        raise BadInput(f"A tuned lens is saved as NAME.safetensors, and not as {file.name}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    try:
        if isinstance(lens, TunedLens):
            _write_tuned(lens, part)
        elif file.suffix in PICKLES:
            _write_pickle(lens, part)
        else:
            _write_safetensors(lens, part, bits)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _write_pickle(lens: JacobianLens, file: Path) -> None:
    layers = sorted(lens.jacobians)
    content: dict[str, object] = {
        "J": {layer - 1: lens.jacobians[layer].half() for layer in layers},
        "n_prompts": lens.prompts,
        "source_layers": [layer - 1 for layer in layers],
        "d_model": lens.d_model,
        "metadata": {"target_layer": lens.layers - 1}
        | ({} if lens.model is None else {"model_name": lens.model})
        | ({} if lens.base is None else {"base": lens.base.as_text()}),
    }
    torch.save(content, file)


def _write_safetensors(lens: JacobianLens, file: Path, bits: int) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for layer, matrix in lens.jacobians.items():
        if bits == 8:
            width = matrix.shape[1]
            groups = matrix.unflatten(1, (-1, GROUP if width % GROUP == 0 else width))
            scale = (groups.abs().amax(2, keepdim=True) / _LEVELS).clamp_min(_SMALLEST).half()
            whole = (groups / scale.float()).round().clamp(-_LEVELS, _LEVELS)
            tensors[f"J.{layer - 1}"] = whole.to(torch.int8).flatten(1)
            tensors[f"scale.{layer - 1}"] = scale[..., 0].contiguous()
        else:
            tensors[f"J.{layer - 1}"] = matrix.half().contiguous()
    facts = {
        "format": "jacobian-lens",
        "n_prompts": str(lens.prompts),
        "d_model": str(lens.d_model),
        "source_layers": json.dumps([layer - 1 for layer in sorted(lens.jacobians)]),
        "target_layer": str(lens.layers - 1),
        "agreement": json.dumps({layer: round(value, 5) for layer, value in lens.agreement.items()}),
        "notes": json.dumps([note for note in lens.notes if note != UNKNOWN]),
    }
    if lens.base is not None:
        facts["base"] = lens.base.as_text()
    save_file(tensors, file, metadata=facts if lens.model is None else facts | {"model": lens.model})


def _write_tuned(lens: TunedLens, file: Path) -> None:
    """The same file with biases "b.0", "b.1", ...; all counted by the layer that a state enters, and float32, since what
    differs from the identity is small."""
    from safetensors.torch import save_file

    tensors = {f"J.{layer}": exact(matrix).contiguous() for layer, matrix in lens.jacobians.items()}
    tensors |= {f"b.{layer}": exact(bias).contiguous() for layer, bias in lens.biases.items()}
    facts = {
        "format": TUNED,
        "n_prompts": str(lens.prompts),
        "layers": str(lens.layers),
        "notes": json.dumps([note for note in lens.notes if note != UNKNOWN]),
    }
    facts |= {} if lens.model is None else {"model": lens.model}
    facts |= {} if lens.base is None else {"base": lens.base.as_text()}
    save_file(tensors, file, metadata=facts)


def _tuned(file: Path, header: SafetensorsHeader, model: str | None) -> TunedLens:
    from safetensors.torch import load_file

    facts = header.metadata
    for name, (dtype, shape, _) in header.tensors.items():
        if dtype not in _FLOATS or not math.prod(shape):
            raise _wrong(file, f"{name} is {dtype} of shape {shape}")
    held = load_file(file)
    try:
        notes = tuple(str(note) for note in json.loads(facts.get("notes", "[]")))
        matrices = {int(name[2:]): value for name, value in held.items() if name.startswith("J.")}
        biases = {int(name[2:]): value for name, value in held.items() if name.startswith("b.")}
        if not all(bool(value.isfinite().all()) for value in held.values()):
            raise _wrong(file, "it holds numbers that are none")
        base = Base.from_text(facts.get("base"))
        return TunedLens(
            jacobians=dict(sorted(matrices.items())),
            prompts=max(0, int(facts.get("n_prompts", "0"))),
            model=model or facts.get("model"),
            layers=int(facts["layers"]),
            notes=notes if base else (*notes, UNKNOWN),
            base=base,
            biases=dict(sorted(biases.items())),
        )
    except (ValueError, TypeError, KeyError, RecursionError, BadInput) as error:
        raise _wrong(file, "what it says about itself can't be read") from error


# reading --------------------------------------------------------------------------------------------------------------


def _from_safetensors(file: Path, model: str | None, layers: int | None) -> JacobianLens:
    header = read_safetensors_header(file)
    facts = header.metadata
    if facts.get("format") == TUNED:
        return _tuned(file, header, model)
    names = {name: name.partition(".")[2] for name in header.tensors if name.startswith("J.")}
    if not names or not all(number.isdecimal() and int(number) < _MOST_LAYERS for number in names.values()):
        raise BadModelFile(
            f"{file.name} holds no Jacobian lens, whose matrices are called J.0, J.1 and so on; give another."
        )
    for name in names:
        dtype, shape, _ = header.tensors[name]
        if dtype not in _STORED or len(shape) != 2:
            raise _wrong(file, f"{name} is {dtype} of shape {shape}")
        if dtype == "I8" and not _fits(shape, header.tensors.get(f"scale.{names[name]}")):
            raise _wrong(file, f"{name} has no scale for its numbers")
    from safetensors.torch import load_file

    held = load_file(file)
    matrices: dict[int, torch.Tensor] = {}
    for name, number in names.items():
        matrix = held[name].float()
        if held[name].dtype == torch.int8:
            scale = held[f"scale.{number}"].float()
            matrix = (matrix.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)
        matrices[int(number)] = matrix
    try:
        told = {int(layer): float(value) for layer, value in json.loads(facts.get("agreement", "{}")).items()}
        notes = tuple(str(note) for note in json.loads(facts.get("notes", "[]")))
        prompts = int(facts.get("n_prompts", "0"))
        last = int(facts["target_layer"]) if "target_layer" in facts else None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _wrong(file, "what it says about itself can't be read") from error
    return _made(file, matrices, prompts, model or facts.get("model"), layers, last, told, notes, facts.get("base"))


def _fits(shape: tuple[int, ...], scale: tuple[str, tuple[int, ...], int] | None) -> bool:
    """Whether a tensor of scales is of groups of a matrix's rows."""
    if scale is None or scale[0] != "F16" or len(scale[1]) != 2 or scale[1][0] != shape[0]:
        return False
    return scale[1][1] > 0 and shape[1] % scale[1][1] == 0


def _from_pickle(file: Path, model: str | None, layers: int | None) -> JacobianLens:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise all kinds
        raise BadModelFile(
            f"{file.name} can't be read as tensors and plain values; fetch it again, from where published lenses are."
        ) from error
    sums = content.get("jacobian_sum") if isinstance(content, dict) else None
    matrices = content.get("J", sums) if isinstance(content, dict) else None
    if (
        not isinstance(matrices, dict)
        or not matrices
        or not all(isinstance(m, torch.Tensor) for m in matrices.values())
    ):
        raise BadModelFile(f"{file.name} holds no Jacobian lens, which has its matrices under 'J'; give another.")
    for layer, matrix in matrices.items():
        if not _is_plain(matrix):
            raise _wrong(file, f"the matrix of layer {checks.shown(layer)} is no plain one of floating-point numbers")
    facts = content.get("metadata")
    facts = facts if isinstance(facts, dict) else {}
    target = content.get("target_layer", facts.get("target_layer"))
    name = content.get("model_name", facts.get("model_name"))
    try:
        prompts = int(content.get("n_prompts", content.get("n_done", 0)))
        found = {int(layer): matrix.detach() for layer, matrix in matrices.items()}
        last = None if target is None else int(target)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(file, "what it says about itself can't be read") from error
    if len(found) < len(matrices):
        raise _wrong(file, "two of its matrices are of the same layer")
    if matrices is sums:
        if prompts < 1:
            raise _wrong(file, "it is a fit that has not begun")
        found = {layer: matrix.float() / prompts for layer, matrix in found.items()}
    return _made(
        file,
        found,
        prompts,
        model or (name if isinstance(name, str) else None),
        layers,
        last,
        {},
        (),
        facts.get("base"),
    )


def _is_plain(matrix: torch.Tensor) -> bool:
    """Whether a tensor holds floating-point numbers one by one, as many as its shape says: an expanded one holds fewer."""
    if matrix.is_nested or matrix.layout is not torch.strided or matrix.is_meta or not matrix.is_floating_point():
        return False
    return matrix.numel() * matrix.element_size() <= matrix.untyped_storage().nbytes()


def _made(
    file: Path,
    matrices: dict[int, torch.Tensor],
    prompts: int,
    model: str | None,
    layers: int | None,
    last: int | None,
    agreement: dict[int, float],
    notes: tuple[str, ...],
    base: object,
) -> JacobianLens:
    """A lens of what a file held, by the layer a state leaves. last: the layer its matrices lead to, where the file says."""
    shapes = {tuple(matrix.shape) for matrix in matrices.values()}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 2 or shape[0] != shape[1] or not math.prod(shape):
        raise _wrong(file, f"its matrices are of the shapes {sorted(shapes)}, and should be square and alike")
    highest = max(matrices)
    count = layers if layers is not None else (highest + 1 if last is None else last) + 1
    if not 0 <= min(matrices) <= highest < count - 1:
        raise _wrong(file, f"it has a matrix for the output of layer {highest}, of a model with {count} layers")
    if last is not None and last != count - 1:
        raise _wrong(file, f"its matrices lead to the output of layer {last}, and not of the last, {count - 1}")
    for layer, matrix in matrices.items():
        if not bool(matrix.isfinite().all()):
            raise _wrong(file, f"the matrix of layer {layer} holds numbers that are none")
    found = {layer + 1: matrix.float().contiguous() for layer, matrix in sorted(matrices.items())}
    told = Base.from_text(base if isinstance(base, str) else None)
    if told is None:
        notes = (*notes, UNKNOWN)
    return JacobianLens(found, max(0, prompts), model, count, agreement, notes, told)


def _wrong(file: Path, what: str) -> BadModelFile:
    return BadModelFile(f"{file.name} is no whole Jacobian lens: {what}; fetch it again, or give another.")
