"""The one place that runs a model on ids: what it checks, how it prepares a model, which texts share a pass."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import ENCODERS, FAMILIES, UNUSUAL, Family, Tokens, build

import labkit as lk
from labkit.trace import running
from labkit.trace.running import Lists, answers_in_lists, forward, generates_in_lists, groups

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23]
SHORT = TEXT[:4]
ROOMS = Path(lk.__file__).parent

# whoever else calls a model, and how often
ELSEWHERE = {
    "lora/costs.py": 1,  # the layers in training, on tensors without numbers: what autograd keeps is counted
    "lora/packing.py": 1,  # two samples in one row with positions of their own, as a trainer hands them over
    "lora/sophia.py": 1,  # a second pass with gradients, of answers the model draws itself: how curved its loss is
    "lora/trainers.py": 1,  # two tokens in training, to see whether dropout draws from the process's random state
    "recipes/moe.py": 1,  # a training step: with dropout and gradients, as training is
    "recipes/squeeze.py": 1,  # the same
    "recurrent/recalling.py": 2,  # a training step and a trial of modules made there, which are no models of transformers
    "tokenization/comparing.py": 4,  # training steps and trials of modules made there
    "models/memory.py": 2,  # tokens on the meta device, where there is nothing to prepare: what a cache takes is counted
}


@pytest.fixture
def model() -> Any:
    return build(FAMILIES["llama3"])


def plain(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def hooks(module: Any) -> tuple[int, int]:
    return len(module._forward_hooks), len(module._forward_pre_hooks)


# nobody else runs a model ---------------------------------------------------------------------------------------------


def runs_of_models(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of something called model, of its forward or generate, and of anything that is given ids by their name."""

    def is_model(what: ast.expr) -> bool:
        name = what.id if isinstance(what, ast.Name) else what.attr if isinstance(what, ast.Attribute) else ""
        return name.lstrip("_") in ("model", "base_model", "network")

    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        by_method = isinstance(function, ast.Attribute) and function.attr in ("generate", "forward", "__call__")
        named = {keyword.arg for keyword in call.keywords}
        if (
            {"input_ids", "inputs_embeds", "use_cache"} & named
            or (is_model(function) and not isinstance(function, ast.Name))
            or (isinstance(function, ast.Name) and function.id == "model")
            or (by_method and isinstance(function, ast.Attribute) and is_model(function.value))
        ):
            yield call


def test_no_other_room_runs_a_model() -> None:
    found: dict[str, int] = {}
    for path in sorted(ROOMS.rglob("*.py")):
        calls = [c for c in runs_of_models(ast.parse(path.read_text("utf-8"))) if not _settings(c)]
        if calls:
            found[path.relative_to(ROOMS).as_posix()] = len(calls)
    assert found.pop("trace/running.py") == 5  # a pass, one that stops early, one that reads on, a step, generate
    assert found == ELSEWHERE


def _settings(call: ast.Call) -> bool:
    """Whether a call makes generation settings, which say use_cache too."""
    return isinstance(call.func, ast.Name) and call.func.id == "GenerationConfig"


@pytest.mark.parametrize(
    "line",
    [
        "model(ids)",
        "lab.model(ids)",
        "self._model(**given)",
        "model.generate(ids)",
        "lab.model.forward(ids)",
        "anything(input_ids=ids)",
        "f()(inputs_embeds=x)",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert len(list(runs_of_models(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["lab.generate(text)", "running.forward(model, rows)", "open_model(x)", "f(model)"])
def test_the_search_leaves_others_alone(line: str) -> None:
    assert not list(runs_of_models(ast.parse(line)))


def test_a_model_and_its_wrappers_have_the_same_turns() -> None:
    peft = pytest.importorskip("peft")
    model = build(FAMILIES["llama3"])
    turns = lk.Lab(model, Tokens(), name="plain")._turns
    assert lk.Lab(torch.compile(model, backend="eager"), Tokens(), name="compiled")._turns is turns
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert lk.Lab(adapted, Tokens(), name="adapted")._turns is turns
    assert lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="another")._turns is not turns


# ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        TEXT,
        tuple(TEXT),
        np.array(TEXT),
        np.array(TEXT, dtype=np.uint16),
        torch.tensor(TEXT),
        torch.tensor([TEXT]),
        [np.int64(i) for i in TEXT],
        [torch.tensor(i) for i in TEXT],
    ],
)
def test_ids_of_every_kind_are_one_row(model: Any, ids: Any) -> None:
    output = forward(model, [ids])
    assert output.ids.tolist() == [TEXT]
    assert output.lengths == [len(TEXT)]
    assert torch.equal(output.all_logits[0], plain(model, TEXT))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "empty"),
        (torch.empty(0, dtype=torch.long), "empty"),
        ([100], "no token 100: this model has tokens 0 to 99"),
        ([3, -1], "no token -1"),
        ([10**30], "whole numbers"),
        ([0.5], "whole numbers"),
        ([True], "whole numbers"),
        (["a"], "whole numbers"),
        ([None], "whole numbers"),
        ([[1, 2], [3, 4]], "one row"),
        (np.array([[1, 2], [3, 4]]), "one row"),
        ([3] * 129, "has 129 tokens and the model's context holds 128"),
    ],
)
def test_ids_that_cant_be_run(model: Any, ids: Any, said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        forward(model, [ids])
    with pytest.raises(lk.BadInput, match=said):  # nor beside another text
        forward(model, [TEXT, ids])


def test_no_text_at_all(model: Any) -> None:
    with pytest.raises(lk.BadInput, match="the list is empty"):
        forward(model, [])
    assert groups(model, []) == []
    assert running.generation_groups(model, []) == []


def test_a_model_without_numbers_is_refused() -> None:
    model = build(FAMILIES["llama3"]).to("meta")
    with pytest.raises(lk.Unavailable, match="meta device"):
        forward(model, [TEXT])
    with pytest.raises(lk.LabError):
        lk.Lab(model, Tokens(), name="meta").trace(TEXT)


def test_padding_is_a_token_that_the_embedding_has(model: Any) -> None:
    for pad in (None, 99, 100, -1, 50_000):
        model.config.pad_token_id = pad
        assert running.padding_id(model) == (99 if pad == 99 else 0)
        batch = running.batch_of(model, [TEXT, SHORT], left=pad is None)
        assert 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < 100


# what is computed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama3", "gpt2", "opt", "bloom", "gemma2", "mamba"])
def test_logits_of_all_of_the_last_and_of_none(family: str) -> None:
    model = build(FAMILIES[family])
    every = forward(model, [TEXT, SHORT])
    last = forward(model, [TEXT, SHORT], logits="last")
    for row, text in enumerate((TEXT, SHORT)):
        alone = plain(model, text)
        torch.testing.assert_close(every.all_logits[row, : len(text)], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(last.all_logits[row], alone[-1], atol=1e-4, rtol=1e-4)
    assert forward(model, [TEXT], logits="none").logits is None
    torch.testing.assert_close(forward(model, [TEXT], logits="last").all_logits[0], plain(model, TEXT)[-1])


def test_no_more_of_the_vocabulary_is_computed_than_is_wanted(model: Any) -> None:
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _m, _a, output: shapes.append(tuple(output.shape[:2])))
    answers_in_lists(model)
    shapes.clear()
    forward(model, [TEXT, SHORT], logits="none")
    forward(model, [TEXT, SHORT], logits="last")
    forward(model, [TEXT, TEXT], logits="last")
    assert shapes == [(2, 1), (2, 2), (2, 1)]


def test_a_pass_ends_where_it_is_told_to(model: Any) -> None:
    ran: list[int] = []
    layers = model.model.layers
    answers_in_lists(model)
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda _m, _a, _o, index=index: ran.append(index))
    with torch.no_grad():
        states = model(input_ids=torch.tensor([TEXT]), use_cache=False, output_hidden_states=True).hidden_states
    ran.clear()
    assert torch.equal(forward(model, [TEXT], upto=layers[1]).reached, states[1])
    assert ran == [0]
    left = forward(model, [TEXT, SHORT], upto=layers[0], leaving=True).reached
    torch.testing.assert_close(left[0], states[1][0])
    assert ran == [0, 0]
    assert not left.requires_grad


def test_gradients_where_they_are_asked_for(model: Any) -> None:
    with torch.inference_mode():
        output = forward(model, [TEXT], grad=True)
    output.all_logits[0, -1, 3].backward()
    by_hand = build(FAMILIES["llama3"])
    by_hand(input_ids=torch.tensor([TEXT])).logits[0, -1, 3].backward()
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)
    assert not forward(model, [TEXT]).all_logits.requires_grad


# how it is prepared ---------------------------------------------------------------------------------------------------


def test_every_module_is_afterwards_in_the_mode_it_was_in() -> None:
    model = build(FAMILIES["gpt2"])
    wanted = plain(model, TEXT)
    model.train()
    model.transformer.h[0].eval()
    model.transformer.h[1].attn.train()
    model.gradient_checkpointing_enable()
    before = [(m.training, vars(m).get("gradient_checkpointing")) for m in model.modules()]
    seen: list[tuple[bool, bool]] = []
    model.transformer.h[1].register_forward_hook(lambda m, _a, _o: seen.append((m.training, m.gradient_checkpointing)))
    assert torch.equal(forward(model, [TEXT]).all_logits[0], wanted)
    assert seen == [(False, False)]
    assert before == [(m.training, vars(m).get("gradient_checkpointing")) for m in model.modules()]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_breaks_leaves_nothing_changed(model: Any, error: type[BaseException]) -> None:
    model.train()
    model.gradient_checkpointing_enable()
    model.generation_config.eos_token_id = [2, 7]
    before = [dict(vars(m)) | {"hooks": hooks(m)} for m in model.modules()]

    def fail(*_: Any) -> None:
        raise error

    handle = model.model.layers[1].register_forward_hook(fail)
    lab = lk.Lab(model, Tokens(), name="breaks")
    for run in (
        lambda: forward(model, [TEXT]),
        lambda: forward(model, [TEXT], upto=model.lm_head),
        lambda: lab.generate("t5 t17", max_new_tokens=2),
        lambda: lab.next_logits("t5"),
    ):
        with pytest.raises(error):
            run()
    handle.remove()
    for module, then in zip(model.modules(), before, strict=True):
        now = dict(vars(module)) | {"hooks": hooks(module)}
        assert now.keys() == then.keys()
        assert all(now[name] is then[name] for name in ("training", "generation_config") if name in then)
        assert all(now.get(name) == then.get(name) for name in ("gradient_checkpointing", "hooks"))


def test_what_is_compiled_runs_uncompiled_and_is_compiled_again(model: Any) -> None:
    compiled: list[int] = []

    def backend(graph: Any, _example: Any) -> Any:
        compiled.append(1)
        return graph.forward

    assert not running.is_compiled(model)
    wanted = plain(model, TEXT)
    model.compile(backend=backend)
    assert running.is_compiled(model)
    assert torch.equal(forward(model, [TEXT]).all_logits[0], wanted)
    assert not compiled
    torch.testing.assert_close(plain(model, TEXT), wanted)
    assert compiled


# lists ----------------------------------------------------------------------------------------------------------------


def leaky(over: tuple[int, ...]) -> Any:
    """A model whose embedding mixes in the mean over the batch (0) or over all columns, padding included (1)."""
    model = build(FAMILIES["llama3"])
    model.model.embed_tokens.register_forward_hook(lambda _m, _a, x: x + x.mean(over, keepdim=True))
    return model


@pytest.mark.parametrize(
    ("over", "lists"), [((0,), Lists(False, False)), ((1,), Lists(False, True)), ((0, 1), Lists(False, False))]
)
def test_a_model_that_answers_otherwise_in_a_list_is_found_by_trying(over: tuple[int, ...], lists: Lists) -> None:
    model = leaky(over)
    assert answers_in_lists(model) == lists
    texts = [TEXT, SHORT, TEXT[::-1]]
    lengths = [len(text) for text in texts]
    assert groups(model, lengths, in_order=True) == [[0], [1], [2]]
    assert groups(model, lengths) == ([[1], [0, 2]] if lists.even else [[1], [0], [2]])
    with pytest.raises(lk.Unavailable, match="one at a time"):
        forward(model, [TEXT, SHORT])
    lab = lk.Lab(model, Tokens(), name="leaky")
    for trace, text in zip(lab.trace(texts, keep="logits"), texts, strict=True):
        torch.testing.assert_close(trace.logits, plain(model, text), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("error", [AssertionError, KeyError, AttributeError])
def test_a_model_that_fails_on_lists_is_run_one_by_one(error: type[Exception]) -> None:
    model = build(FAMILIES["llama3"])

    def alone(_module: Any, args: tuple[torch.Tensor]) -> None:
        if len(args[0]) > 1:
            raise error("one text at a time")

    model.model.embed_tokens.register_forward_pre_hook(alone)
    assert answers_in_lists(model) == Lists(False, False)
    lab = lk.Lab(model, Tokens(), name="alone")
    assert [len(trace) for trace in lab.trace([TEXT, SHORT], keep="logits")] == [len(TEXT), len(SHORT)]


def test_no_memory_for_a_list_is_no_verdict_on_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(FAMILIES["llama3"])
    monkeypatch.setattr(running, "forward", lambda *_args, **_options: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        answers_in_lists(model)
    monkeypatch.undo()
    assert answers_in_lists(model) == Lists(True, True)


def test_rwkv_runs_one_by_one_where_its_state_is_carried_on() -> None:
    model = build(FAMILIES["rwkv"])
    assert generates_in_lists(model) == Lists(False, False)
    assert running.generation_groups(model, [3, 3, 5]) == [[0], [1], [2]]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "rwkv"])
def test_other_families_run_in_lists(family: str) -> None:
    """Were the tolerance too narrow, all would be slow and nobody would notice."""
    model = build(FAMILIES[family])
    assert answers_in_lists(model) == generates_in_lists(model) == Lists(True, True)


def test_trying_a_model_prints_nothing() -> None:
    """transformers writes its warnings, of deprecated arguments among others, into the reader's notebook."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    model = build(FAMILIES["llama3"])
    level = logger.level
    logger.setLevel(logging.WARNING)  # building a test model makes transformers quieter than it is for a reader
    transformers.utils.logging.warning_once.cache_clear()  # or what was said once before would not be said here
    logger.addHandler(handler)
    try:
        generates_in_lists(model)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert said == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama3", "gpt2", "mixtral"])
def test_rounding_is_no_other_answer(family: str, dtype: torch.dtype) -> None:
    model = build(FAMILIES[family]).to(dtype)
    assert answers_in_lists(model).padded
    assert generates_in_lists(model).padded


def test_a_model_is_tried_once_and_anew_when_it_is_another(model: Any) -> None:
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    assert groups(model, [3, 4]) == [[0, 1]]
    tried = len(passes)
    assert 0 < tried <= 3
    assert groups(model, [3, 4, 5]) == [[0, 1, 2]]
    assert groups(model, [3]) == [[0]]
    assert len(passes) == tried
    model.to(torch.float64)
    groups(model, [3, 4])
    assert len(passes) == 2 * tried


def test_nothing_is_tried_where_every_text_is_by_itself(model: Any) -> None:
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    assert groups(model, [9]) == [[0]]
    assert groups(model, [9, 9], tokens=10) == [[0], [1]]
    assert running.copies(model, 400, 5) == 1
    assert running.generation_groups(model, [9]) == [[0]]
    assert not passes


def test_a_model_is_not_tried_under_edits() -> None:
    """The user's own functions see the user's own texts only, and a place of a text need not be in those it is tried with."""
    lab = lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="fresh")
    seen: list[int] = []
    with lab.edit(lk.patch("residual[1] @ 9", lambda x: (seen.append(len(x)), x + 1)[1])):
        lab.trace([TEXT, TEXT[::-1]], keep="logits")
        lab.generate(["t5 t6", "t7"], max_new_tokens=1)
    assert seen == [1, 1]


def test_groups_hold_no_more_tokens_than_they_may(model: Any) -> None:
    lengths = [3, 12, 1, 7, 2, 30]
    for budget in (1, 5, 14, 24, 1_000):
        for in_order in (False, True):
            found = groups(model, lengths, tokens=budget, in_order=in_order)
            assert sorted(i for group in found for i in group) == list(range(6))
            assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in found)
            if in_order:
                assert [i for group in found for i in group] == list(range(6))
    assert groups(model, lengths, tokens=14) == [[0, 2, 4], [3], [1], [5]]


@pytest.mark.parametrize(("runs", "most", "copies"), [(10, 4, 4), (10, 6, 5), (1, 8, 1), (0, 8, 1), (5, 100, 5)])
def test_copies_fill_the_last_pass(model: Any, runs: int, most: int, copies: int) -> None:
    assert running.copies(model, 10, runs, most=most) == copies


# generating as it reads ----------------------------------------------------------------------------------------------

EVERY = FAMILIES | UNUSUAL | ENCODERS
WITHOUT_CACHE = {"llama_both_ways", "bert", "llama_used_twice", "gpt2_in_turns"}


def scored_as_read(lab: lk.Lab, made: lk.Generation) -> None:
    """Each step's log-probability is that of a plain pass over the tokens before it."""
    assert made.ids
    for i, id_ in enumerate(made.ids):
        wanted = plain(lab.model, made.prompt_ids + made.ids[:i])[-1].log_softmax(-1)[id_]
        torch.testing.assert_close(made.logprobs[i], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [name for name in EVERY if name != "xlnet"])
def test_what_is_generated_is_scored_as_it_is_read(family: str) -> None:
    """Past a sliding window, with a padding token inside, in a list, where positions begin beyond the padding token's."""
    lab = lk.Lab(build(EVERY[family]), Tokens(), name=family)
    pad = getattr(lab.model.config, "pad_token_id", None) or 0
    padded = lab.generate([*SHORT, pad, *SHORT], max_new_tokens=4)
    for made in (*lab.generate([TEXT, SHORT], max_new_tokens=4), padded):
        scored_as_read(lab, made)
    assert running.way_to_generate(lab.model).cached == (family not in WITHOUT_CACHE)
    assert running.way_to_generate(lab.model).beyond_pad == (family in ("roberta", "data2vec"))


def test_what_can_not_be_generated_as_it_is_read_is_refused() -> None:
    lab = lk.Lab(build(ENCODERS["xlnet"]), Tokens(), name="xlnet")
    for run in (lambda: lab.generate(TEXT), lambda: list(lab.stream(TEXT)), lambda: lab.generate([TEXT, SHORT])):
        with pytest.raises(lk.Unavailable, match="While xlnet generates, its scores are not those of a pass"):
            run()
    assert len(lab.trace(TEXT, keep="logits")) == len(TEXT)


def strayed(model: Any, after: int) -> Any:
    """A model that loses count of its positions once it keeps more than so many tokens."""

    def stray(_module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        kept = given.get("past_key_values")
        if kept is not None and kept.get_seq_length() > after:
            given["position_ids"] = given["position_ids"] + 5
        return args, given

    model.register_forward_pre_hook(stray, with_kwargs=True)
    return model


def test_a_window_is_tried_where_a_run_goes_past_it() -> None:
    model = strayed(build(Family("mistral", FAMILIES["mistral"].fields | {"sliding_window": 20})), after=18)
    lab = lk.Lab(model, Tokens(), name="strays")
    scored_as_read(lab, lab.generate(TEXT, max_new_tokens=4))
    assert running.way_to_generate(model, TEXT, 4).cached
    scored_as_read(lab, lab.generate([*TEXT, *TEXT, 4, 9], max_new_tokens=4))
    assert not running.way_to_generate(model, TEXT * 2, 4).cached


def test_how_a_model_generates_is_tried_once_and_with_few_tokens(model: Any) -> None:
    tokens: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, given: tokens.append(given["input_ids"].numel()), with_kwargs=True)
    lab = lk.Lab(model, Tokens(), name="counted")
    lab.anatomy  # noqa: B018 - looks at the model, too
    tokens.clear()
    lab.generate(TEXT, max_new_tokens=3)
    own = [len(TEXT), 1, 1]
    tried = tokens[: -len(own)]
    assert tokens == tried + own
    assert len(tried) == running.STEPS + 1
    assert sum(tried) <= 2 * (running.LONG + running.STEPS)
    tokens.clear()
    lab.generate(TEXT[::-1], max_new_tokens=3)
    assert tokens == own


def test_edits_hold_while_the_whole_text_is_read_at_each_step() -> None:
    lab = lk.Lab(build(UNUSUAL["llama_both_ways"]), Tokens(), name="both ways")
    with lab.edit(lk.patch("residual[1] @ 2,11", 0.7)):  # token 11 is still to come
        made = lab.generate(TEXT, max_new_tokens=4)
        for i, id_ in enumerate(made.ids):
            seen = TEXT + made.ids[:i]
            place = "residual[1] @ 2,11" if len(seen) > 11 else "residual[1] @ 2"
            with lk.Lab(build(UNUSUAL["llama_both_ways"]), Tokens(), name="other").edit(lk.patch(place, 0.7)) as other:
                wanted = other.next_logits(seen).log_softmax(-1)[id_]
            torch.testing.assert_close(made.logprobs[i], wanted, atol=1e-4, rtol=1e-4)


# progress -------------------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_many_runs_and_keeps_what_was_done() -> None:
    done = []
    with running.Progress("runs", 3, "run", False) as bar:
        for i in range(3):
            if i == 2:
                raise KeyboardInterrupt
            done.append(i)
            bar.advance()
    assert bar.interrupted
    assert done == [0, 1]
    with running.Progress("runs", 3, "run", False) as bar:
        pass
    assert not bar.interrupted
    with pytest.raises(ZeroDivisionError), running.Progress("runs", 3, "run", False) as bar:
        raise ZeroDivisionError
    assert not bar.interrupted


@pytest.mark.parametrize(("family", "most"), [("roberta", 126), ("data2vec", 126), ("electra", 128), ("opt", 128)])
def test_a_context_ends_where_its_positions_do(family: str, most: int) -> None:
    """RoBERTa's positions begin beyond the padding token's, so that its table of 128 has room for fewer tokens."""
    model = build((FAMILIES | ENCODERS)[family])
    assert running.room(model) == most
    assert forward(model, [[5] * most]).all_logits.shape[1] == most
    with pytest.raises(lk.BadInput, match=f"holds {most}"):
        forward(model, [[5] * (most + 1)])
    made = lk.Lab(model, Tokens(), name=family).generate([5] * (most - 2), max_new_tokens=9)
    assert (len(made), made.finish_reason) in ((2, "context"), (1, "end"), (2, "end"))


def test_a_family_with_other_names_for_its_context() -> None:
    model = build(Family("gpt2", FAMILIES["gpt2"].fields | {"n_positions": 16}))
    assert running.room(model) == 16
    with pytest.raises(lk.BadInput, match="holds 16"):
        forward(model, [[3] * 17])


# reading on and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llama3", "mistral", "gemma2", "gpt2", "bloom", "opt", "mixtral", "gpt_oss", "deepseek_v3"]
)
def test_a_reader_goes_back_and_on_as_a_plain_pass_reads(name: str) -> None:
    """Beyond a sliding window of 8, with early layers ahead of the late ones, and after an interrupt."""
    model = build(FAMILIES[name])
    ids = [(7 * i * i + 3) % 97 + 3 for i in range(40)]
    expected = plain(model, ids)
    reader = running.reader(model, 60)
    first = reader.read(ids[:20])
    torch.testing.assert_close(first[0], expected[19], atol=1e-4, rtol=0)
    reader.read([*ids[:15], 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], last=3)
    torch.testing.assert_close(reader.read(ids, last=5), expected[-5:], atol=1e-4, rtol=0)
    torch.testing.assert_close(reader.read(ids[:30], last=2), expected[28:30], atol=1e-4, rtol=0)
    second = lk.Lab(model, Tokens(), name=name).anatomy.layers[1].module
    hidden = lk.Lab(model, Tokens(), name=name).trace(ids[:33], keep="residual").residual(1)[-1]
    torch.testing.assert_close(reader.read_upto(ids[:33], second), hidden, atol=1e-4, rtol=0)
    torch.testing.assert_close(reader.read(ids, last=3), expected[-3:], atol=1e-4, rtol=0)

    def interrupt(*_details: object) -> None:
        raise KeyboardInterrupt

    handle = second.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reader.read([*ids[:25], 3, 4])
    handle.remove()
    torch.testing.assert_close(reader.read(ids, last=3), expected[-3:], atol=1e-4, rtol=0)
    assert hooks(second) == (0, 0)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "llama_both_ways", "llama_used_twice"])
def test_what_can_not_take_tokens_back_is_refused(name: str) -> None:
    model = build((FAMILIES | UNUSUAL)[name])
    with pytest.raises(lk.Unavailable, match="taken back"):
        running.reader(model, 20)
