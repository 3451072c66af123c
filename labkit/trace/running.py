"""The one place that runs a model on token ids.

Every room hands its ids to `forward` or `generate`, with `groups` before where there are several texts. So what holds for
a run is written down once: ids are checked against the embedding, padding never leaves it, dropout and gradient
checkpointing are off for the length of the run and as they were afterwards, what was compiled runs uncompiled (compiled
code does not see hooks that came later), and a model that answers otherwise in a list than alone is run text by text.

No table says which families those are: the first time a model is given a list it is tried, with a few tokens. So is
whether it generates from what it kept as it reads: where it does not, it generates without a cache, or is refused.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import CacheLayerMixin

from labkit.errors import BadInput, Unavailable
from labkit.models.config import context_length, first_number, input_device
from labkit.trace.past import Past, Plan, cache_of, in_common, pasts_of, plan
from labkit.trace.probing import COARSEST, TOLERANCE, evaluating, modules_of

if TYPE_CHECKING:
    from transformers import Cache, DynamicCache, PreTrainedModel
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    Generated = torch.Tensor | GenerateDecoderOnlyOutput

TOKENS_A_PASS = {"cpu": 512}  # a CPU gains nothing from more
TOKENS_A_PASS_ELSEWHERE = 4096
LONG, SHORT = 9, 3  # tokens of the texts a model is tried with
STEPS = 3  # that are generated: the first is of the text's own pass, the others read what was kept
WIDEST = 1024  # the longest sliding window that a model is tried past

Ids = Sequence[int] | torch.Tensor
Logits = Literal["all", "last", "none"]


# the model behind its wrappers ----------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped; a module that isn't wrapped itself."""
    while isinstance(inner := vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):
        model = inner
    return model


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model, without torch.compile's wrapper and without peft's."""
    inner = unwrapped(model)
    base = getattr(inner, "get_base_model", None)
    return cast("PreTrainedModel", unwrapped(base()) if callable(base) else inner)


def virtual_tokens(model: PreTrainedModel) -> int:
    """How many trained vectors a peft adapter puts before a text (prompt tuning, p-tuning, prefix tuning); 0 for none."""
    if getattr(model, "_adapters_disabled", False) is True or not hasattr(model, "peft_config"):
        return 0
    adapter = getattr(model, "active_peft_config", None)
    if not getattr(adapter, "is_prompt_learning", False):
        return 0
    return first_number(adapter, "num_virtual_tokens") or 0


# ids ------------------------------------------------------------------------------------------------------------------


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens the embedding has a row for; a tokenizer may have more, or fewer."""
    embedding = model.get_input_embeddings()
    if rows := first_number(embedding, "num_embeddings"):
        return rows
    weight = embedding.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def checked_ids(model: PreTrainedModel, ids: Ids) -> list[int]:
    """One text's token ids as a list, from a list, an array or a tensor.

    Raises BadInput where they are none, no whole numbers, longer than the model's context, or beyond its embedding.
    """
    if len(ids) == 0:
        raise BadInput("There is nothing to run: the text is empty; give at least one token.")
    try:
        given = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        given = torch.empty(0)
    if given.dim() == 2 and given.shape[0] == 1:
        given = given[0]
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype is torch.bool)
    if given.dim() != 1 or not given.numel() or not whole:
        raise BadInput("Token ids are to be one row of whole numbers; give a list of them.")
    row: list[int] = given.tolist()
    rows = embedding_rows(model)
    if (bad := next((i for i in (min(row), max(row)) if not 0 <= i < rows), None)) is not None:
        raise BadInput(f"There is no token {bad}: this model has tokens 0 to {rows - 1}.")
    most = room(model)
    if most is not None and len(row) > most:
        raise BadInput(f"The text has {len(row):,} tokens and the model's context holds {most:,}; shorten it.")
    return row


def room(model: PreTrainedModel) -> int | None:
    """How many tokens a text may have; None where there is no such limit.

    That is the model's context without virtual tokens, and without the positions up to the padding token's where those of a
    text begin beyond it, as RoBERTa's do.
    """
    context = context_length(model.config)
    if context is None:
        return None
    if model not in _BEYOND:
        tokens = model.get_input_embeddings()
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
        pads = [m.padding_idx for m in tables if m.num_embeddings == context and m.padding_idx is not None]
        _BEYOND[model] = max(pads, default=-1) + 1
    return context - virtual_tokens(model) - _BEYOND[model]


_BEYOND: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # positions that no text has


class Batch(NamedTuple):
    """Texts as the model is given them: ids and mask (texts, width), the mask None where nothing is padded."""

    ids: torch.Tensor
    mask: torch.Tensor | None
    lengths: list[int]
    padding: list[int]  # tokens of padding before each text


def batch_of(model: PreTrainedModel, rows: Sequence[Ids], *, left: bool = False) -> Batch:
    """Check texts and pad them to one width with any token that the embedding has: it is masked."""
    if not len(rows):
        raise BadInput("There is nothing to run: the list is empty; give at least one text.")
    texts = [checked_ids(model, row) for row in rows]
    lengths = [len(text) for text in texts]
    width = max(lengths)
    pad = padding_id(model)
    before = [width - n if left else 0 for n in lengths]
    ids = [[pad] * b + text + [pad] * (width - n - b) for text, n, b in zip(texts, lengths, before, strict=True)]
    device = input_device(model)
    mask = None
    if min(lengths) < width:
        real = [[0] * b + [1] * n + [0] * (width - n - b) for n, b in zip(lengths, before, strict=True)]
        mask = torch.tensor(real, device=device)
    return Batch(torch.tensor(ids, device=device), mask, lengths, before)


def padding_id(model: PreTrainedModel) -> int:
    """A token to pad with: the configuration's own where the embedding has it, else the first."""
    own = getattr(model.config.get_text_config(), "pad_token_id", None)
    return own if isinstance(own, int) and 0 <= own < embedding_rows(model) else 0


# how a model is prepared for a run ------------------------------------------------------------------------------------


@contextlib.contextmanager
def prepared(model: PreTrainedModel, *, compiled: bool = False) -> Iterator[None]:
    """As a model is while it is run: no dropout, no gradient checkpointing, nothing compiled unless `compiled`.

    Afterwards every module has the mode and the checkpointing that it had. Raises Unavailable for a model whose weights
    are not in memory.
    """
    embedding = model.get_input_embeddings()
    away = any(weight.is_meta for weight in embedding.parameters())
    if away and not any(hasattr(part, "_hf_hook") for part in (embedding, model)):  # accelerate's
        raise Unavailable(
            "This model is on torch's meta device, which holds no numbers; load its weights with lk.load or from_pretrained."
        )
    checkpointing = [m for m in modules_of(model) if vars(m).get("gradient_checkpointing") is True]
    for module in modules_of(model):
        if vars(module).get("rope_type") == "dynamic":
            _forget_longest(module)
    with (
        evaluating(model),
        _all_tokens_in_all_layers(model),
        contextlib.nullcontext() if compiled else uncompiled(model),
    ):
        for module in checkpointing:
            vars(module)["gradient_checkpointing"] = False
        try:
            yield
        finally:
            for module in checkpointing:
                vars(module)["gradient_checkpointing"] = True


def _forget_longest(rotary: nn.Module) -> None:
    """Back to the frequencies of a short text: transformers' dynamic NTK keeps those of the longest one that it has read."""
    first, limit = getattr(rotary, "original_inv_freq", None), getattr(rotary, "original_max_seq_len", None)
    now = getattr(rotary, "inv_freq", None)
    if isinstance(first, torch.Tensor) and isinstance(now, torch.Tensor) and limit is not None:
        rotary.register_buffer("inv_freq", first.to(now.device), persistent=False)
        vars(rotary)["max_seq_len_cached"] = limit


@contextlib.contextmanager
def _all_tokens_in_all_layers(model: PreTrainedModel) -> Iterator[None]:
    """Gemma 4's last layers take keys and values from those before, and transformers gives them no other tokens than
    those whose logits are asked for. While inside they get all, since a Trace or an edit means a layer's every token."""
    slicing = [m for m in modules_of(model) if hasattr(type(m), _SLICING) and _SLICING not in vars(m)]
    for module in slicing:
        vars(module)[_SLICING] = functools.partial(_unsliced, getattr(module, _SLICING))
    try:
        yield
    finally:
        for module in slicing:
            del vars(module)[_SLICING]


_SLICING = "_maybe_slice_kv_shared_inputs"


def _unsliced(slicing: Callable[..., object], *args: object, **keywords: object) -> object:
    """Call it as for logits picked by a list of places: then it hands back what it was given."""
    given = inspect.signature(slicing).bind(*args, **keywords)
    given.arguments["logits_to_keep"] = torch.zeros(1, dtype=torch.long)
    return slicing(*given.args, **given.kwargs)


class _Uncompiled:
    """Counts who needs torch to run nothing compiled: its stance is one for the whole process."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0
        self.stance: contextlib.AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        with self.lock:
            if self.count == 0:
                self.stance = torch.compiler.set_stance("force_eager")
            self.count += 1

    def __exit__(self, *_details: object) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0 and self.stance is not None:
                self.stance.__exit__(None, None, None)
                self.stance = None


_UNCOMPILED = _Uncompiled()


def uncompiled(model: PreTrainedModel, *, decoding: bool = False) -> contextlib.AbstractContextManager[None]:
    """While inside, what torch.compile made of a model or its parts is passed by: it would not see hooks put on later.

    decoding: also what transformers compiles by itself on CUDA while it decodes.
    """
    needed = is_compiled(model) or (decoding and model.device.type == "cuda")
    return _UNCOMPILED if needed else contextlib.nullcontext()


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has been at a model or any part of it: its call, its forward, or a wrapper around it."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(
        getattr(part, "_compiled_call_impl", None) is not None
        or "_orig_mod" in vars(part).get("_modules", {})
        or hasattr(part.forward, "_torchdynamo_orig_callable")
        for part in modules_of(model)
    )


# one pass -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """What a pass gave. Text i is row i, and its tokens are the columns 0 to lengths[i] − 1; padding follows.

    ids: (texts, width), and mask, (texts, width), None where nothing is padded: as the model was given them.
    logits: (texts, width, vocabulary) for "all"; (texts, vocabulary), after each text's last token, for "last"; or None.
    hidden: (texts, width, d_model) of a pass `upto` a module.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    lengths: list[int]
    logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None

    @property
    def all_logits(self) -> torch.Tensor:
        """The logits, of a pass that was asked for them."""
        assert self.logits is not None
        return self.logits

    @property
    def reached(self) -> torch.Tensor:
        """What entered or left the module that the pass was to go up to."""
        assert self.hidden is not None
        return self.hidden


class _Enough(Exception):
    """What was wanted has been seen; the layers after need not run."""


def forward(
    model: PreTrainedModel,
    rows: Sequence[Ids],
    *,
    logits: Logits = "all",
    upto: nn.Module | None = None,
    leaving: bool = False,
    after: int = 0,
    attentions: bool = False,
    grad: bool = False,
) -> Output:
    """One pass over one or several texts' ids, each of which answers as it does alone.

    logits: of all tokens, of each text's last one, or none: the whole vocabulary for each token is the largest thing there
        is, and a model that can spare it does.
    upto: a module at which the pass ends; `hidden` is what enters it, or with `leaving` what leaves it.
    after: so many uses of that module, in a model that uses one as several layers.
    attentions: ask the model for its attentions, which it then computes eagerly.  grad: keep what autograd needs.
    Rows for virtual tokens (prompt tuning) that stand before a text's own are left out of logits and hidden.
    Raises BadInput for ids that can't be run, Unavailable for several texts where only one at a time is right: `groups`
    says which may share a pass. Edits and hooks hold; the caller has the lab's turn.
    """
    with torch.inference_mode(False), prepared(model):  # what autograd sees can't be made in inference mode
        batch = batch_of(model, rows)
        if len(rows) > 1 and not trying():
            lists = answers_in_lists(model)
            if not lists.padded and not (lists.even and batch.mask is None):
                raise Unavailable(
                    f"{model.config.model_type} answers otherwise in such a list than alone; run its texts one at a time."
                )
        width = batch.ids.shape[1]
        ends = [n - width - 1 for n in batch.lengths]  # each text's last column, counted from the end
        inputs: dict[str, object] = {"input_ids": batch.ids, "use_cache": False}
        if batch.mask is not None:
            inputs["attention_mask"] = batch.mask
        if attentions:
            inputs["output_attentions"] = True
        kept: list[int] | None = None
        if (logits != "all" or upto is not None) and _takes(model, "logits_to_keep"):
            kept = sorted(set(ends)) if logits == "last" else [-1]
            inputs["logits_to_keep"] = 1 if kept == [-1] else torch.tensor(kept, device=batch.ids.device)
        with torch.enable_grad() if grad else torch.no_grad():
            if upto is not None:
                hidden = _entering(model, inputs, upto, leaving, after)[:, -width:]
                return Output(batch.ids, batch.mask, batch.lengths, hidden=hidden if grad else hidden.detach())
            scores: torch.Tensor = model(**inputs).logits
            found: torch.Tensor | None = None
            if logits == "all":
                found = scores if scores.shape[1] == width else scores[:, -width:]
            elif logits == "last":
                columns = ends if kept is None else [kept.index(end) for end in ends]
                found = torch.stack([scores[row, column] for row, column in enumerate(columns)])
        return Output(batch.ids, batch.mask, batch.lengths, logits=found)


def _entering(
    model: PreTrainedModel, inputs: dict[str, object], module: nn.Module, leaving: bool, uses: int
) -> torch.Tensor:
    """What enters a module, or leaves it, in a pass that goes no further; after so many other uses of it."""
    seen: list[torch.Tensor] = []

    def found(tensor: torch.Tensor) -> None:
        seen.append(tensor)
        if len(seen) > uses:
            raise _Enough

    def before(_module: nn.Module, args: tuple[torch.Tensor, ...], keywords: dict[str, torch.Tensor]) -> None:
        found(args[0] if args else keywords["hidden_states"])

    def after(_module: nn.Module, _args: object, output: torch.Tensor | Sequence[torch.Tensor]) -> None:
        found(output if isinstance(output, torch.Tensor) else output[0])

    handle = (
        module.register_forward_hook(after) if leaving else module.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        model(**inputs)
    except _Enough:
        pass
    finally:
        handle.remove()
    return seen[uses]


def _takes(model: PreTrainedModel, name: str) -> bool:
    """Whether a model's forward, or that of the model a wrapper hands its keywords on to, takes an argument."""
    parameters = inspect.signature(unwrapped(model).forward).parameters
    if name in parameters:
        return True
    passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    inner = language_model(model)
    return passes_on and inner is not model and name in inspect.signature(inner.forward).parameters


# several texts --------------------------------------------------------------------------------------------------------


def groups(
    model: PreTrainedModel, lengths: Sequence[int], *, tokens: int | None = None, in_order: bool = False
) -> list[list[int]]:
    """Which texts share a pass, as indices into their lengths: at most `tokens` in each with its padding, or one text.

    tokens: None for as many as the device gains from.  in_order: groups follow the order of the texts; otherwise texts of
    like length come together. Where a model answers otherwise in a list, each text is by itself.
    """
    budget = tokens_a_pass(model) if tokens is None else tokens
    order = list(range(len(lengths)))
    if not in_order:
        order.sort(key=lambda i: lengths[i])
    found = _grouped(order, lengths, budget, even=_by_length(model, lengths))
    if any(len(group) > 1 for group in found) and not (lists := answers_in_lists(model)).padded:
        found = _grouped(order, lengths, budget, even=True) if lists.even else [[i] for i in order]
    return [sorted(group) for group in found]


def generation_groups(model: PreTrainedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Which texts share a run of `generate`: all of them, those of one length, or each by itself."""
    order = list(range(len(lengths)))
    by_length = _by_length(model, lengths)
    if len(order) < 2 or ((lists := generates_in_lists(model)).padded and not by_length):
        return [order] if order else []
    if not lists.even:
        return [[i] for i in order]
    return [[i for i in order if lengths[i] == length] for length in dict.fromkeys(lengths)]


_BY_LENGTH: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # beyond so many tokens


@contextlib.contextmanager
def turned_by_length(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """While inside, texts of a model share a pass with those of their own length alone, where one is longer than `tokens`."""
    before = _BY_LENGTH.get(model)
    _BY_LENGTH[model] = tokens
    try:
        yield
    finally:
        if before is None:
            del _BY_LENGTH[model]
        else:
            _BY_LENGTH[model] = before


def _by_length(model: PreTrainedModel, lengths: Sequence[int]) -> bool:
    """Whether rotary frequencies follow from the longest text of a pass (dynamic NTK, LongRoPE) and some text is so long."""
    inner = language_model(model)
    limit = _BY_LENGTH.get(inner)
    if limit is None:
        config = inner.config.get_text_config()
        given = getattr(config, "rope_parameters", None)
        kinds = [given, *given.values()] if isinstance(given, Mapping) else []
        found = [
            kind for kind in kinds if isinstance(kind, Mapping) and kind.get("rope_type") in ("dynamic", "longrope")
        ]
        own = [kind.get("original_max_position_embeddings") or context_length(config) for kind in found]
        limit = min((each for each in own if isinstance(each, int)), default=None)
    return limit is not None and max(lengths, default=0) > limit


def copies(model: PreTrainedModel, tokens: int, runs: int, *, most: int | None = None) -> int:
    """How many copies of one text share a pass where it is run again and again, each time with another change.

    As many as make the fewest passes and leave the fewest rows of the last one unused.  tokens: the text's; most: in a pass.
    """
    size = max(1, tokens_a_pass(model) // tokens) if most is None else most
    if size == 1 or runs < 2 or not answers_in_lists(model).even:
        return 1
    return math.ceil(runs / math.ceil(runs / size))


def tokens_a_pass(model: PreTrainedModel) -> int:
    """How many tokens a pass has at most where there are many texts."""
    return TOKENS_A_PASS.get(input_device(model).type, TOKENS_A_PASS_ELSEWHERE)


def _grouped(order: Sequence[int], lengths: Sequence[int], budget: int, *, even: bool) -> list[list[int]]:
    found: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        fits = bool(found) and (len(found[-1]) + 1) * longest <= budget
        if fits and not (even and lengths[found[-1][0]] != lengths[i]):
            found[-1].append(i)
        else:
            found.append([i])
            longest = lengths[i]
    return found


class Lists(NamedTuple):
    """Whether a model's answers in a list are those it gives alone: padded (of any lengths), or even (of one length)."""

    padded: bool
    even: bool


def answers_in_lists(model: PreTrainedModel) -> Lists:
    """What lists may be passed through a model at once; found by trying it with a few tokens, once."""

    def attempt(rows: list[list[int]]) -> list[list[torch.Tensor]]:
        output = forward(model, rows)
        return [[output.all_logits[row, :n].float()] for row, n in enumerate(output.lengths)]

    return _tried(model, "forward", attempt)


def generates_in_lists(model: PreTrainedModel) -> Lists:
    """The same for generating, where texts are padded on the left and a cache or a state is carried on."""
    way = way_to_generate(model)

    def attempt(rows: list[list[int]]) -> list[list[torch.Tensor]]:
        _, logits = _attempt(model, rows, _greedy(2, cached=way.cached), beyond_pad=way.beyond_pad)
        return [[step[row] for step in logits] for row in range(len(rows))]

    return _tried(model, "generate", attempt)


def _greedy(steps: int, *, cached: bool = True, kind: str | None = None) -> GenerationConfig:
    # all in the config: settings beside it are deprecated, and transformers prints so in the reader's notebook
    return GenerationConfig(
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        use_cache=cached,
        cache_implementation=kind,
        output_logits=True,
        return_dict_in_generate=True,
    )


def _attempt(
    model: PreTrainedModel, rows: list[list[int]], config: GenerationConfig, *, beyond_pad: bool = False
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """The new tokens of each text, and each step's logits, (texts, vocabulary) float32."""
    batch = batch_of(model, rows, left=True)
    made = _generated(model, batch, config, beyond_pad=beyond_pad)
    assert not isinstance(made, torch.Tensor)
    return made.sequences[:, batch.ids.shape[1] :].tolist(), [logits.float() for logits in made.logits or ()]


class Way(NamedTuple):
    """How a model generates so that each step's logits are those of a plain pass over the same tokens.

    cached: it keeps keys and values of what it read.  beyond_pad: its positions are handed to it as RoBERTa counts them,
    from the number of the padding token on and without those of padding.  right: False where no way is.
    """

    cached: bool
    beyond_pad: bool
    right: bool = True


def way_to_generate(model: PreTrainedModel, ids: Sequence[int] = (), steps: int = 2, *, kind: str | None = None) -> Way:
    """The way in which a model generates `steps` tokens after a text as it reads; found by trying it, once.

    It is tried with a few tokens: past its sliding window the first time a run goes there, if that is no longer than
    `WIDEST`, and with a padding token inside where the text has one. A model that looks both ways, or whose layers share
    what they keep, is found to need the whole text at each step.  kind: of the cache, as transformers names it.
    Raises Unavailable where no way is right, since what it would write is not what a trace shows.
    """
    config = model.config.get_text_config()
    window = first_number(config, "sliding_window") or 0
    length = window + 1 if LONG <= window <= WIDEST and len(ids) + steps > window + 1 else LONG
    length = min(length, (room(model) or length + STEPS) - STEPS)
    pad = getattr(config, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and 0 <= pad < embedding_rows(model) else None
    padded = pad is not None and pad in ids
    if length < 1:
        return Way(True, False)

    def find() -> Way:
        (text,) = _texts(model, length)
        if padded:
            text[length // 2] = padding_id(model)
        exact = _is_exact(model)
        tolerance = TOLERANCE.get(model.dtype, COARSEST) if exact else COARSEST

        def right(way: Way) -> bool:
            greedy = _greedy(STEPS, cached=way.cached, kind=kind if way.cached else None)
            try:
                with uncompiled(model, decoding=True):
                    new, logits = _attempt(model, [text], greedy, beyond_pad=way.beyond_pad)
            except (MemoryError, torch.OutOfMemoryError):
                raise  # that says nothing of the way
            except Exception:  # whatever a modeling file raises that keeps nothing
                if not way.cached:
                    raise
                return False
            whole = text + new[0][:-1]
            plain = forward(model, [whole]).all_logits[0, -STEPS:]
            same = [_agree(ours[0], theirs.float(), tolerance) for ours, theirs in zip(logits, plain, strict=True)]
            if not all(same):  # in a model that looks both ways a later token changes what was said before
                ends = range(length, length + STEPS)
                plain = torch.cat([forward(model, [whole[:n]], logits="last").all_logits for n in ends])
                same = [_agree(ours[0], theirs.float(), tolerance) for ours, theirs in zip(logits, plain, strict=True)]
            # rounding may send a token to another expert and change a step; what is built otherwise changes all of them
            return all(same) if exact else any(same)

        counted = (False, True) if pad is not None and _takes(model, "position_ids") else (False,)
        ways = (Way(cached, beyond) for cached in (True, False) for beyond in counted)
        return next((way for way in ways if right(way)), Way(False, False, right=False))

    found = _once(model, ("way", length, padded, kind), Way, find)
    if not found.right:
        raise Unavailable(
            f"While {model.config.model_type} generates, its scores are not those of a pass over the same tokens, so that "
            "what it would write is not what a trace shows; use lab.next_logits, and append tokens to the ids yourself."
        )
    if kind is not None and not found.cached:
        raise Unavailable(
            f"With a {kind} cache the scores of {model.config.model_type} are not those of a pass over the same tokens; use "
            "speed='plain'."
        )
    return found


def _is_exact(model: PreTrainedModel) -> bool:
    """Whether a model rounds so finely that the same sum in another order is the same answer.

    Not in 16 bits, nor where a backend quantizes activations on the way.
    """
    if model.dtype not in (torch.float32, torch.float64) or getattr(model, "hf_quantizer", None) is not None:
        return False
    return all(type(weight.data) is torch.Tensor for weight in model.parameters())


def take_over_answers(model: PreTrainedModel, of: PreTrainedModel) -> None:
    """Take a model that was made of another to answer in lists as that does, so that it is not tried before it is whole."""
    _TRIED[model] = dict(_TRIED.get(of, {}))


def trying() -> bool:
    """Whether the pass under way is one by which a model is tried: edits stay out of it."""
    return getattr(_TRYING, "now", False)


_TRYING = threading.local()
_TRIED: weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], object]] = weakref.WeakKeyDictionary()
_Found = TypeVar("_Found")


def _once(model: PreTrainedModel, what: tuple[object, ...], found: type[_Found], find: Callable[[], _Found]) -> _Found:
    """What is found by trying a model: once, and again where its dtype, place, kernels or virtual tokens are others."""
    kernels = getattr(model.config, "_attn_implementation", None)
    key = (*what, model.dtype, input_device(model), kernels, virtual_tokens(model))
    known = _TRIED.setdefault(model, {})
    if key not in known:
        _TRYING.now = True
        try:
            with torch.inference_mode(False), prepared(model), torch.no_grad():
                known[key] = find()
        finally:
            _TRYING.now = False
    there = known[key]
    assert isinstance(there, found)
    return there


def _texts(model: PreTrainedModel, *lengths: int) -> list[list[int]]:
    """Texts to try a model with, each of other tokens."""
    rows = embedding_rows(model)
    return [[(7919 * (11 * number + i) + 3) % rows for i in range(n)] for number, n in enumerate(lengths)]


def _tried(model: PreTrainedModel, what: str, attempt: Callable[[list[list[int]]], list[list[torch.Tensor]]]) -> Lists:
    def find() -> Lists:
        long, other, short = _texts(model, LONG, LONG, SHORT)
        tolerance = TOLERANCE.get(model.dtype, COARSEST)
        answers: dict[int, list[torch.Tensor]] = {}

        def alone(text: list[int]) -> list[torch.Tensor]:
            if id(text) not in answers:
                answers[id(text)] = attempt([text])[0]
            return answers[id(text)]

        def same(one: list[int], two: list[int]) -> bool:
            try:
                together = attempt([one, two])
            except (MemoryError, torch.OutOfMemoryError):
                raise  # that says nothing of lists
            except Exception:  # whatever a modeling file raises where it takes no such list
                return False
            return all(
                _agree(ours, theirs, tolerance)
                for both, text in zip(together, (one, two), strict=True)
                for ours, theirs in zip(both, alone(text), strict=True)
            )

        padded = same(long, short)
        return Lists(padded, padded or same(long, other))

    return _once(model, (what,), Lists, find)


def _agree(one: torch.Tensor, two: torch.Tensor, tolerance: float) -> bool:
    """Whether two runs' logits are one but for rounding; NaN is NaN in both."""
    scale = float(two.nan_to_num(0.0, 0.0, 0.0).abs().max()) + 1e-30
    return torch.allclose(one, two, rtol=0.0, atol=tolerance * scale, equal_nan=True)


# generating -----------------------------------------------------------------------------------------------------------


def generate(
    model: PreTrainedModel,
    rows: Sequence[Ids],
    config: GenerationConfig,
    *,
    processors: Callable[[list[int]], LogitsProcessorList],
    criteria: StoppingCriteriaList,
    compiled: bool = False,
    sharing: Sharing | None = None,
) -> torch.Tensor:
    """transformers' own generate over texts that may share a run (`generates_in_lists`), padded on the left.

    config: all that shapes the text; the model's own defaults add nothing.  processors: made from how many tokens of
    padding stand before each text.  compiled: let a compiled model, and the decoding step transformers compiles, be so.
    sharing: what the run takes over from earlier ones and leaves to later ones.
    Returns the new ids, (texts, new tokens). The model's settings are afterwards what they were, whatever happens.
    Raises Unavailable for a model whose scores while it generates are not those of a pass (`way_to_generate`).
    """
    steps, kind = config.max_new_tokens or 1, config.cache_implementation
    ways = [way_to_generate(model, checked_ids(model, row), steps, kind=kind) for row in rows]
    config.use_cache = all(way.cached for way in ways)
    beyond_pad = any(way.beyond_pad for way in ways)
    with torch.inference_mode(False), prepared(model, compiled=compiled):
        batch = batch_of(model, rows, left=True)
        parts: dict[str, Any] = {"logits_processor": processors(batch.padding), "stopping_criteria": criteria}
        if sharing is not None:
            made = _shared(model, batch, config, sharing, beyond_pad=beyond_pad, **parts)
        else:
            made = _generated(model, batch, config, beyond_pad=beyond_pad, **parts)
    sequences = made if isinstance(made, torch.Tensor) else made.sequences
    return sequences[:, batch.ids.shape[1] :]


class _Keeper(LogitsProcessor):
    """Keeps the scores of a run's first step."""

    def __init__(self) -> None:
        self.found = torch.empty(0)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.found = self.found if len(self.found) else scores.float()
        return scores


def next_scores(model: PreTrainedModel, rows: Sequence[Ids], sharing: Sharing) -> torch.Tensor:
    """(texts, vocabulary) float32, where the model put them: the scores of the token after each text.

    They are the last logits of `forward`, by a run of `generate` that takes keys and values over and leaves them.
    rows: texts that may share a run (`generates_in_lists`).
    """
    keeper = _Keeper()
    generate(
        model,
        rows,
        GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=True),
        processors=lambda _padding: LogitsProcessorList([keeper]),
        criteria=StoppingCriteriaList(),
        sharing=sharing,
    )
    return keeper.found


# going on from what was kept ------------------------------------------------------------------------------------------


@dataclass
class Sharing:
    """What a run of `generate` takes over from earlier ones, and what it leaves to later ones.

    pasts: of each text, what was kept of its first tokens; None for nothing.
    before, seen: with `before` above 0, `seen` is handed the logits after the `before` tokens ahead of each text's last,
        (texts, before, vocabulary), once the first pass has run; these tokens are in it, whatever was kept.
    keep: whether the run's cache is to be had afterwards.
    Filled by the run: reused, how many tokens of each text were taken over; first, how many columns its first pass had;
    kept, each text's keys and values, or `why` there are none; cache, transformers' own object. The last token drawn is not
    among them: it was never run.
    """

    pasts: Sequence[Past | None] = ()
    before: int = 0
    seen: Callable[[torch.Tensor], None] | None = None
    keep: bool = False
    reused: list[int] = field(default_factory=list)
    first: int = 0
    kept: list[Past] = field(default_factory=list)
    why: str = ""
    cache: object = None


def _shared(
    model: PreTrainedModel,
    batch: Batch,
    config: GenerationConfig,
    sharing: Sharing,
    *,
    beyond_pad: bool,
    known: bool = False,
    **options: object,
) -> Generated:
    """A run that begins with what was kept, where the model goes on from it rightly (`goes_on`; known: don't ask)."""
    usable = bool(config.use_cache) and config.cache_implementation is None
    pasts = list(sharing.pasts) if usable and sharing.pasts else [None] * len(batch.lengths)
    found = plan(batch.lengths, pasts, least=sharing.before + 1)
    right = known or (found.columns > 0 and goes_on(model, beyond_pad=beyond_pad))
    cache = cache_of(model, pasts, found) if right else None
    found = found if cache is not None else Plan(0, [0] * len(batch.lengths))
    sharing.reused, sharing.first = found.reused, batch.ids.shape[1] - found.columns
    if cache is not None:
        options["past_key_values"] = cache
    if sharing.keep and usable:
        config.return_dict_in_generate = True
    with _first_logits(model, sharing, options):
        made = _generated(model, batch, config, beyond_pad=beyond_pad, **options)
    if sharing.keep:
        if usable and not isinstance(made, torch.Tensor):
            sharing.cache = made.past_key_values
            sharing.kept, sharing.why = pasts_of(made.past_key_values, batch.padding)
        else:
            kind = config.cache_implementation
            sharing.why = f"a {kind} cache is not kept" if kind else "this model generates without a cache"
    return made


@contextlib.contextmanager
def _first_logits(model: PreTrainedModel, sharing: Sharing, options: dict[str, object]) -> Iterator[None]:
    """Show the logits ahead of the last ones in the first pass of a run; afterwards the hook is gone."""
    count, seen = sharing.before, sharing.seen
    if not count or seen is None:
        yield
        return
    if _takes(model, "logits_to_keep"):
        options["logits_to_keep"] = count + 1
    told = False

    def look(_module: nn.Module, _args: object, output: object) -> None:
        nonlocal told
        logits = getattr(output, "logits", None)
        if not told and isinstance(logits, torch.Tensor):
            told = True
            seen(logits[:, -count - 1 : -1])

    handle = language_model(model).register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def goes_on(model: PreTrainedModel, *, beyond_pad: bool = False) -> bool:
    """Whether a model that is given the keys and values of a text's first tokens answers as in a pass over the whole.

    Found by trying it, once.
    """
    window = first_number(model.config.get_text_config(), "sliding_window") or 0
    most = [(room(model) or LONG + STEPS) - STEPS] + ([window - STEPS] if window > STEPS + 1 else [])
    length = min(LONG, *most)  # within a window, where one that is full can't be cut anyway
    if length < 2:  # nothing would be left to go on from
        return False

    def find() -> bool:
        (text,) = _texts(model, length)
        first = Sharing(keep=True)
        config = _greedy(STEPS)
        try:
            made = _shared(model, batch_of(model, [text], left=True), config, first, beyond_pad=beyond_pad)
            if not first.kept or isinstance(made, torch.Tensor):
                return False
            other = [*text, int(made.sequences[0, length]), *_texts(model, 1)[0]]
            seen: list[torch.Tensor] = []
            second = Sharing([first.kept[0].first(length)], before=1, seen=seen.append)
            batch = batch_of(model, [other], left=True)
            again = _shared(model, batch, _greedy(1), second, beyond_pad=beyond_pad, known=True)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # that says nothing of the model
        except Exception:  # whatever a modeling file raises that can't go on
            return False
        assert not isinstance(again, torch.Tensor)
        assert again.logits is not None
        ours = [seen[0][0, 0], again.logits[0][0]]
        plain = forward(model, [other]).all_logits[0, -2:]
        tolerance = TOLERANCE.get(model.dtype, COARSEST) if _is_exact(model) else COARSEST
        return second.reused == [length] and all(
            _agree(one.float(), two.float(), tolerance) for one, two in zip(ours, plain, strict=True)
        )

    return _once(model, ("goes on", beyond_pad), bool, find)


def generating() -> bool:
    """Whether the pass under way is a step of `generate`: tokens will follow those it is given."""
    return getattr(_GENERATING, "now", False)


_GENERATING = threading.local()


def _generated(
    model: PreTrainedModel, batch: Batch, config: GenerationConfig, *, beyond_pad: bool = False, **options: object
) -> Generated:
    """The ids, (texts, tokens) with those given; with return_dict_in_generate, these and what was computed on the way."""
    pad = config.pad_token_id = padding_id(model)  # follows a text that has ended, and is not read
    if beyond_pad:
        real = (batch.ids != pad).long()
        options["position_ids"] = real.cumsum(1) * real + pad
    mask = torch.ones_like(batch.ids) if batch.mask is None else batch.mask
    before, _GENERATING.now = generating(), True
    try:
        with _without_defaults(model), torch.no_grad():
            generate = cast("Callable[..., Generated]", model.generate)  # of the model, or handed on by a wrapper
            return generate(input_ids=batch.ids, attention_mask=mask, generation_config=config, **options)
    finally:
        _GENERATING.now = before


_SETTINGS = ("generation_config", "prepare_inputs_for_generation")  # what wrappers put on the models below them


@contextlib.contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """transformers fills a configuration from the model's own defaults (top-k, suppressed tokens, a cache, ...).

    What was not asked for should not shape the text, so the model has none while it runs. Wrappers such as peft's write
    their settings into the model below, so all that carry some get their own back.
    """
    before = [(m, {name: vars(m)[name] for name in _SETTINGS if name in vars(m)}) for m in model.modules()]
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, own in before:
            for name in _SETTINGS:
                if name in own:
                    vars(module)[name] = own[name]
                else:
                    vars(module).pop(name, None)


# reading on, and back -------------------------------------------------------------------------------------------------


class Reader:
    """Reads a text whose end changes, keeping keys and values of all that stays: what drafts are tested with.

    Every layer keeps all it has read, those with a sliding window too (the mask tells what is beyond it), so that any number
    of tokens at the end can be taken back. `reader` makes one once it is known to be right. The caller has the lab's turn.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._clear()

    def _clear(self) -> None:
        from transformers import DynamicCache

        self._cache: DynamicCache = DynamicCache()  # without a configuration no layer forgets
        self._ids: list[int] = []  # that the first layers have read
        self._whole = 0  # how many of them all layers have read

    def read(self, ids: Sequence[int], *, last: int = 1) -> torch.Tensor:
        """(last, vocabulary): the logits after each of a text's last tokens. What it shares with the text before is not run."""
        return self._pass(ids, last, None).all_logits[-last:]

    def read_upto(self, ids: Sequence[int], module: nn.Module) -> torch.Tensor:
        """(d_model,): what enters a layer at a text's last token. The layers from there on are not run, and read it later."""
        return self._pass(ids, 1, module).reached[-1]

    def _pass(self, ids: Sequence[int], last: int, upto: nn.Module | None) -> Output:
        text = list(ids)
        there = self._ids if upto is not None else self._ids[: self._whole]
        kept = min(in_common(there, text), len(text) - last)
        new = checked_ids(self.model, text)[kept:]
        before, _GENERATING.now = generating(), True
        try:
            self._take_back(kept)
            with torch.inference_mode(False), prepared(self.model), torch.no_grad():
                device = input_device(self.model)
                batch = torch.tensor([new], device=device)
                inputs: dict[str, object] = {
                    "input_ids": batch,
                    "attention_mask": torch.ones(1, len(text), dtype=torch.long, device=device),
                    "past_key_values": self._cache,
                    "use_cache": True,
                }
                if _takes(self.model, "logits_to_keep"):
                    inputs["logits_to_keep"] = last
                if upto is None:
                    logits: torch.Tensor = self.model(**inputs).logits
                    found = Output(batch, None, [len(new)], logits=logits[0, -last:])
                else:
                    found = Output(
                        batch, None, [len(new)], hidden=_entering(self.model, inputs, upto, False, 0)[0, -1:]
                    )
        except BaseException:  # some layers have read on, and others have not
            self._clear()
            raise
        finally:
            _GENERATING.now = before
        self._ids = text
        self._whole = len(text) if upto is None else self._whole
        return found

    def _take_back(self, length: int) -> None:
        """Forget all tokens from a length on."""
        for layer in self._cache.layers:
            if not isinstance(layer, CacheLayerMixin):  # what it keeps has no length
                continue
            keys, values = layer.keys, layer.values
            if keys is not None and values is not None and keys.dim() == 4 and keys.shape[-2] > length:
                layer.keys, layer.values = keys[..., :length, :], values[..., :length, :]
        self._ids = self._ids[:length]
        self._whole = min(self._whole, length)


def reader(model: PreTrainedModel, tokens: int) -> Reader:
    """A Reader of texts of up to so many tokens.

    A model is tried once: whether it answers as in a plain pass when it has read a text, taken tokens back and read on, past
    its sliding window too where the text may get there (windows up to `WIDEST`).
    Raises Unavailable where it does not: one that carries a state on can't take back what went into it.
    """
    name = model.config.model_type
    if virtual_tokens(model):
        raise Unavailable(
            f"This {name} can't take tokens back: trained vectors stand before its texts (prompt tuning); generate without "
            "speculation."
        )
    way = way_to_generate(model, steps=tokens)
    length = _past_window(model, tokens)

    def find() -> _Right:
        text, other = _texts(model, length + STEPS, length + STEPS)
        exact = _is_exact(model)
        tolerance = TOLERANCE.get(model.dtype, COARSEST) if exact else COARSEST
        try:
            tried = Reader(model)
            tried.read(text[:length])
            tried.read(text[: length - 1] + other[:STEPS], last=STEPS)  # to be taken back
            ours = tried.read(text, last=STEPS + 1).float()
        except (MemoryError, torch.OutOfMemoryError):
            raise  # that says nothing of the model
        except Exception:  # whatever a modeling file raises that takes no such cache
            return _Right(False)
        plain = forward(model, [text]).all_logits[0, -STEPS - 1 :].float()
        same = [_agree(one, two, tolerance) for one, two in zip(ours, plain, strict=True)]
        return _Right(all(same) if exact else any(same))  # of rounding, see `way_to_generate`

    cached = way.cached and not way.beyond_pad
    if not cached or length < STEPS or not _once(model, ("goes back", length), _Right, find).right:
        raise Unavailable(
            f"{name} keeps no keys and values from which tokens can be taken back, so that drafts can't be tested with it; "
            "generate without speculation."
        )
    return Reader(model)


class _Right(NamedTuple):
    right: bool


# token by token -------------------------------------------------------------------------------------------------------


class Stepper:
    """Reads one text token by token, with nothing else on the way: the loop around it does what else is to be done.

    size: how many tokens a cache of fixed size holds; None for one that grows.  compiled: the step through torch.compile, with
    CUDA graphs where there is CUDA; it is compiled when it is first taken, and then kept, as the cache is. `stepper` makes one
    once it is known to be right. Holds its model weakly. Read inside `run`; the caller has the lab's turn.
    """

    def __init__(self, model: PreTrainedModel, size: int | None = None, *, compiled: bool = False) -> None:
        self._whose, self.size = weakref.ref(model), size
        self._last = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
        self._step: Callable[..., torch.Tensor] = self._compiled() if compiled else _step
        self._compiles = compiled
        self._id = torch.zeros(1, 1, dtype=torch.long, device=input_device(model))
        self._cache: Cache | None = None

    def _compiled(self) -> Callable[..., torch.Tensor]:
        # a code of its own: torch keeps what it compiled with the code, a few for each, and drops it with the code
        own = types.FunctionType(_step.__code__.replace(co_name="step"), globals())
        return cast("Callable[..., torch.Tensor]", torch.compile(own, fullgraph=True, dynamic=False, **COMPILED))

    @contextlib.contextmanager
    def run(self, *, eagerly: bool = False) -> Iterator[Stepper]:
        """Prepare the model for all that is read inside. eagerly: without what was compiled, which sees no hooks put on later."""
        model = self._whose()
        assert model is not None
        before, _GENERATING.now = generating(), True
        taken, self._step = self._step, _step if eagerly else self._step
        try:
            with torch.inference_mode(False), prepared(model, compiled=not eagerly), torch.no_grad():
                yield self
        finally:
            self._step = taken
            _GENERATING.now = before

    def start(self, ids: Sequence[int]) -> torch.Tensor:
        """(vocabulary,): the logits of the token after a text. What was read before is forgotten."""
        from transformers import DynamicCache, StaticCache

        model = self._whose()
        assert model is not None
        config = model.config.get_text_config()
        if self.size is None:
            self._cache = DynamicCache(config=config)
        elif self._cache is None:
            self._cache = StaticCache(config=config, max_cache_len=self.size)
        else:
            self._cache.reset()
        return _step(model, torch.tensor([checked_ids(model, ids)], device=self._id.device), self._cache, self._last)

    def read(self, id_: int | torch.Tensor) -> torch.Tensor:
        """(vocabulary,): the logits of the token after one more; on CUDA overwritten by the next step."""
        self._id.fill_(id_)
        if self._compiles:
            torch.compiler.cudagraph_mark_step_begin()
        return self._step(self._whose(), self._id, self._cache, self._last)


COMPILED: dict[str, Any] = {
    "mode": "reduce-overhead"
}  # torch.compile's settings: fused kernels, replayed as a CUDA graph


def _step(model: PreTrainedModel, ids: torch.Tensor, cache: Cache, last: dict[str, int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True, **last).logits
    return logits[0, -1]


def stepper(model: PreTrainedModel, tokens: int, *, static: bool) -> Stepper:
    """A Stepper for texts of up to so many tokens. static: with a cache of fixed size and a compiled step, kept for later texts.

    A model is tried once: whether it answers as in a plain pass, past its sliding window too where the text may get there
    (windows up to `WIDEST`). Raises Unavailable where it does not, since what it would write is not what a trace shows.
    """
    name = model.config.model_type
    if static and getattr(language_model(model), "_can_compile_fullgraph", True) is False:
        raise Unavailable(f"speed='fast' needs a static cache here, which {name} does not have; use speed='plain'.")
    length = _past_window(model, tokens)

    def find() -> _Right:
        (text,) = _texts(model, length + STEPS)
        exact = _is_exact(model)
        tolerance = TOLERANCE.get(model.dtype, COARSEST) if exact else COARSEST
        try:
            with Stepper(model, length + STEPS if static else None).run() as tried:
                ours = [tried.start(text[:length]).clone(), *(tried.read(id_).clone() for id_ in text[length:])]
        except (MemoryError, torch.OutOfMemoryError):
            raise  # that says nothing of the model
        except Exception:  # whatever a modeling file raises that takes no such cache
            return _Right(False)
        plain = forward(model, [text]).all_logits[0, -STEPS - 1 :].float()
        same = [_agree(one.float(), two, tolerance) for one, two in zip(ours, plain, strict=True)]
        return _Right(all(same) if exact else any(same))  # of rounding, see `way_to_generate`

    if virtual_tokens(model) or length < STEPS or not _once(model, ("steps", length, static), _Right, find).right:
        raise Unavailable(
            f"Token by token the scores of {name} are not those of a pass over the same tokens; use speed='plain'."
        )
    if not static:
        return Stepper(model)
    size = min(max(SHORTEST_CACHE, 1 << (tokens - 1).bit_length()), room(model) or sys.maxsize)
    kept = _STEPPERS.setdefault(model, {})
    key = (size, model.dtype, input_device(model), getattr(model.config, "_attn_implementation", None))
    if key not in kept:
        kept[key] = Stepper(model, size, compiled=True)
    return kept[key]


def forget_steppers(model: PreTrainedModel) -> None:
    """Let go of what was compiled for a model, and of its caches."""
    _STEPPERS.pop(model, None)


SHORTEST_CACHE = 256  # tokens; longer ones double, so that few lengths are compiled
_STEPPERS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Stepper]] = weakref.WeakKeyDictionary()


def _past_window(model: PreTrainedModel, tokens: int) -> int:
    """How long a text is to be tried with where texts get so long: past a sliding window that is no longer than `WIDEST`."""
    window = first_number(model.config.get_text_config(), "sliding_window") or 0
    length = window + 1 if LONG <= window <= WIDEST and tokens > window + 1 else LONG
    return min(length, (room(model) or length + STEPS) - STEPS)


# many runs ------------------------------------------------------------------------------------------------------------


class Progress:
    """How far many runs have come. interrupted: an interrupt ended them, and what was done is kept."""

    def __init__(self, title: str, total: int, unit: str, show: bool) -> None:
        from tqdm.auto import tqdm

        self.interrupted = False
        self._bar = tqdm(total=total, desc=title, unit=unit, disable=not show)

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> bool:
        self._bar.close()
        self.interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        return self.interrupted
