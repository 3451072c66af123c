"""An adapter: what a tuning learnt, apart from the model it was learnt on. On, off, blended, merged, saved, loaded."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput, BadModelFile, LabError, Unavailable
from labkit.lora import adapter_files
from labkit.lora.low_rank import LowRank, dense_weight, own_dense_weight, sizes
from labkit.lora.settings import DTYPES
from labkit.quantization.bases import Base, base_of, hub_name
from labkit.quantization.weights import packed_shapes
from labkit.trace import running
from labkit.trace.adding import Change, Term, adding, own_parameters
from labkit.trace.building import has_peft_layers, is_quantized
from labkit.trace.lab_like import BuiltLab, check_lab
from labkit.trace.turns import Turns

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

__all__ = ["Adapter", "by_name", "load", "taken"]

Made = TypeVar("Made", bound="BuiltLab")
Tuned = TypeVar("Tuned")
PREFIX = "base_model.model."  # before every name in peft's files
_LOW_RANK = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.(?P<kind>weight|bias))?"
)
RANK_ERROR = 1e-4  # of a base's change by its initialization, what may be left beyond the adapter's rank


@dataclass(frozen=True, eq=False)
class Adapter(Generic[Made]):
    """What a tuning changes of a base model, apart from it. From `run.adapter`, `lk.lora.load`, or arithmetic.

    lab: the base, which is never changed but inside `with adapter.on():`.
    config: peft's LoraConfig.  tensors: by the names of peft's files.  name: for people.
    base: the fingerprint of the model it was trained on; None where that isn't known.
    notes: what is to be said of it, such as that its base can't be verified.
    """

    lab: Made
    config: LoraConfig
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    name: str = "adapter"
    base: Base | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fits(self)

    # what it holds ------------------------------------------------------------------------------------------------

    @cached_property
    def low_ranks(self) -> dict[str, LowRank]:
        """By the name of the module in the base, its update."""
        return _low_ranks(self.config, self.tensors)

    @cached_property
    def replaced(self) -> dict[str, torch.Tensor]:
        """By the name of the parameter in the base, its tuned value: of `modules_to_save`, and trained biases."""
        names = (name for name in self.tensors if not _LOW_RANK.fullmatch(name))
        return {_in_base(name): self.tensors[name] for name in names}

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(value.numel() for value in self.tensors.values())

    @property
    def method(self) -> str:
        """ "lora", "rslora" or "dora"."""
        return "dora" if self.config.use_dora else "rslora" if self.config.use_rslora else "lora"

    def __repr__(self) -> str:
        ranks = sorted({each.rank for each in self.low_ranks.values()})
        rank = f"rank {'-'.join(map(str, ranks[:: max(1, len(ranks) - 1)]))}" if ranks else "no low-rank update"
        targets = checks.listed(dict.fromkeys(name.rpartition(".")[2] for name in self.low_ranks))
        lines = (
            f"Adapter({self.name!r} of {self.lab.name}: {self.method}, {rank}, {len(self.low_ranks)} matrices "
            f"({targets}), {self.parameters:,} numbers)"
        )
        return "\n  ".join((lines, *self.notes))

    # on and off -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on(self, scale: float = 1.0) -> Iterator[Made]:
        """Have the base answer as tuned, for the length of a `with`: `with adapter.on(): lab.generate(...)`.

        scale: what its change of each weight is multiplied by: 0 is the base, 1 the tuned model, and less than 0 or more
            than 1 goes on beyond them. A change of scale costs next to nothing (of DoRA, the lengths of the rows anew).
        Adapters on at once add up: `with a.on(0.5), b.on(0.5)`. Generation, traces, edits and measures see them. No module is
        replaced and no weight written to: afterwards the base is what it was, bit for bit, whatever happens inside. Other
        threads wait until the block is left, as with `lab.edit`.
        Works on packed weights too, whose own products stay as they are.
        Raises BadInput for a scale that is no number, LabClosed for a closed lab.
        """
        scale = checks.number("scale", scale)
        model = self.lab.model
        with contextlib.suppress(LabError):  # a model without layers that labkit finds can be tuned all the same
            _ = self.lab.anatomy  # of the base: what is found of routers holds for its own weights
        with Turns.of(model).change(lambda: self._put_on(model, scale), steady=True):
            yield self.lab

    @contextlib.contextmanager
    def _put_on(self, model: PreTrainedModel, scale: float) -> Iterator[None]:
        inner = running.language_model(model)
        _check_fits(self)
        terms: dict[nn.Module, Term] = {}
        changes: dict[tuple[nn.Module, str], Change] = {}
        if scale:
            for name, low_rank in self.low_ranks.items():
                module = inner.get_submodule(name)
                terms[module] = low_rank.term(module, scale)
            for name, value in self.replaced.items():
                module_name, _, parameter = name.rpartition(".")
                changes[inner.get_submodule(module_name), parameter] = Change(value, scale)
        with running.uncompiled(model, decoding=True), adding(inner, terms, changes):  # compiled code sees no new hooks
            yield

    def for_lab(self, lab: Made) -> Adapter[Made]:
        """The same adapter on another lab of the same base, such as a quantized copy of it.

        Raises BadInput for a lab of another model.
        """
        check_lab(lab)
        notes = [note for note in self.notes if not note.startswith(_UNVERIFIED)]
        return replace(self, lab=lab, notes=(*notes, *_checked_base(lab, self.base, self.name)))

    def merge(self, *, scale: float = 1.0, dtype: str | None = None, progress: bool = True) -> Made:
        """A new lab with the adapter in its weights: nothing is added while it runs, and it shares no tensor with the base.

        scale: as of `on`.  dtype: of the copy, such as "float32"; None takes the base's.
        Each time the merge is tested, and what came out is printed (not with progress=False) and noted on the new lab: the
        logits are those of the base with the adapter on to 1e-5 of the largest one (in 16 bits: to a quarter of what the
        adapter changes), and differ from the base's. A merge that fails is raised, and nothing is returned.
        Tied embeddings of which the adapter changes one are taken apart.
        Raises Unavailable for a quantized base without a dtype, which makes a float copy of it, and where the test failed;
        BadInput for an adapter that changes nothing; NotEnoughMemory.
        """
        from labkit.lora.merging import merged_copy

        kind = None if dtype is None else DTYPES[checks.one_of("dtype", dtype, DTYPES)]
        return merged_copy(self, scale=checks.number("scale", scale), dtype=kind, progress=progress)

    # arithmetic -----------------------------------------------------------------------------------------------------

    def __add__(self, other: object) -> Adapter[Made]:
        """Both changes together, exactly: their ranks side by side."""
        return self._with(other, 1.0, "+") if isinstance(other, Adapter) else NotImplemented

    def __sub__(self, other: object) -> Adapter[Made]:
        return self._with(other, -1.0, "-") if isinstance(other, Adapter) else NotImplemented

    def __mul__(self, factor: object) -> Adapter[Made]:
        """With its change of each weight multiplied."""
        number = checks.as_number(factor)
        if number is None:
            return NotImplemented
        from labkit.lora.arithmetic import combined

        return combined([(number, self)], f"{number:g} * {self._in_a_product()}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Adapter[Made]:
        number = checks.as_number(divisor)
        if number is None:
            return NotImplemented
        if number == 0:
            raise BadInput(f"{self.name} can't be divided by 0; give another number.")
        divided: Adapter[Made] = self * (1 / number)
        return divided

    def __neg__(self) -> Adapter[Made]:
        return self * -1.0

    def _with(self, other: Adapter[Made], factor: float, sign: str) -> Adapter[Made]:
        from labkit.lora.arithmetic import combined

        second = other._in_a_product() if factor < 0 else other.name
        return combined([(1.0, self), (factor, other)], f"{self.name} {sign} {second}")

    def _in_a_product(self) -> str:
        return f"({self.name})" if " " in self.name else self.name

    # kept -----------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it as peft's own files, which `lk.lora.load(lab, folder)` and `PeftModel.from_pretrained` open.

        The base's fingerprint is in the metadata of the weights' file; no path of this machine is written. Files of an
        adapter that is there already are replaced. Returns the folder.
        """
        path = Path(folder).expanduser()
        base = (self.base or base_of(self.lab)).as_text()
        adapter_files.write(
            path,
            self.config,
            self.tensors,
            base=base,
            base_name=hub_name(self.lab),
            on_a_copy=ON_A_COPY in self.notes,
        )
        return path

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | Mapping[str, str] | None = None,
        scale: float = 1.0,
        dtype: str | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the merged model, for others to open: as a transformers folder, or where the path ends in .gguf as one file.

        format: of the matrices in a GGUF file, as `lk.quantization.write_gguf` takes it; None keeps them as they are.
        scale, dtype: of the merge, which is tested as `merge` says.  overwrite: replace what is there.
        What was written is read back and compared before it gets its name. Returns the path.
        Raises as `merge` and `write_gguf` do; BadInput where something is there already.
        """
        from labkit.lora.exporting import exported

        return exported(self, Path(path).expanduser(), format=format, scale=scale, dtype=dtype, overwrite=overwrite)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        merged: bool = False,
        private: bool | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Upload what `save` writes, or with merged=True what `export` writes, by huggingface_hub; returns the address.

        The repository is made where it isn't there. token: a user's own, else the one that `hf auth login` keeps.
        """
        from labkit.lora.exporting import pushed

        return pushed(self, repo_id, merged=merged, private=private, token=token)


# where adapters come from -----------------------------------------------------------------------------------------------


def taken(peft_model: PeftModel, lab: Made, name: str = "adapter", *, notes: tuple[str, ...] = ()) -> Adapter[Made]:
    """The adapter out of a peft model that was trained on a twin of a lab's model: copies of its tensors as they are now.

    Where the initialization changed the twin's weights (PiSSA, OLoRA), the change is part of the adapter: it has twice the
    rank and belongs to the lab's own weights. Weights of a twin that is quantized are not compared with the lab's.
    Raises BadInput for another kind of adapter, and where the twin's weights differ from the lab's in another way.
    """
    from peft import get_peft_model_state_dict

    active = peft_model.active_adapter
    config = cast("LoraConfig", copy.deepcopy(peft_model.peft_config[active]))
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise BadInput(
            f"labkit keeps LoRA, rsLoRA and DoRA adapters, and this is of the kind {kind}; keep it with peft."
        )
    found = get_peft_model_state_dict(peft_model, adapter_name=active, save_embedding_layers=False)
    tensors = {key: value.detach().to("cpu", copy=True) for key, value in found.items()}
    if adapter_files.changes_base(config):
        config, tensors = _from_changed_base(config, tensors, peft_model, lab)
    if is_quantized(running.language_model(peft_model)) and not is_quantized(lab.model):  # type: ignore[arg-type]
        notes = (*notes, ON_A_COPY)
    config.inference_mode, config.base_model_name_or_path = True, hub_name(lab)
    return Adapter(lab, config, tensors, name, base_of(lab), notes)


def load(
    lab: Made,
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    other_base: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Adapter[Made]:
    """An adapter in peft's format, for this lab.

    source: the folder that adapter.save() or peft wrote; or a hub name (owner/name), of which only adapter_config.json and
        adapter_model.safetensors are fetched; or one that comes with labkit: "labkit-capitals", "labkit-dates",
        "labkit-refusal".
    other_base: put it on a model that it wasn't trained on, as long as names and shapes fit.
    The base is told by the fingerprint that labkit writes. Of an adapter from elsewhere only names and shapes can be
    checked; a note says so.
    Raises ModelNotFound and DownloadFailed; BadModelFile for a pickle, damaged files, and other kinds of adapters; BadInput
    for an adapter of another model.
    """
    check_lab(lab)
    folder = adapter_files.where(source, revision=revision, token=token)
    files = adapter_files.read(folder)
    title = name or (os.fspath(source) if not Path(source).is_dir() else folder.resolve().name)
    base = Base.from_text(files.base)
    notes = _checked_base(lab, base, title, other_base, files.config.base_model_name_or_path)
    notes = (ON_A_COPY, *notes) if files.on_a_copy else notes
    adapter = Adapter(lab, files.config, _without_copies(files.tensors, lab), title, base, notes)
    return replace(adapter, notes=(*notes, *_gaps(adapter)))


def by_name(argument: str, given: Mapping[str, Tuned] | Sequence[Tuned], wanted: str) -> dict[str, Tuned]:
    """Adapters or labs by the names to tell them by: those of a mapping, else their own, numbered where one comes again."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Tuned] = {}
    for each in checks.series(argument, given, wanted):
        name = str(getattr(each, "name", each))
        found[name if name not in found else f"{name} ({len(found) + 1})"] = cast("Tuned", each)
    return found


def _without_copies(tensors: Mapping[str, torch.Tensor], lab: BuiltLab) -> dict[str, torch.Tensor]:
    """Without whole tensors that are the base's own: peft writes those of an embedding that it put an update beside."""
    own = own_parameters(running.language_model(lab.model))
    kept = {}
    for name, value in tensors.items():
        there = None if _LOW_RANK.fullmatch(name) else own.get(_in_base(name))
        if there is None or there.shape != value.shape or not torch.equal(there.detach().cpu(), value.to(there.dtype)):
            kept[name] = value
    return kept


UNKNOWN = "its base can't be verified: the file names no fingerprint, so only names and shapes were checked"
OTHER = "it is on another model than it was trained on"
MERGED = "merged: "  # begins a note of a lab that `merge` made
TWICE = "the model here has an adapter merged into it already"
ON_A_COPY = "it was trained beside a quantized copy of its base, whose weights are a little different"
QUANTIZED = "its base is verified by embedding and norms alone: the layers here are quantized"
_PACKED = "it was trained beside weights that are "
HALF = "its base can't be verified: float16 rounds weights in another way, so only names and shapes were checked"
_UNVERIFIED = (UNKNOWN, OTHER, QUANTIZED, _PACKED, TWICE, HALF)


def _checked_base(
    lab: BuiltLab, base: Base | None, name: str, other: bool = False, said: str | None = None
) -> tuple[str, ...]:
    """Notes on whether this is the model an adapter is of. Raises BadInput where it is another."""
    _refuse_wrapped(lab)
    if base is None and any(note.startswith(MERGED) for note in lab.notes):
        return (UNKNOWN, TWICE)
    if base is None:
        mine = hub_name(lab)
        told = f" (it says {said})" if said and mine != said and not Path(said).is_absolute() else ""
        return (UNKNOWN + told,)
    here = base_of(lab)
    if difference := base.differs(here):
        if not other:
            raise BadInput(
                f"{name} was trained on {base.name}, and {lab.name} {difference}; load that model, or give other_base=True to "
                "put it on this one all the same."
            )
        return (OTHER,)
    if here.ends is None or base.ends is None:
        return (*_other_packing(base, here), HALF)
    return (*_other_packing(base, here), *((QUANTIZED,) if here.layers is None and base.layers is not None else ()))


def _gaps(adapter: Adapter[Made]) -> tuple[str, ...]:
    """What is said of files that hold less than they promise: public tools have lost weights on the way without a word."""
    from peft.tuners.tuners_utils import check_target_module_exists

    found = []
    low_ranks = adapter.low_ranks.values()
    moves = (
        bool(each.b.any() and each.a.any()) or each.bias is not None or each.magnitude is not None for each in low_ranks
    )
    if not adapter.replaced and not any(moves):
        found.append("it changes nothing: all its updates are 0")
    config = adapter.config
    if config.target_modules and config.target_modules != "all-linear":
        model = running.language_model(adapter.lab.model)
        wanted = [name for name, module in model.named_modules() if sizes(module) is not None]
        with contextlib.suppress(re.error):
            wanted = [name for name in wanted if check_target_module_exists(config, name)]
            missing = [n for n in wanted if n not in adapter.low_ranks and f"{n}.weight" not in adapter.replaced]
            if missing:
                found.append(f"it has no update of {checks.some(missing)}, which its configuration names")
    return tuple(found)


def _other_packing(base: Base, here: Base) -> tuple[str, ...]:
    """What is said where the weights are stored otherwise than those that an adapter was trained beside."""
    there, now = base.stored_as, here.stored_as
    if there == now:
        return ()
    return (f"{_PACKED}{there}, and those here are {now}, which are a little different",)


# peft's tensors ---------------------------------------------------------------------------------------------------------


def _in_base(name: str) -> str:
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")  # peft's own layer stands around trained biases


def scaling_of(config: LoraConfig, module: str, rank: int) -> float:
    """alpha / rank, or alpha / √rank with rsLoRA, of one module."""
    from peft.utils.other import get_pattern_key

    pattern = config.alpha_pattern or {}
    alpha = pattern.get(get_pattern_key(list(pattern), module), config.lora_alpha)
    return float(alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)


def _low_ranks(config: LoraConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if match := _LOW_RANK.fullmatch(name):
            part = match["part"] + ("_bias" if match["kind"] == "bias" else "")
            parts.setdefault(_in_base(match["module"]), {})[part] = value
    found: dict[str, LowRank] = {}
    for module, own in parts.items():
        embedding = "lora_embedding_A" in own
        a = own.get("lora_embedding_A" if embedding else "lora_A")
        b = own.get("lora_embedding_B" if embedding else "lora_B")
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise BadModelFile(
                f"The adapter has no pair of matrices (rank, inputs) and (outputs, rank) for {module}; save it again."
            )
        magnitude, bias = own.get("lora_magnitude_vector"), own.get("lora_B_bias")
        if magnitude is not None and (embedding or bias is not None):
            raise BadModelFile(
                f"The adapter has DoRA on {module} with a bias or of an embedding, which labkit doesn't compute; use peft."
            )
        scaling = scaling_of(config, module, a.shape[0])
        found[module] = LowRank(a, b, scaling, bias, None if magnitude is None else magnitude.flatten(), embedding)
    return found


def _check_fits(adapter: Adapter[Made]) -> None:
    """Raise BadInput where a base has no such modules, or of other sizes; Unavailable where labkit can't reach them."""
    lab = adapter.lab
    _refuse_wrapped(lab)
    model = running.language_model(lab.model)
    modules = dict(model.named_modules())
    for name, low_rank in adapter.low_ranks.items():
        if name not in modules:
            raise _other_model(adapter, f"it has no {name}{checks.near(name, modules)}")
        wanted, there = (low_rank.a.shape[1], low_rank.b.shape[0]), sizes(modules[name])
        if there is None or low_rank.embedding != isinstance(modules[name], nn.Embedding):
            kind = type(modules[name]).__name__
            raise Unavailable(
                f"{adapter.name} changes {name}, a {kind}, and labkit adds to linear maps and embeddings."
            )
        if there != wanted:
            raise _other_model(adapter, f"its {name} is {there[0]} to {there[1]} wide, not {wanted[0]} to {wanted[1]}")
        if low_rank.magnitude is not None and low_rank.magnitude.shape != (there[1],):
            raise _other_model(adapter, f"its {name} has {there[1]} outputs, not {len(low_rank.magnitude)}")
    for name, value in adapter.replaced.items():
        module_name, _, parameter = name.rpartition(".")
        module = modules.get(module_name)
        if module is not None and parameter in packed_shapes(module):
            raise Unavailable(
                f"{adapter.name} has a whole {name} of its own, and that of {lab.name} is packed; use it on the model that was "
                "quantized."
            )
        own = None if module is None else module._parameters.get(parameter)
        if own is None:
            raise _other_model(adapter, f"it has no {name}{checks.near(name, dict(model.named_parameters()))}")
        if own.shape != value.shape and own.shape[1:] == value.shape[1:] and _is_vocabulary(model, module):
            raise _other_model(
                adapter,
                f"its {name} has {own.shape[0]} rows, not {value.shape[0]}, so the adapter was trained with other tokens "
                f"(model.resize_token_embeddings({value.shape[0]}) makes room for them)",
            )
        if own.shape != value.shape or not own.is_floating_point():
            raise _other_model(adapter, f"its {name} is {tuple(own.shape)}, not {tuple(value.shape)}")
    if not adapter.low_ranks and not adapter.replaced:
        raise BadModelFile(f"{adapter.name} holds no tensor of an adapter; save it again.")


def _is_vocabulary(model: PreTrainedModel, module: nn.Module | None) -> bool:
    return module is not None and module in (model.get_input_embeddings(), model.get_output_embeddings())


def _refuse_wrapped(lab: BuiltLab) -> None:
    if has_peft_layers(lab.model):
        raise Unavailable(
            f"{lab.name} has peft's own layers in it; give labkit the model without them: peft_model.unload(), or a fresh copy."
        )


def _other_model(adapter: Adapter[Made], difference: str) -> BadInput:
    return BadInput(
        f"{adapter.name} is an adapter of another model than {adapter.lab.name}: {difference}; load the model it was trained on."
    )


# bases that an initialization changed -----------------------------------------------------------------------------------


def _from_changed_base(
    config: LoraConfig, tensors: dict[str, torch.Tensor], peft_model: PeftModel, lab: BuiltLab
) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """The adapter for the lab's own weights: ΔW = scaling · B A + (changed − own), the second of the same rank as the first.

    The rank of what the initialization took away is known, so a random projection of it gives its exact factors (Halko,
    Martinsson & Tropp 2011, algorithm 4.1).
    """
    original, twin = running.language_model(lab.model), running.language_model(peft_model)  # type: ignore[arg-type]
    tensors = dict(tensors)
    generator = torch.Generator().manual_seed(0)
    if config.use_dora:
        raise BadInput(
            "DoRA with an initialization that changes the base is no LoRA of the base; train with one of both."
        )
    for module, low_rank in _low_ranks(config, tensors).items():
        layer = twin.get_submodule(module)
        own = own_dense_weight(original.get_submodule(module)).cpu().double()
        change = dense_weight(layer.get_base_layer()).cpu().double() - own  # type: ignore[operator]
        rank = low_rank.rank
        probe = torch.randn(change.shape[1], min(rank + 8, *change.shape), generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(change @ probe).Q
        u, s, vh = torch.linalg.svd(basis.T @ change, full_matrices=False)
        b, a = (basis @ u[:, :rank]) * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * vh[:rank]
        left = float((change - b @ a).norm() / own.norm())
        if left > RANK_ERROR:
            raise BadInput(
                f"The base of this adapter was changed at {module} by more than its rank holds (by {left:.1e} of its weights), "
                f"so it is no LoRA of {lab.name}; train with another initialization."
            )
        key = f"{PREFIX}{module}.lora_"
        dtype, scaling = low_rank.a.dtype, low_rank.scaling
        tensors[f"{key}A.weight"] = torch.cat([low_rank.a, a.to(dtype)])
        tensors[f"{key}B.weight"] = torch.cat([low_rank.b, (b / scaling).to(dtype)], 1)
    factor = math.sqrt(2) if config.use_rslora else 2
    config = copy.deepcopy(config)
    config.r *= 2
    config.lora_alpha *= factor  # type: ignore[assignment]  # the same scaling as before; a float with rsLoRA
    config.rank_pattern = {key: value * 2 for key, value in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {key: value * factor for key, value in (config.alpha_pattern or {}).items()}
    config.init_lora_weights = True
    return config, tensors
