"""Every public way of running a model, in whatever state the model was left: the same figures, and the state kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dictionaries
import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, Family, Tokens, build

import labkit as lk
from labkit.trace import running
from labkit.trace.record import KEEP

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23]
OTHER = [5, 17, 34, 8, 91, 42, 17, 33, 64, 23]
SHORT = [3, 9, 27]
QUIET: dict[str, Any] = {"progress": False}
AGREE = 1e-4


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 3] - logits[-1, 4]


@cache
def sae(folder: Path) -> Any:
    return lk.sae.load(dictionaries.folder(folder / "sae", layer=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every-run")


def words(ids: Sequence[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


# (lab, an autoencoder, a text's ids) -> figures
Way = Callable[[Any, Any, list[int]], Any]


def _traced(lab: Any, _sae: Any, ids: list[int]) -> Any:
    keep = [name for name in KEEP if lab.support()[name] is None]
    trace = lab.trace(ids, keep=keep)
    found = [trace.logits, trace.loss[1:]]
    found += [trace.residual(i) for i in range(trace.layers + 1)]
    found += [trace.attention(0)] if "attention" in keep else []
    found += [trace.head_output(1)] if "head_output" in keep else []
    return [*found, trace.routes.weights] if "routes" in keep else found


def _derivatives(lab: Any, _sae: Any, ids: list[int]) -> Any:
    return lab.trace(ids, keep=("residual",), gradients=metric).gradient("residual", 1)


def _generated(lab: Any, _sae: Any, ids: list[int]) -> Any:
    made = lab.generate(words(ids), max_new_tokens=4)
    return [made.ids, made.logprobs, made.entropies]


def _sampled(lab: Any, _sae: Any, ids: list[int]) -> Any:
    return lab.generate(words(ids), max_new_tokens=6, temperature=1.0, seed=7).ids


def _speculated(lab: Any, _sae: Any, ids: list[int]) -> Any:
    drafts = ("prompt_lookup", lk.Draft(early_exit=1, tokens=2, confidence=0.0))
    made = [lab.generate(words(ids), max_new_tokens=5, speculation=draft) for draft in drafts]
    return [[one.ids, one.logprobs, one.entropies] for one in made]


def _generated_list(lab: Any, _sae: Any, ids: list[int]) -> Any:
    made = lab.generate([words(ids), words(SHORT)], max_new_tokens=4)
    return [[one.ids, one.logprobs] for one in made]


def _streamed(lab: Any, _sae: Any, ids: list[int]) -> Any:
    pieces = list(lab.stream(words(ids), max_new_tokens=4))
    return [int(piece[1:]) for piece in "".join(pieces).split()]


def _edited(lab: Any, _sae: Any, ids: list[int]) -> Any:
    with lab.edit(lk.patch("residual[1] @ 1:", lambda x: x * 0.5 + 0.3), lk.ablate_head(0, 1)):
        return [lab.trace(ids, keep="logits").logits, lab.generate(words(ids), max_new_tokens=3).logprobs]


def _patched(at: str) -> Way:
    return lambda lab, _sae, ids: lk.patching(lab, ids, [*ids[:2], 34, *ids[3:]], metric, at=at, **QUIET).table["value"]


def _steered(lab: Any, sae: Any, ids: list[int]) -> Any:
    with lab.edit(lk.steer(sae[3], 4.0), lk.clamp(sae[5], 2.0)):
        return lab.next_logits(words(ids))


WAYS: dict[str, Way] = {
    "trace": _traced,
    "derivatives": _derivatives,
    "trace a list": lambda lab, _sae, ids: [t.logits for t in lab.trace([ids, SHORT])],
    "generate": _generated,
    "generate, sampled": _sampled,
    "generate a list": _generated_list,
    "generate with drafts": _speculated,
    "stream": _streamed,
    "next_logits": lambda lab, _sae, ids: lab.next_logits(words(ids)),
    "edit": _edited,
    "patching residual": _patched("residual"),
    "patching head": _patched("head"),
    "logit_lens": lambda lab, _sae, ids: lk.logit_lens(lab, lab.trace(ids, keep=("residual", "logits"))).table["kl"],
    "heads": lambda lab, _sae, ids: _table(lk.attention.heads(lab, ids, length=10)).select_dtypes("number"),
    "ablation": lambda lab, _sae, ids: lk.attention.ablation(lab, ids)([(0, 1)]).loss_change[1:],
    "attention.effects": lambda lab, _sae, ids: _table(lk.attention.effects(lab, ids, **QUIET))["loss"],
    "sae.residual": lambda lab, _sae, ids: lk.sae.residual(lab, ids, 1),
    "sae.features": lambda lab, sae, ids: [f.values for f in lk.sae.features(lab, sae, [ids, SHORT])],
    "steer": _steered,
    "moe.collect": lambda lab, _sae, ids: _collected(lab, {"a": [ids, SHORT], "b": [OTHER]}),
    "moe.effects": lambda lab, _sae, ids: _table(
        lk.moe.effects(lab, {"a": [ids, SHORT]}, [(1, 0)], least_documents=1, least_tokens=1, **QUIET)
    )["loss_change"],
}
WAYS |= {
    "circuits.difference_of_means": lambda lab, _sae, ids: [
        found.vector
        for found in lk.circuits.difference_of_means(
            lab, [[*ids, i] for i in range(3, 8)], [[*ids[:4], i] for i in range(3, 8)], position=-2, shuffles=1
        )
    ],
    "circuits.steers": lambda lab, _sae, ids: _table(
        lk.circuits.steers(lab, torch.ones(lab.config.hidden_size), [ids, SHORT], metric, layer=1, random=2)
    )["change"],
    "circuits.edit_cost": lambda lab, _sae, ids: [
        lk.circuits.edit_cost(lab, lk.circuits.ablate_direction(torch.ones(lab.config.hidden_size)), [ids, SHORT]).kl
    ],
}
WAYS |= {
    "circuits.lens": lambda lab, _sae, ids: _table(_read(lab, ids).rows())["kl"],
    "circuits.fit_lens": lambda lab, _sae, ids: list(
        lk.circuits.fit_lens(lab, [[*ids, *ids, i] for i in range(3, 7)], **QUIET).jacobians.values()
    ),
    "circuits.swap": lambda lab, _sae, ids: _swapped(lab, ids),
    "circuits.attribution": lambda lab, _sae, ids: _table(
        lk.circuits.attribution(lab, ids, [*ids[:2], 34, *ids[3:]], metric, at="head", steps=2)
    )["effect"],
    "circuits.find": lambda lab, _sae, ids: _found(lab, ids, "eap-ig", "heads"),
    "circuits.find exact": lambda lab, _sae, ids: _found(lab, ids, "exact", "heads"),
    "circuits.find edges": lambda lab, _sae, ids: _found(lab, ids, "attribution", "edges"),
    "circuits.path_patching": lambda lab, _sae, ids: _table(
        lk.circuits.path_patching(
            lab, [(ids, [*ids[:2], 34, *ids[3:]])], metric, ["input", "head 0.1"], ["head 1.2", "output"], **QUIET
        )
    ).sort_values(["sender", "receiver", "via"])["effect"],
    "circuits.probe": lambda lab, _sae, ids: _table(
        lk.circuits.probe(
            lab,
            [[*row, i] for i in range(3, 8) for row in (ids, ids[:4])],
            [0, 1] * 5,
            layer=[1, 2],
            position=-2,
        )
    ).select_dtypes("number"),
    "circuits.ablate_direction": lambda lab, _sae, ids: _without_a_direction(lab, ids),
    "circuits.das": lambda lab, _sae, ids: _table(
        lk.circuits.das(
            lab,
            [([*ids, i], [i, *ids]) for i in range(3, 23)],
            [i % 2 for i in range(20)],
            1,
            position=-2,
            directions=32,
            steps=1,
            shuffles=0,
            untrained=0,
            **QUIET,
        )
    )["accuracy"],
    "circuits.compare": lambda lab, _sae, ids: _table(
        lk.compare(lab, lab.edit(lk.ablate_head(0, 1)), "entropy", [ids, SHORT], draws=3)
    )[["value", "other"]],
}
NO_TEXT = {"knockout": lambda lab, _sae, _ids: _knocked_out(lab)}


def _read(lab: Any, ids: list[int]) -> Any:
    width, layers = lab.config.hidden_size, len(lab.anatomy.layers)
    turned = torch.eye(width).roll(1, 0) + torch.eye(width)
    fitted = lk.circuits.JacobianLens(dict.fromkeys(range(1, layers), turned), 1, lab.name, layers)
    return lk.lens(lab, lab.trace(ids, keep=("residual", "logits")), lens=fitted)


def _swapped(lab: Any, ids: list[int]) -> Any:
    with lab.edit(lk.swap(_read(lab, ids), 5, 17, layers=1)):
        return lab.trace(ids, keep="logits").logits


def _without_a_direction(lab: Any, ids: list[int]) -> Any:
    with lab.edit(lk.circuits.ablate_direction(torch.arange(1.0, lab.config.hidden_size + 1))):
        return [lab.trace(ids, keep="logits").logits, lab.generate(words(ids), max_new_tokens=3).logprobs]


def _found(lab: Any, ids: list[int], method: Any, parts: Any) -> Any:
    circuit = lk.circuits.find(lab, [(ids, [*ids[:2], 34, *ids[3:]])], metric, method, parts, steps=2, **QUIET)
    names = [name for name in ("layer", "head", "part", "sender", "receiver", "via") if name in circuit.table]
    return [circuit.table.sort_values(names)["effect"], circuit.keeping(3)]


def _collected(lab: Any, texts: Any) -> Any:
    routing = lk.moe.collect(lab, texts, untrained=1, **QUIET)
    return [routing.experts, routing.weights, np.nan_to_num(routing.loss), routing.untrained]


def _knocked_out(lab: Any) -> Any:
    found = lk.attention.knockout(lab, [(0, 1)], length=6, draws=2)
    return [found.first.without, found.second.without, found.second.intact, *found.second.others]


def _table(result: Any) -> pd.DataFrame:
    return getattr(result, "table", result)


def flat(figures: Any) -> list[torch.Tensor]:
    """All figures, in their order."""
    if isinstance(figures, pd.DataFrame | pd.Series):
        figures = figures.to_numpy(np.float64)
    if isinstance(figures, list | tuple) and not all(isinstance(one, int | float) for one in figures):
        return [tensor for one in figures for tensor in flat(one)]
    return [torch.as_tensor(np.asarray(figures) if isinstance(figures, np.ndarray) else figures).double()]


def agree(one: Any, other: Any) -> None:
    for ours, theirs in zip(flat(one), flat(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=AGREE, rtol=AGREE, equal_nan=True)


# the model: a mixture of experts that trains with dropout and noise ---------------------------------------------------


@cache
def _built(name: str) -> Any:
    family = FAMILIES[name]
    noisy = {"attention_dropout": 0.5, "router_jitter_noise": 0.3} if name == "mixtral" else {}
    return build(Family(family.model_type, family.fields | noisy, family.eager))


def model_of(name: str = "mixtral") -> Any:
    return copy.deepcopy(_built(name))


@cache
def as_it_should_be(way: str, folder: Path, name: str = "mixtral") -> Any:
    return (WAYS | NO_TEXT)[way](lk.Lab(model_of(name), Numbers(), name=name), sae(folder), list(TEXT))


def in_training(model: Any) -> Any:
    return model.train()


def partly_in_training(model: Any) -> Any:
    model.model.layers[1].train()
    model.model.layers[0].self_attn.training = True
    return model


def checkpointed(model: Any) -> Any:
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    return model.train()


def compiled(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def wrapped(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def layers_compiled(model: Any) -> Any:
    model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
    model.model.layers[1].compile(backend="eager")
    return model.train()


def forward_compiled(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def adapted(model: Any) -> Any:
    """An adapter that changes nothing, with settings of its own for dropout."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config).train()


def padded_beyond(model: Any) -> Any:
    model.generation_config.pad_token_id = 5_000
    return model


STATES = (
    in_training,
    partly_in_training,
    checkpointed,
    compiled,
    wrapped,
    layers_compiled,
    forward_compiled,
    adapted,
    padded_beyond,
)


COMPILED = (compiled, wrapped, layers_compiled, forward_compiled)


class Numbers(Tokens):
    """A tokenizer of numbers, to which other words are nothing."""

    def __call__(self, text: str, **options: Any) -> Any:
        return super().__call__(" ".join(word for word in text.split() if word[:1] == "t"), **options)


class Beyond(Numbers):
    """One with more tokens than the model has rows, its padding token among them."""

    pad_token_id = 5_000

    def __len__(self) -> int:
        return 6_000


def state_of(model: Any) -> list[Any]:
    """What a run must leave as it was."""
    return [
        (
            module.training,
            vars(module).get("gradient_checkpointing"),
            vars(module).get("generation_config"),
            vars(module).get("prepare_inputs_for_generation"),
            vars(module).get("forward"),
            module._compiled_call_impl,
            (*module._forward_hooks, -1, *module._forward_pre_hooks),
            [weight.grad for weight in module.parameters(recurse=False)],
        )
        for module in model.modules()
    ]


@pytest.mark.parametrize("way", WAYS | NO_TEXT)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_the_state_of_a_model_changes_no_figure_and_is_kept(
    state: Callable[[Any], Any], way: str, folder: Path
) -> None:
    model = state(model_of())
    if state in COMPILED:
        with torch.no_grad():  # compiles, as it is called in a run, before any hook is put on
            model(input_ids=torch.tensor([TEXT]), use_cache=False)
            model(input_ids=torch.tensor([TEXT]), use_cache=False, logits_to_keep=1)
    lab = lk.Lab(model, Beyond(), name="mixtral")
    before = state_of(model)
    found = (WAYS | NO_TEXT)[way](lab, sae(folder), list(TEXT))
    agree(found, as_it_should_be(way, folder))
    assert state_of(model) == before


def test_training_would_change_the_figures() -> None:
    """Otherwise the test above would prove nothing."""
    model = model_of().train()
    with torch.no_grad():
        one, other = (model(input_ids=torch.tensor([TEXT])).logits for _ in range(2))
    assert (one - other).abs().max() > 0.1


CUT = ("moe", "circuits.edit_cost", "circuits.fit_lens", "circuits.compare")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [[5, 17, 5_000, 8], [5, 17, 100], [-1, 5, 3, 8], [], [5] * 200], ids=str)
def test_ids_that_the_model_has_not_are_refused_by_all(way: str, bad: list[int], folder: Path) -> None:
    if way.startswith(CUT) and len(bad) == 200:
        pytest.skip("documents are cut to the context, and a note says so")
    model = model_of()
    lab = lk.Lab(model, Beyond(), name="mixtral")
    before = state_of(model)
    with pytest.raises(lk.LabError):
        WAYS[way](lab, sae(folder), list(bad))
    assert state_of(model) == before


# lists against alone --------------------------------------------------------------------------------------------------

TEXTS = [TEXT, SHORT, OTHER, [7]]


@pytest.mark.parametrize("tokens", [Numbers, Beyond])
@pytest.mark.parametrize("name", ["rwkv", "mamba", "mixtral", "gpt2", "opt", "bloom", "gemma3"])
def test_a_list_gives_what_each_text_gives_alone(name: str, tokens: Any, folder: Path) -> None:
    lab = lk.Lab(model_of(name), tokens(), name=name)
    alone = [lab.trace(text, keep=("logits", "residual")) for text in TEXTS]
    for one, other in zip(lab.trace(TEXTS, keep=("logits", "residual")), alone, strict=True):
        agree([one.logits, one.residual(1)], [other.logits, other.residual(1)])
    prompts = [words(text) for text in TEXTS]
    by_itself = [lab.generate(prompt, max_new_tokens=5) for prompt in prompts]
    for one, other in zip(lab.generate(prompts, max_new_tokens=5), by_itself, strict=True):
        assert one.ids == other.ids
        agree(one.logprobs, other.logprobs)
    features = lk.sae.features(lab, sae(folder), TEXTS)
    for one, text in zip(features, TEXTS, strict=True):
        agree(one.values, lk.sae.features(lab, sae(folder), text).values)


def test_what_runs_one_by_one_is_recorded_as_one_run() -> None:
    """Stopped, interrupted or half done: there is a Generation for each prompt, in their order."""
    import threading

    lab = lk.Lab(model_of("rwkv"), Numbers(), name="rwkv")
    prompts = [words(text) for text in TEXTS]
    assert len(running.generation_groups(lab.model, [len(t) for t in TEXTS])) == len(TEXTS)
    stop, seen = threading.Event(), []

    def on_token(generation: Any) -> None:
        seen.append(generation.prompt_ids)
        if len(seen) == 7:
            stop.set()

    made = lab.generate(prompts, max_new_tokens=5, on_token=on_token, stop_event=stop)
    assert [len(one.ids) for one in made] == [5, 2, 0, 0]
    assert [one.finish_reason for one in made] == ["length", "stopped", "stopped", "stopped"]
    assert [one.prompt_ids for one in made] == TEXTS
    seen.clear()

    def interrupt(_generation: Any) -> None:
        seen.append(1)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.generate(prompts, max_new_tokens=5, on_token=interrupt)
    kept = lab.last_generation
    assert [len(one.ids) for one in kept] == [5, 2, 0, 0]
    assert [one.finish_reason for one in kept] == ["length", "interrupted", "interrupted", "interrupted"]
    sampled = lab.generate(prompts, max_new_tokens=5, temperature=1.0, seed=3)
    assert sampled[2].ids == lab.generate(prompts[2], max_new_tokens=5, temperature=1.0, seed=3).ids


def test_patching_and_ablation_one_by_one_are_as_in_passes() -> None:
    """What a family gives that can't share a pass is what it gives where passes are shared."""
    lab = lk.Lab(model_of(), Numbers(), name="mixtral")
    shared = lk.patching(lab, TEXT, OTHER, metric, at="mlp", **QUIET).table
    effects = _table(lk.attention.effects(lab, TEXT, **QUIET))["loss"]
    model = model_of()
    passes: list[int] = []
    known = running._TRIED.setdefault(model, {})
    assert not known
    running.answers_in_lists(model)
    running._TRIED[model] = {key: running.Lists(False, False) for key in known}
    model.register_forward_pre_hook(lambda _m, _a, given: passes.append(len(given["input_ids"])), with_kwargs=True)
    lab = lk.Lab(model, Numbers(), name="mixtral")
    agree(lk.patching(lab, TEXT, OTHER, metric, at="mlp", **QUIET).table["value"], shared["value"])
    agree(_table(lk.attention.effects(lab, TEXT, **QUIET))["loss"], effects)
    assert set(passes) == {1}
