"""The Lab: a model on the bench. A thin face over the rooms; what it does is done there."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from labkit.errors import BadInput, LabClosed
from labkit.models.config import context_length, input_device
from labkit.models.kinds import check_has_numbers
from labkit.models.reuse import Bench
from labkit.trace.input import as_ids, each_of, encode, is_many
from labkit.trace.turns import Turns, end_changes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from labkit.generation.batches import Throughput
    from labkit.generation.branching import Keeping
    from labkit.generation.caches import CacheSizes
    from labkit.generation.decode import Decoding, DecodingSettings, EngineName, OnToken, Speed
    from labkit.generation.loop import Engine
    from labkit.generation.prefix import Prefix
    from labkit.generation.record import Generation
    from labkit.generation.speculation import Draft
    from labkit.models.memory import Memory
    from labkit.trace.anatomy import Anatomy
    from labkit.trace.capture import Scalar
    from labkit.trace.edits import Edit
    from labkit.trace.input import Many, One
    from labkit.trace.lab_like import LabLike
    from labkit.trace.record import Trace


class Lab:
    """A causal language model and its tokenizer, ready to be run and looked into.

    Lab(model, tokenizer) wraps a model already in memory; `lk.load` brings one.
    model, tokenizer: the Hugging Face objects themselves, not copies.
    last_generation: the latest run (a list for a list of prompts), also when it was interrupted.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        licence: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        config = getattr(model, "config", None)
        if not hasattr(model, "generate") or config is None:
            raise BadInput(f"Lab needs a transformers causal language model, and {type(model).__name__} is none.")
        if not callable(tokenizer):
            raise BadInput(f"Lab needs the model's tokenizer, and {type(tokenizer).__name__} is none.")
        check_has_numbers(model)
        self._model: PreTrainedModel | None = cast("PreTrainedModel", model)
        self._tokenizer: PreTrainedTokenizerBase | None = tokenizer
        self._turns = Turns.of(self._model)
        self._anatomy: Anatomy | None = None
        self.name: str = name or config._name_or_path or type(model).__name__
        self.licence = licence
        self.notes = notes
        self._prefixes: list[Prefix] = []  # that are open
        self.last_generation: Any = None  # a Generation, or a list of them: the caller knows which
        _LABS.add(self)

    @property
    def model(self) -> PreTrainedModel:
        if self._model is None:
            raise LabClosed(f"This lab ({self.name}) was closed; load the model again with lk.load().")
        return self._model

    def _runnable(self) -> PreTrainedModel:
        """The model, once it is known that its weights have numbers."""
        model = self.model
        check_has_numbers(model)
        return model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            raise LabClosed(f"This lab ({self.name}) was closed; load the model again with lk.load().")
        return self._tokenizer

    @property
    def closed(self) -> bool:
        return self._model is None

    @property
    def config(self) -> PreTrainedConfig:
        """The text model's configuration."""
        return self.model.config.get_text_config()

    @property
    def family(self) -> str:
        """The architecture's name in transformers, such as "llama" or "qwen3_moe"."""
        return str(self.config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the inputs go; a model spread by device_map lies on several."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """The number of positions the model was built for; None where there is no such limit."""
        return context_length(self.config)

    def memory(self, tokens: int = 8192, batch: int = 1) -> Memory:
        """Bytes of the loaded weights, and of the KV cache for `batch` sequences of `tokens` tokens."""
        from labkit.models.memory import model_memory

        return model_memory(self.model, tokens=tokens, batch=batch)

    @overload
    def generate(
        self,
        prompt: One,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        show: bool = ...,
        on_token: OnToken | None = ...,
        stop_event: threading.Event | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Many,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        show: bool = ...,
        on_token: OnToken | None = ...,
        stop_event: threading.Event | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompt: object,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        show: bool = ...,
        on_token: OnToken | None = ...,
        stop_event: threading.Event | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> Generation | list[Generation]: ...
    def generate(
        self,
        prompt: object,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | None = None,
        template: Mapping[str, object] | None = None,
        alternatives: int = 20,
        speed: Speed = "plain",
        engine: EngineName = "transformers",
        speculation: Draft | LabLike | str | None = None,
        form: object = None,
        show: bool = False,
        on_token: OnToken | None = None,
        stop_event: threading.Event | None = None,
    ) -> Generation | list[Generation]:
        """Continue a prompt; returns a Generation, or a list of them for a list of prompts.

        prompt: a text, a list of messages ({"role", "content"}), token ids (a list, tensor or array, or what a tokenizer
            gives: taken as they are), a Generation (which is gone on with), or a list of any of these.
        temperature: 0 is greedy. top_k, top_p, min_p, repetition_penalty: filters, off when None.
        seed: makes a sampled run repeatable; without one a seed is drawn, and kept in generation.sampling.
        stop: strings that end the text (and are not part of it); special tokens among them are written by their names.
        chat: None uses the chat template where the model has one (a text that begins with the model's start token has
            been through it), True insists on it, False takes a text as it is.
        template: arguments for the chat template, such as {"enable_thinking": False, "tools": [...]}.
        alternatives: how many of the model's most probable tokens are kept at each position.
        speed: "fast" takes a loop of labkit's own for a single prompt: on CUDA over a static cache, with a step that is compiled
            once and kept; the numbers stay those of the model. Faster by other numbers: `lk.quantization.quantize(lab,
            "int4", backend="torch")` gives a lab with packed weights, and there is engine="llama.cpp".
        engine: "llama.cpp" runs the model's GGUF file (labkit[llamacpp]): the default model's and a .gguf file's own, in the
            file's precision; for others one is written once. `generation.engine` says what ran.
        speculation: tokens are drafted, and the model tests several in one pass: by a smaller Lab, by "prompt_lookup", or as
            an `lk.Draft` says. The text is the model's own all the same; generation.speculation tells what became of drafts.
        form: what the text is held to: a JSON schema (a dict), a pydantic model class, a regular expression (a text or
            re.compile(...), matched as by re.fullmatch), a list of choices, or a grammar (lk.Grammar). The run ends when the
            form is complete; a limit may end it before (generation.form_complete). generation.forbidden has how much of
            the model's probability the form took away at each step.
        show: streams the text into the notebook or terminal; an interrupt then ends the run and returns what there is.
        on_token: called with the Generation so far after each token. stop_event: set it to end after the current token.
        Raises BadInput for prompts and settings that can't be used. When an interrupt is raised (show=False), what was
        generated is kept in `last_generation`.
        """
        from labkit.generation import decode

        how = decode.settings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            alternatives=alternatives,
            speed=speed,
            engine=engine,
            speculation=speculation,
            form=form,
        )
        many = is_many(prompt)
        prompts = [encode(self.tokenizer, p, chat=chat, template=template) for p in each_of(prompt)]
        if many and show:
            raise BadInput("show=True follows a single prompt; generate the list without it, or one prompt at a time.")

        result: list[Generation] = []

        def keep(generations: list[Generation]) -> None:
            result[:] = generations
            self.last_generation = generations if many else generations[0]

        screen = None
        try:
            with self._turns.run():
                if show:
                    from labkit.views.live_text import LiveText

                    screen = LiveText()
                generations = decode.decode(
                    self._runnable(),
                    self.tokenizer,
                    prompts,
                    how,
                    name=self.name,
                    on_piece=screen.add if screen else None,
                    on_token=on_token,
                    stop_event=stop_event,
                    keep=keep,
                    engine=self._engine(how),
                    caches=self._caches(how),
                )
                keep(generations)
        except BaseException as error:
            # with show=True somebody is watching: what they saw is theirs, and an interrupt is how they end it
            kept = screen is not None and isinstance(error, KeyboardInterrupt) and bool(result)
            if screen is not None and not kept:
                screen.close()
            if not kept:
                raise
        if screen is not None:
            screen.finish(result[0])
        return list(result) if many else result[0]

    @overload
    def stream(
        self,
        prompt: One,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> Iterator[str]: ...
    @overload
    def stream(
        self,
        prompt: Many,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> Iterator[tuple[int, str]]: ...
    @overload
    def stream(
        self,
        prompt: object,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        **settings: Unpack[DecodingSettings],
    ) -> Iterator[str] | Iterator[tuple[int, str]]: ...
    def stream(
        self,
        prompt: object,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool | None = None,
        template: Mapping[str, object] | None = None,
        alternatives: int = 20,
        speed: Speed = "plain",
        engine: EngineName = "transformers",
        speculation: Draft | LabLike | str | None = None,
        form: object = None,
    ) -> Iterator[str] | Iterator[tuple[int, str]]:
        """Yield the text piece by piece as it is generated; the settings are those of `generate`.

        prompt: for a list of prompts, which are written side by side, each piece comes as (place in the list, piece).
        Leaving the loop half-way stops the run. The record is in `last_generation` afterwards.
        """
        from labkit.generation import decode

        how = decode.settings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            alternatives=alternatives,
            speed=speed,
            engine=engine,
            speculation=speculation,
            form=form,
        )
        many = is_many(prompt)
        prompts = [encode(self.tokenizer, one, chat=chat, template=template) for one in each_of(prompt)]
        for encoded in prompts:
            decode.check_prompt(self._runnable(), encoded)

        def run(
            on_piece: decode.OnPiece | None, on_row: decode.OnRow | None, stop: threading.Event, caller: int
        ) -> list[Generation]:
            def keep(generations: list[Generation]) -> None:
                self.last_generation = generations if many else generations[0]

            with self._turns.run(owner=caller):  # so that it sees the edits of the thread that reads the stream
                generations = decode.decode(
                    self._runnable(),
                    self.tokenizer,
                    prompts,
                    how,
                    name=self.name,
                    on_piece=on_piece,
                    on_row=on_row,
                    stop_event=stop,
                    keep=keep,
                    engine=self._engine(how),
                    caches=self._caches(how),
                )
                keep(generations)
            return generations

        if many:
            rows: Iterator[tuple[int, str]] = decode.stream(
                lambda put, stop, caller: run(None, lambda row, piece: put((row, piece)), stop, caller)
            )
            return rows
        pieces: Iterator[str] = decode.stream(lambda put, stop, caller: run(put, None, stop, caller))
        return pieces

    def throughput(
        self,
        prompt: object = "Once upon a time",
        *,
        batches: Sequence[int] | None = None,
        max_new_tokens: int = 32,
        rounds: int = 2,
        chat: bool | None = False,
    ) -> Throughput:
        """Measure how fast texts are written by how many are written at once: `labkit.generation.throughput` tells all."""
        from labkit.generation.batches import throughput

        return throughput(self, prompt, batches=batches, max_new_tokens=max_new_tokens, rounds=rounds, chat=chat)

    def _engine(self, how: Decoding) -> Engine | None:
        """What decodes in place of transformers' loop; None where nothing does."""
        if how.engine == "transformers":
            return None
        from labkit.generation import engines
        from labkit.quantization import write_gguf

        self._runnable()
        return engines.engine_of(self, write_gguf)

    def cache(self, tokens: Sequence[int] = (64, 256, 1024), *, batch: int = 1) -> CacheSizes:
        """What a KV cache takes at several lengths: measured on real ones, beside what `memory` computes; a row for each.

        Raises BadInput for lengths beyond the model's context, Unavailable for a model that generates without a cache.
        """
        from labkit.generation.caches import cache_sizes

        return cache_sizes(self, tokens, batch=batch)

    @contextlib.contextmanager
    def prefix(
        self, what: object, *, chat: bool | None = None, template: Mapping[str, object] | None = None
    ) -> Iterator[Prefix]:
        """Read what many prompts begin with once, for the length of a `with`: `with lab.prefix(document): ...`.

        what: a prompt, as for `generate`; its chat template counts, too. Inside, runs of this lab by transformers whose ids
        begin with the same tokens take over their keys and values, as far as they are the same: several prompts, lists,
        streams. What they give is what they give without; generation.reuse tells how many tokens were taken over.
        Raises Unavailable for a model whose keys and values can't be cut at a token, BadInput for what can't be run.
        """
        from labkit.generation.prefix import read

        if is_many(what):
            raise BadInput(
                "prefix takes one text that prompts begin with; nest several: with lab.prefix(a), lab.prefix(b)."
            )
        encoded = encode(self.tokenizer, what, chat=chat, template=template)
        with self._turns.run():
            self._runnable()
            prefix = read(self, encoded)
        self._prefixes.append(prefix)
        try:
            yield prefix
        finally:
            self._prefixes.remove(prefix)
            prefix.close()

    def _caches(self, how: Decoding) -> Keeping:
        """What a run begins with, and where it leaves its keys and values."""
        from labkit.generation.branching import Keeping

        return Keeping(self, how, tuple(self._prefixes))

    def support(self) -> dict[str, str | None]:
        """What can be observed: each instrument with None, or with the reason why not and the remedy."""
        return dict(self.anatomy.support)

    @property
    def anatomy(self) -> Anatomy:
        """Where things are in this model; found with one small forward pass, and again when parts were replaced since."""
        from labkit.trace.anatomy import dissect

        with self._turns.run():
            model, anatomy = self._runnable(), self._anatomy
            if anatomy is None or not anatomy.fits(model):
                anatomy = dissect(model)
            self._anatomy = anatomy if anatomy.sound else None  # what computes NaN now may be mended
            return anatomy

    @overload
    def trace(
        self,
        what: One,
        keep: str | Sequence[str] = ...,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        gradients: Scalar | None = ...,
    ) -> Trace: ...
    @overload
    def trace(
        self,
        what: Many,
        keep: str | Sequence[str] = ...,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        gradients: Scalar | None = ...,
    ) -> list[Trace]: ...
    @overload
    def trace(
        self,
        what: object,
        keep: str | Sequence[str] = ...,
        *,
        chat: bool | None = ...,
        template: Mapping[str, object] | None = ...,
        gradients: Scalar | None = ...,
    ) -> Trace | list[Trace]: ...
    def trace(
        self,
        what: object,
        keep: str | Sequence[str] = ("attention", "logits"),
        *,
        chat: bool | None = False,
        template: Mapping[str, object] | None = None,
        gradients: Scalar | None = None,
    ) -> Trace | list[Trace]:
        """Observe one forward pass; returns a Trace, or a list of them for a list of texts.

        what: a text, token ids (a list, tensor or array, or what a tokenizer gives), a list of messages (the chat
            template is applied), a Generation (prompt and text together), or a list of any of these.
        keep: what is captured, one name or several, such as "attention" (queries and keys; patterns come from them on
            demand), "logits", "residual", "head_output" or "mlp_neurons"; `lk.Trace` and docs/instruments.md list all.
        chat: wrap a text in the chat template, as generate does.  template: arguments for it.
        gradients: a function of the logits (T, vocabulary) of one text that gives a scalar; its derivatives by all that is
            kept are then in `trace.gradient(name, layer)`, and the scalar in `trace.scalar`. No parameter is touched.
        Raises BadInput for input that can't be used, Unavailable for what this model does not have.
        """
        from labkit.trace.capture import take
        from labkit.trace.record import checked_keep

        wanted = checked_keep(keep)
        many = is_many(what)
        texts = [
            as_ids(self.tokenizer, one, chat=chat, context=self.context, template=template) for one in each_of(what)
        ]
        with self._turns.run():
            traces = take(
                self._runnable(), self.tokenizer, self.anatomy, texts, wanted, name=self.name, gradients=gradients
            )
        return traces if many else traces[0]

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Keep the model to oneself for a `with`: for those who run `lab.model` themselves beside labkit's threads."""
        return self._turns.run()

    @contextlib.contextmanager
    def edit(self, *edits: Edit) -> Iterator[Lab]:
        """Change what the model computes for the length of a `with`: `with lab.edit(lk.ablate_head(5, 3)): ...`.

        Edits compose and nest, hold for trace, generate and stream, and are undone whatever happens inside. Other
        threads wait until the block is left, so don't wait inside it for a thread that uses this lab.
        Raises BadInput for a place that is not there, Unavailable for one this model does not have.
        """
        from labkit.trace.edits import edited

        for each in edits:
            if (check := getattr(each, "check", None)) is not None:
                check(self)
        with self._turns.change(lambda: edited(self.model, self.anatomy, edits)):
            yield self

    def next_logits(
        self, prompt: object, *, chat: bool | None = None, template: Mapping[str, object] | None = None
    ) -> torch.Tensor:
        """(vocabulary,) float32 on the CPU: the model's scores for the token after the prompt."""
        from labkit.generation import decode

        if is_many(prompt):
            raise BadInput("next_logits takes a single prompt; call it for each.")
        with self._turns.run():
            return decode.next_logits(self._runnable(), encode(self.tokenizer, prompt, chat=chat, template=template))

    def token_text(self, id_: int) -> str:
        """The text of one token id."""
        from labkit.models.tokens import token_strings

        return token_strings(self.tokenizer, [id_])[0]

    def close(self, *, _owner: int | None = None) -> None:
        """Let go of the model and free its memory. Records and views made before stay as they are."""
        # an edit that reset has just ended may still hold the model for the thread that left its block open
        with self._turns.run(_owner):
            on_cuda = self._model is not None and self.device.type == "cuda"
            if self._model is not None:
                from labkit.generation import engines, kept

                engines.close(self._model)
                kept.forget(self._model)
            for prefix in self._prefixes:
                prefix.close()
            self._model = self._tokenizer = self._anatomy = None
        _OPEN.forget(self)
        gc.collect()
        if on_cuda:
            import torch

            torch.cuda.empty_cache()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __repr__(self) -> str:
        from labkit.views.lab_card import as_text

        return f"Lab({self.name!r}, closed)" if self.closed else as_text(self._facts())

    def _repr_html_(self) -> str:
        from labkit.views.lab_card import as_html

        return as_html([("lab", repr(self))]) if self.closed else as_html(self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        from labkit.models.facts import lab_facts

        return lab_facts(self.model, name=self.name, licence=self.licence, notes=self.notes)


_OPEN: Bench[Lab] = Bench()
_LABS: weakref.WeakSet[Lab] = weakref.WeakSet()


def close_all() -> tuple[int, int]:
    """End every edit and adapter that is on, in whatever thread, and close every open lab; how many of each."""
    edits, owners = end_changes()
    labs = [lab for lab in list(_LABS) if not lab.closed]
    for lab in labs:
        lab.close(_owner=owners.get(lab._turns))
    return edits, len(labs)


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | Mapping[str, int | str | torch.device] | None = None,
    quantization: QuantizationConfigMixin | None = None,
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
    fresh: bool = False,
) -> Lab:
    """Put a model on the bench.

    name: nothing for the default model; a name from `labkit models`; a hub name ("Qwen/Qwen3-0.6B"; HF_ENDPOINT,
        HF_HUB_OFFLINE and HF_TOKEN are respected); a folder; a .gguf file.
    device: "auto" takes CUDA, MPS or CPU; what does not fit on the GPU alone is spread with device_map="auto".
    dtype: "auto" is float32 on a CPU and bfloat16 on a GPU.
    quantization: a transformers quantization configuration, passed on.
    tokenizer: a tokenizer or its folder, for models that come without one.
    allow_pickle, trust_remote_code: off, since both let a model's files run code.
    fresh: a second copy, even when the same model is on the bench already. Without it, running a load cell again gives
        the lab that is there, unless its model was changed since (trained, converted, moved, extended): then it is
        loaded anew.
    Raises ModelNotFound, BadModelFile, DownloadFailed, NotEnoughMemory, NotEnoughDisk, BadInput or Unavailable, each
    with its remedy.
    """
    from labkit.models import catalog, loading, resolve

    options = loading.Options(
        device=device,
        dtype=dtype,
        device_map=device_map,
        quantization=quantization,
        revision=revision,
        tokenizer=tokenizer,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        attn_implementation=attn_implementation,
        token=token,
    )
    asked = catalog.DEFAULT if name is None else name
    request = (resolve.identity(asked), options)
    with _OPEN.lock:
        if not fresh and (there := _OPEN.find(request)) is not None:
            return there
        loaded = loading.open_model(asked, options)
        lab = Lab(loaded.model, loaded.tokenizer, name=loaded.name, licence=loaded.licence, notes=loaded.notes)
        if not fresh:
            _OPEN.remember(lab, request)
    return lab
