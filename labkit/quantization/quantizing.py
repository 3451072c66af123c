"""From a lab to a smaller one: which matrices get which format, and the model that holds them packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.quantization import backends, formats
from labkit.quantization.calibration import Activations, check_memory, collecting, layer_by_layer, windows
from labkit.quantization.grids import Format, GroupSize, refuse_damaged
from labkit.quantization.held_out import note_seen
from labkit.quantization.inventory import Record, put_record
from labkit.quantization.layers import PackedWeight, put
from labkit.quantization.methods import METHODS, Choose, check_goes_with, lost, round_to_nearest
from labkit.quantization.weights import Matrix, matrices
from labkit.trace import running
from labkit.trace.building import check_room, is_quantized, refuse_adapters, refuse_odd_weights
from labkit.trace.copying import copied
from labkit.trace.lab_like import check_lab
from labkit.trace.overlaps import Seen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import BuiltLab

Made = TypeVar("Made", bound="BuiltLab")
Formats = str | Format | Mapping[str, str | Format | None]


def quantize(
    lab: Made,
    format: Formats = "int4",
    *,
    method: str = "rtn",
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    calibration: object = None,
    head: str | Format | None = None,
    modules: str | Iterable[str] | None = None,
    backend: str = "labkit",
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = True,
) -> Made:
    """A new Lab whose matrices are stored in few bits. It generates and is traced like any other; the original is untouched.

    lab: with unquantized weights on one device. Nothing is shared with it.
    format: a name of `formats.NAMES` or a Format for all matrices of the layers; or a table {matrix: format or None}, with
        names as `matrices(lab)` has them, or patterns for them ("q_proj", "model.layers.0.*"; the last that fits counts);
        what it does not name stays as it is.
    method: "rtn" rounds each weight to the nearest value of its grid. "gptq" chooses codes by what they do to the layers'
        outputs on calibration text (Frantar et al. 2022). "awq" scales the columns that large inputs meet before rounding
        (Lin et al. 2023). "hqq" moves the offsets of integer grids with symmetric=False, without text (Badri & Shaji 2023).
        With "gptq" and "awq", embedding and head are rounded to nearest all the same.
    group_size: how many weights of a row share a grid, "channel" or "tensor"; None takes the format's own, and for rows that
        it does not divide the largest that does. A size that is given is kept to: matrices whose rows it does not divide
        stay as they are, and the lab's notes say which.
    symmetric: of integer formats, around zero or from the smallest to the largest weight.
    calibration: texts, or texts by kind, for methods that need them; other texts than those the damage is measured on: the
        lab keeps hashes of them, and `damage` refuses text that overlaps. 8,192 tokens are used, drawn with `seed` where
        there are more.
    head: a format for the embedding and the output head, which stay as they are without it. Tied they stay tied.
    modules: which matrices, by name or pattern as above; None for all of the layers.
    backend: "labkit" packs with this room's own grids. "bitsandbytes" (format "nf4", "nf4_single" or "int8"), "torchao" ("int8")
        and "torch" ("int4" with group_size, "int8": CPU alone, bfloat16) have linear maps packed by that library and leave all
        else, fused experts above all, as it is, of which there is a warning. Those compute without unpacking to memory first.
    progress: a bar; or a function that is told how many matrices are done, and of how many. What it raises ends the work.
    Returns a lab of the same class: the model computes in the original's dtype, its weights unpacked while they are used.
        Routers, norms and biases stay as they are. `contents(lab)` tells each tensor's true type and bytes.
    Raises BadInput for settings that don't go together, and for damaged weights; Unavailable for a model that is quantized
        already, has an adapter or is spread over devices; NotEnoughMemory.
    """
    check_lab(lab)
    how = METHODS[checks.one_of("method", method, METHODS)]
    checks.one_of("backend", backend, ("labkit", *backends.NAMES))
    if format is None:
        checks.refuse("format", format, "the name of a format, a Format, or a table of them by matrix")
    if not callable(progress):
        checks.flag("progress", progress, wanted="True, False or a function of two numbers")
    seed = checks.seed(seed)
    if calibration is not None and not how.calibrated:
        checks.refuse("calibration", calibration, f"none with method={method!r}, which uses no text")
    if calibration is None and how.calibrated:
        raise BadInput(
            f"method={method!r} needs text to go by; give calibration=lk.quantization.texts(10, skip=30), or your own."
        )
    if is_quantized(lab.model):
        raise Unavailable(
            f"{lab.name} is quantized already; quantize the lab it was made of, or load it in 16 or 32 bits."
        )
    refuse_adapters(lab, "quantized")
    refuse_odd_weights(lab, "quantized")
    if backend != "labkit":
        own = {"method": None if method == "rtn" else method, "symmetric": symmetric, "head": head}
        for name, value in own.items():
            if value is not None:
                checks.refuse(name, value, f"none with backend={backend!r}, which has its own way")
        there = matrices(lab)
        return backends.through(
            lab,
            backend,
            format,
            group_size=group_size,
            names=None if modules is None else _named(there, modules, "modules"),
            copy=copied,
            progress=progress is True,
        )
    symmetric = False if symmetric is None and how.asymmetric else symmetric
    plan = planned(lab, format, group_size=group_size, symmetric=symmetric, head=head, modules=modules)
    if not plan.formats:
        raise BadInput(f"Nothing of {lab.name} would be quantized: {plan.why_nothing()}.")
    for each in plan.formats.values():
        check_goes_with(method, each)
    _check_memory(lab, plan)
    rows: list[list[int]] = []
    if how.calibrated:
        rows = windows(lab, calibration, seed=seed)
        check_memory(lab, rows, plan.matrices)
    with lab.turn(), torch.no_grad():
        made = _built(lab, plan, method, rows, progress)
    if how.calibrated:
        note_seen(made, Seen.of(lab, calibration), "was calibrated on")
    return made


@dataclass(frozen=True)
class Plan:
    """matrices: all there are, by name.  formats: what each gets.  kept: why a matrix that was asked for stays as it is."""

    matrices: Mapping[str, Matrix]
    formats: Mapping[str, Format]
    kept: Mapping[str, str] = field(default_factory=dict)

    def why_nothing(self) -> str:
        return next(iter(self.kept.values()), "no matrix was asked for") + "; give another group_size or other modules"


def planned(
    lab: BuiltLab,
    format: Formats,
    *,
    group_size: GroupSize | None = None,
    symmetric: bool | None = None,
    head: str | Format | None = None,
    modules: str | Iterable[str] | None = None,
) -> Plan:
    """Which matrix gets which format. Arguments as of `quantize`."""
    there = matrices(lab)
    asked: dict[str, str | Format | None] = {}
    if isinstance(format, Mapping):
        if modules is not None:
            checks.refuse("modules", modules, "none beside a table of formats, which names the matrices itself")
        for pattern, wanted in format.items():
            asked |= dict.fromkeys(_named(there, [pattern], "format"), wanted)
    else:
        layers = [name for name, each in there.items() if each.part == "layer"]
        asked = dict.fromkeys(layers if modules is None else _named(there, modules, "modules"), format)
    if head is not None:
        formats.of(head, argument="head")
        asked |= {name: head for name, each in there.items() if each.part != "layer"}
    tied = [name for name, each in there.items() if each.tied]
    if any(asked.get(name) is not None for name in tied):  # one tensor has one format
        asked |= dict.fromkeys(tied, next(asked[name] for name in tied if asked.get(name) is not None))
    chosen: dict[str, Format] = {}
    kept: dict[str, str] = {}
    for name, one in asked.items():
        if one is None:
            continue
        found = formats.fitted(one, there[name].shape, group_size, symmetric)
        if isinstance(found, Format):
            chosen[name] = found
        else:
            kept[name] = found
    return Plan(there, {name: chosen[name] for name in there if name in chosen}, kept)


def _named(there: Mapping[str, Matrix], patterns: object, argument: str) -> list[str]:
    """The matrices that patterns name. Raises BadInput for a pattern that fits none."""
    wanted = (
        [patterns] if isinstance(patterns, str) else checks.series(argument, patterns, "names of matrices, or patterns")
    )
    if not wanted:
        checks.refuse(argument, wanted, "at least one matrix; lk.quantization.matrices(lab) lists them")
    found: dict[str, None] = {}
    for pattern in wanted:
        fits = [
            name
            for name, each in there.items()
            if isinstance(pattern, str) and (fnmatchcase(name, pattern) or fnmatchcase(each.matrix, pattern))
        ]
        if not fits:
            names = dict.fromkeys([*(each.matrix for each in there.values()), *there])
            raise BadInput(
                f"{argument} names {checks.shown(pattern)}, and there is no such matrix{checks.near(pattern, names)}; "
                f"there are {checks.listed(dict.fromkeys(each.matrix for each in there.values()))}."
            )
        found |= dict.fromkeys(fits)
    return list(found)


def _check_memory(lab: BuiltLab, plan: Plan) -> None:
    """Room for the copy: what stays as it is, and about what the packed weights take."""
    parameters = {id(p): p.nbytes for p in lab.model.parameters()}
    for name, format in plan.formats.items():
        parameters[_weight_id(plan.matrices[name])] = plan.matrices[name].shape.numel() * (format.grid.bits + 1) // 8
    check_room(
        lab, sum(parameters.values()), f"{lab.name}, quantized", "close another lab, or quantize a smaller model"
    )


def _weight_id(matrix: Matrix) -> int:
    return id(matrix.module._parameters[matrix.parameter])


def _built(
    lab: Made, plan: Plan, method: str, rows: list[list[int]], progress: bool | Callable[[int, int], None]
) -> Made:
    """The new lab. rows: calibration text, for methods that need it."""
    from itertools import count

    from tqdm.auto import tqdm

    model = copied(lab.model, [plan.matrices[name] for name in plan.formats])
    running.take_over_answers(model, lab.model)
    remarks: dict[str, str] = {}
    packed: dict[int, PackedWeight] = {}  # by the original's tensor: what is tied is packed once
    how = METHODS[method]

    def pack(name: str, choose: Choose, inputs: Sequence[Activations] = ()) -> None:
        matrix = plan.matrices[name]
        key = _weight_id(matrix)
        if key not in packed:
            refuse_damaged(matrix.weight, name)
            chosen = choose(matrix.weight, plan.formats[name], inputs)
            dtype = matrix.weight.dtype
            packed[key] = PackedWeight(chosen.packed, dtype, matrix.transposed, chosen.scale)
            told = [each for each in (chosen.remark, lost(matrix.weight, chosen.packed)) if each]
            if told:
                remarks[name] = "; ".join(told)
        put(model.get_submodule(module_name(matrix)), matrix.parameter, packed[key])
        bar.update()
        if callable(progress):
            progress(next(done), len(plan.formats))

    done = count(1)
    with tqdm(total=len(plan.formats), desc="quantizing", unit="matrix", disable=progress is not True) as bar:
        for name in plan.formats:
            if not how.calibrated:
                pack(name, how.choose)
            elif plan.matrices[name].part != "layer":
                pack(name, round_to_nearest)
                remarks[name] = "rounded to nearest, as no matrix of a layer"
        if how.calibrated:
            _calibrate(lab, model, plan, rows, lambda name, inputs: pack(name, how.choose, inputs))
        for name in plan.formats:  # of layers and modules that a pass leaves out
            if _weight_id(plan.matrices[name]) not in packed:
                pack(name, round_to_nearest)
                remarks[name] = "rounded to nearest, as the model does not use it"
    return finished(lab, model, plan, method, remarks, rows)


def _calibrate(
    lab: BuiltLab,
    model: PreTrainedModel,
    plan: Plan,
    rows: list[list[int]],
    pack: Callable[[str, Sequence[Activations]], None],
) -> None:
    """Pack the matrices of the layers one layer after the other. pack: given a name and what enters that matrix."""
    names = {id(module): name for name, module in running.language_model(lab.model).named_modules()}
    layers = [model.get_submodule(names[id(layer.module)]) for layer in lab.anatomy.layers]
    wanted: dict[nn.Module, list[Matrix]] = {}
    for name in plan.formats:
        matrix = plan.matrices[name]
        if matrix.layer is not None:
            module = model.get_submodule(module_name(matrix))
            wanted.setdefault(layers[matrix.layer], []).append(replace(matrix, module=module))

    def run(layer: nn.Module, again: Callable[[], None]) -> None:
        here = wanted.get(layer, [])
        if not here:
            return
        for matrix in here:  # the original's own, until it is packed
            matrix.module._parameters[matrix.parameter] = plan.matrices[matrix.name].module._parameters[
                matrix.parameter
            ]
        with collecting(here) as collected:
            again()
            inputs = collected()
        for matrix in here:
            pack(matrix.name, inputs[matrix.name])

    layer_by_layer(model, rows, layers, run)


def module_name(matrix: Matrix) -> str:
    """The path of the module that holds a matrix."""
    return matrix.name if matrix.parameter == "weight" else matrix.name.removesuffix(f".{matrix.parameter}")


def finished(
    lab: Made, model: PreTrainedModel, plan: Plan, method: str, remarks: Mapping[str, str], rows: list[list[int]]
) -> Made:
    """The lab around a model whose matrices have been packed."""
    record = Record(method, {name: each.name for name, each in plan.formats.items()}, dict(plan.kept), dict(remarks))
    put_record(model, record)
    names = list(dict.fromkeys(each.name for each in plan.formats.values()))
    return type(lab)(
        model,
        lab.tokenizer,
        name=f"{lab.name}, {names[0] if len(names) == 1 else 'mixed formats'}",
        licence=lab.licence,
        notes=(*lab.notes, *_notes(plan, method, remarks, rows)),
    )


def _notes(plan: Plan, method: str, remarks: Mapping[str, str], rows: list[list[int]]) -> list[str]:
    """What was quantized to what, and what stayed as it was and why."""
    notes = []
    by_format: dict[str, list[str]] = {}
    for name, format in plan.formats.items():
        by_format.setdefault(format.described(), []).append(name)
    for kind, packed in by_format.items():
        notes.append(f"quantized to {kind}, by {METHODS[method].title}: {_told(plan, packed)}")
    if rows:
        notes.append(f"calibrated on {sum(map(len, rows)):,} tokens in rows of {len(rows[0])}")
    notes += [f"not quantized, since {reason}: {_told(plan, kept)}" for reason, kept in _grouped(plan.kept)]
    notes += [f"{reason}: {_told(plan, some)}" for reason, some in _grouped(remarks)]
    return notes


def _grouped(reasons: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Each reason with the matrices it is of."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return list(found.items())


def _told(plan: Plan, names: list[str]) -> str:
    """Matrices by their short names, with how many there are."""
    kinds = checks.listed(dict.fromkeys(plan.matrices[name].matrix for name in names))
    return f"{kinds} ({len(names)} matri{'x' if len(names) == 1 else 'ces'})"
