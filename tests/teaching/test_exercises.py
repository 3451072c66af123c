"""Exercises and `lk.check`: the reference passes, each usual mistake gets its message, garbage harms nothing."""

from __future__ import annotations

import inspect
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labkit as lk
from labkit.teaching import progress
from labkit.teaching.exercises import Exercise, all_exercises, find
from labkit.teaching.exercises.definition import IMPORTANCE

IDS = list(all_exercises())


def test_the_exercises_that_are_asked_for_are_there() -> None:
    """More may come; none of these may go, since progress is kept under these ids."""
    assert {id for id in IDS if id.startswith("attention.")} >= {
        f"attention.{name}"
        for name in (
            "causal_mask", "attention_head", "grouped_attention", "rotate", "kv_cache_step", "online_softmax",
            "copying_heads", "cache_bytes",
        )
    }  # fmt: skip
    assert {id for id in IDS if id.startswith("first_look.")} >= {
        f"first_look.{name}" for name in ("temperature_softmax", "surprise", "top_p", "weights_bytes")
    }
    assert {id for id in IDS if id.startswith("generation.")} >= {
        f"generation.{name}"
        for name in ("with_temperature", "top_p", "with_cache", "branch", "masked_choice", "accept")
    }
    assert {id for id in IDS if id.startswith("moe.")} >= {
        f"moe.{name}"
        for name in (
            "top_k_router", "mixture_layer", "active_parameters", "balancing_loss", "domain_share", "mutual_information",
            "kept_experts",
        )
    }  # fmt: skip
    assert {id for id in IDS if id.startswith("quantization.")} >= {
        f"quantization.{name}"
        for name in (
            "absmax", "round_trip", "bits_per_weight", "to_levels", "gptq_row", "kl_damage", "most_tokens_per_second",
            "ternary",
        )
    }  # fmt: skip
    assert {id for id in IDS if id.startswith("lora.")} >= {
        f"lora.{name}" for name in ("labels", "adapted", "merged", "trainable", "largest_rank", "blended")
    }
    assert {id for id in IDS if id.startswith("sae.")} >= {
        f"sae.{name}"
        for name in (
            "interference", "topk_autoencoder", "fraction_unexplained", "density", "balanced_accuracy", "add_along",
        )
    }  # fmt: skip
    assert {id for id in IDS if id.startswith("landscape.")} >= {
        f"landscape.{name}" for name in ("parameters", "step_time", "training_bytes", "merge", "bits_per_byte")
    }
    assert {id for id in IDS if id.startswith("long_context.")} >= {
        f"long_context.{name}" for name in ("angles", "yarn", "alibi", "window", "scan", "hidden_attention")
    }
    assert {id for id in IDS if id.startswith("circuits.")} >= {
        f"circuits.{name}" for name in ("lens", "effect", "attribution", "strongest", "probe_step", "take_out")
    }
    topics = [id.partition(".")[0] for id in IDS]
    assert list(dict.fromkeys(topics)) == [
        "first_look",
        "attention",
        "generation",
        "quantization",
        "lora",
        "moe",
        "sae",
        "circuits",
        "landscape",
        "long_context",
    ], "in the order of the notebooks"


@pytest.mark.parametrize("id", IDS)
def test_an_exercise_is_whole(id: str) -> None:
    exercise = all_exercises()[id]
    assert len(exercise.hints) == 2
    assert exercise.importance in IMPORTANCE
    assert 1 <= exercise.minutes <= 15
    assert exercise.topic in progress.NOTEBOOKS
    bold = re.findall(r"\*\*[A-Za-z][^*`]*\*\*", exercise.task)
    assert not bold, "a card shows code marks alone; stars stand there as they are"
    assert exercise.reference.__name__ == exercise.name
    head, body = exercise.solution.split("\n", 1)
    assert head == f"def {exercise.name}({', '.join(exercise.arguments)}):"
    assert inspect.getsource(exercise.reference).rstrip().endswith(f":\n{body}"), "nothing but the types is left out"
    assert exercise.reference.__doc__ is not None
    assert exercise.solution.startswith(exercise.stub.removesuffix("\n    return ..."))
    assert all(len(line) <= 96 for line in exercise.solution.splitlines()), "longer lines are cut in a narrow cell"
    assert len({mistake.says for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 3
    assert all(f"`{name}`" in exercise.task or f"`{name}" in exercise.task for name in exercise.arguments)
    namespace: dict[str, Any] = {"torch": torch}
    exec(exercise.solution, namespace)  # what a learner copies from the card
    assert lk.check(id, namespace[exercise.name]).passed is True
    exec(exercise.stub, namespace)  # and what a notebook begins with
    assert lk.check(id, namespace[exercise.name]).passed is None
    assert namespace[exercise.name].__doc__ == exercise.reference.__doc__


@pytest.mark.parametrize("id", IDS)
def test_the_reference_passes_and_the_stub_stops_nothing(id: str) -> None:
    exercise = all_exercises()[id]
    for stub in (..., lambda *_: ...):
        result = lk.check(id, stub)
        assert result.passed is None
        assert result.message.startswith("Not solved yet")
    assert progress.exercise_record(id)["tried"] == 0
    result = lk.check(id, exercise.reference)
    assert result.passed is True
    assert result.message == f"Right: all {len(result.cases)} cases agree with the reference.\n{exercise.right}"
    assert progress.exercise_record(id) == {"tried": 1, "solved": True, "solution_seen": False, "unaided": True}


@pytest.mark.parametrize(
    ("id", "name"), [(e.id, m.wrong.__name__) for e in all_exercises().values() for m in e.mistakes]
)
def test_each_usual_mistake_gets_its_message(id: str, name: str) -> None:
    exercise = all_exercises()[id]
    (mistake,) = [m for m in exercise.mistakes if m.wrong.__name__ == name]
    result = lk.check(id, mistake.wrong)
    assert result.passed is False
    said = [m.says for m in exercise.mistakes if m.says in result.message]
    assert said == [mistake.says]
    assert progress.exercise_record(id)["solved"] is False


def softmax_over(scores: torch.Tensor, dim: int = -1) -> torch.Tensor:
    weights = scores.exp()
    return weights / weights.sum(dim, keepdim=True)


def mask(T: int) -> torch.Tensor:
    return torch.tensor([[j <= i for j in range(T)] for i in range(T)])


def head_divided_by_size(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("id,jd->ij", query, key) / query.shape[1]
    return torch.softmax(scores + torch.zeros_like(scores).masked_fill(~mask(len(query)), -1e30), 1) @ value


def grouped_in_a_loop(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    one = all_exercises()["attention.attention_head"].reference
    return torch.stack([one(query[h], key[h % len(key)], value[h % len(value)]) for h in range(len(query))])


def turned_in_complex_numbers(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    half = x.shape[1] // 2
    pairs = torch.view_as_complex(x.reshape(len(x), half, 2).contiguous())
    angles = torch.outer(positions.float(), base ** (-torch.arange(half) / half))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).reshape(x.shape)


def tiles_without_rescaling(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
    return torch.stack(
        [torch.softmax(s, 0) @ v for s, v in zip(scores.split(tile), values.split(tile), strict=True)]
    ).mean(0)


def same_token_head(patterns: torch.Tensor, ids: torch.Tensor) -> Any:
    best, place = -1.0, (0, 0)
    for layer, heads in enumerate(patterns):
        for head, pattern in enumerate(heads):
            looks = sum(pattern[i, j] for i in range(len(ids)) for j in range(i) if ids[i] == ids[j])
            if looks > best:
                best, place = float(looks), (layer, head)
    return place


def router_in_numpy(logits: torch.Tensor, k: int) -> Any:
    """Ascending, as np.argsort has it."""
    table = logits.numpy()
    experts = np.argsort(table, axis=1)[:, -k:]
    best = np.take_along_axis(table, experts, axis=1)
    weights = np.exp(best - best.max(axis=1, keepdims=True))
    return experts, weights / weights.sum(axis=1, keepdims=True)


def layer_that_overwrites(x: Any, router: Any, gate: Any, up: Any, down: Any, k: int) -> torch.Tensor:
    output = torch.zeros_like(x)
    for t, token in enumerate(x):
        best, experts = (router @ token).topk(k)
        for weight, e in zip(torch.softmax(best, 0), experts, strict=True):
            z = gate[e] @ token
            output[t] = weight * (down[e] @ (z * torch.sigmoid(z) * (up[e] @ token)))
    return output


def layer_of_all_experts(x: Any, router: Any, gate: Any, up: Any, down: Any, k: int) -> torch.Tensor:
    weights = softmax_over(x @ router.T)
    outputs = [(torch.nn.functional.silu(x @ g.T) * (x @ u.T)) @ d.T for g, u, d in zip(gate, up, down, strict=True)]
    return (weights[..., None] * torch.stack(outputs, 1)).sum(1)


def loss_by_counting_tokens(logits: torch.Tensor, experts: torch.Tensor) -> float:
    T, E = logits.shape
    probability = softmax_over(logits).mean(0)
    return E * sum(float((experts == e).any(1).sum() / T * probability[e]) for e in range(E))


def share_by_expert(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    table = torch.zeros(n_kinds, n_experts)
    for row, kind in zip(experts.tolist(), kinds.tolist(), strict=True):
        for expert in row:
            table[kind, expert] += 1
    return table / table.sum(0).clamp(min=1)


def information_in_a_loop(table: torch.Tensor, log: Callable[[float], float] = math.log) -> float:
    total, bits = int(table.sum()), 0.0
    for row in table:
        for column, cell in zip(table.T, row, strict=True):
            if cell:
                bits += float(cell) / total * log(float(cell) * total / (float(row.sum()) * float(column.sum())))
    return bits


def rectified_not_sparse(x: Any, w: Any, b: Any, v: Any, c: Any, k: int) -> Any:
    read = ((x - c) @ w + b).clamp(min=0)
    return read, torch.einsum("tf,fd->td", read, v) + c


# Written as a learner might, apart from the solutions the exercises themselves recognise mistakes by.
LEARNERS: list[tuple[str, Callable[..., Any], str]] = [
    ("attention.causal_mask", lambda T: np.triu(np.ones((T, T), dtype=bool)), "wrong way round"),
    ("attention.causal_mask", lambda T: mask(T).int(), "It is of int32 where bool is wanted"),
    ("attention.causal_mask", lambda T: mask(T + 1), "Shape (2, 2) where (1, 1) is wanted"),
    ("attention.attention_head", head_divided_by_size, "its square root is meant"),
    ("attention.attention_head", lambda q, k, v: softmax_over(q @ k.T / q.shape[1] ** 0.5) @ v, "The mask is missing"),
    ("attention.attention_head", lambda q, k, v: q @ k @ v, "RuntimeError"),
    ("attention.grouped_attention", grouped_in_a_loop, "0 1 0 1 for 0 0 1 1"),
    ("attention.grouped_attention", lambda q, k, v: q[0], "Shape (3, 4) where (4, 3, 4) is wanted"),
    ("attention.rotate", turned_in_complex_numbers, "Neighbouring numbers are paired"),
    ("attention.rotate", lambda x, p, b: x, "0.540302 expected, 1 there"),
    ("attention.kv_cache_step", lambda q, k, v, ks, vs: torch.softmax(ks @ q, 0) @ vs, "output, keys, values"),
    (
        "attention.kv_cache_step",
        lambda q, k, v, ks, vs: (v, torch.vstack([ks, k]), torch.vstack([vs, v])),
        "In output: 2 of 2 places differ",
    ),
    ("attention.online_softmax", tiles_without_rescaling, "Each tile has a softmax of its own"),
    ("attention.online_softmax", lambda s, v, t: (s.exp() @ v / s.exp().sum()).numpy(), "overflows"),
    ("attention.copying_heads", same_token_head, "what came after it"),
    ("attention.copying_heads", lambda p, i: (torch.tensor(9), torch.tensor(9)), "In layer: 1 expected, 9 there"),
    ("attention.cache_bytes", lambda layers, h, d, t, b, n: layers * h * d * t * b * n, "a key and a value"),
    ("attention.cache_bytes", lambda layers, h, d, t, b: 1, "It is called as cache_bytes(layers, kv_heads,"),
    ("first_look.temperature_softmax", lambda z, t: softmax_over(z * t) if t else (z == z.max()).float(), "Divide"),
    ("first_look.temperature_softmax", lambda z, t: softmax_over(z / max(t, 1e-9)), "NaN in"),
    ("first_look.surprise", lambda p: (p.log().sum(), (p.log().mean()).exp()), "The minus sign is missing"),
    ("first_look.surprise", lambda p: -p.log().sum(), "surprise, perplexity"),
    ("first_look.surprise", lambda p: (-math.log(math.prod(p.tolist())), 1.0), "In perplexity: 4 expected, 1 there"),
    ("first_look.top_p", lambda p, t: p > 0, "places differ"),
    ("first_look.top_p", lambda p, t: [bool(x >= t) for x in p], "compares each probability with p"),
    ("first_look.weights_bytes", lambda n, bits: n * bits, "A byte has 8 of them"),
    ("first_look.weights_bytes", lambda n, bits: round(n * bits / 8), "Not yet"),
    ("moe.top_k_router", router_in_numpy, "but the smallest first"),
    ("moe.top_k_router", lambda z, k: tuple(reversed(softmax_over(z).topk(k))), "add up to less than 1"),
    ("moe.top_k_router", lambda z, k: tuple(z.topk(k, dim=0))[::-1], "In experts: "),
    ("moe.top_k_router", lambda z, k: softmax_over(z.topk(k).values), "2 things are wanted (experts, weights)"),
    ("moe.mixture_layer", layer_that_overwrites, "Add with `+=`"),
    ("moe.mixture_layer", layer_of_all_experts, "All experts work on every token"),
    ("moe.mixture_layer", lambda x, r, g, u, d, k: g @ u, "RuntimeError"),
    (
        "moe.active_parameters",
        lambda L, d, w, E, k, o: (o + 3 * L * E * d * w, 3 * L * k * d * w),
        "every token passes",
    ),
    ("moe.active_parameters", lambda L, d, w, E, k, o: o + L * k * 3 * d * w, "2 things are wanted (total, active)"),
    ("moe.active_parameters", lambda L, d, w, E, k, o: (o + 3 * L * E * d * w, o), "In active: 34 expected, 10 there"),
    ("moe.balancing_loss", loss_by_counting_tokens, "This is k times too large"),
    ("moe.balancing_loss", lambda z, e: len(z[0]) * (softmax_over(z).mean(0) ** 2).sum(), "multiplied by themselves"),
    ("moe.balancing_loss", lambda z, e: softmax_over(z).mean(0) * len(z[0]), "A number is wanted"),
    ("moe.domain_share", share_by_expert, "Divide by the tokens of the kind"),
    ("moe.domain_share", lambda e, kinds, E, K: share_by_expert(e, kinds, E, K).T, "Not yet"),
    ("moe.domain_share", lambda e, kinds, E, K: torch.zeros(K, E), "0.333333 expected, 0 there"),
    ("moe.mutual_information", information_in_a_loop, "information in nats"),
    ("moe.mutual_information", lambda t: -(t * (t / t.sum()).log2()).nansum() / t.sum(), "how mixed it is"),
    (
        "moe.mutual_information",
        lambda t: float((t * (t * t.sum() / t.sum(1, keepdim=True) / t.sum(0)).log2() / t.sum()).sum()),
        "0 times minus infinity is NaN",
    ),
    ("moe.mutual_information", lambda t: information_in_a_loop(t, lambda p: p), "0.188722 expected, 1.25 there"),
    ("moe.kept_experts", lambda e, n, keep: e[:, 0].bincount(minlength=n).topk(keep).indices.sort()[0], "first choice"),
    ("moe.kept_experts", lambda e, n, keep: np.argsort(-np.bincount(e.flatten(), minlength=n))[:keep], "ascending"),
    ("moe.kept_experts", lambda e, n, keep: torch.arange(keep), "1 expected, 0 there"),
    ("sae.interference", lambda x: torch.nn.functional.cosine_similarity(x[:, None], x[None], -1).amax(1), "itself"),
    ("sae.interference", lambda x: (x @ x.T).abs().tril(-1).amax(1), "0.6 expected, 0 there"),
    ("sae.interference", lambda x: x @ x.T, "Shape (3, 3) where (3,) is wanted"),
    ("sae.topk_autoencoder", lambda x, w, b, v, c, k: ((x - c) @ w + b).relu(), "2 things are wanted"),
    ("sae.topk_autoencoder", rectified_not_sparse, "All that is above zero is kept"),
    ("sae.topk_autoencoder", lambda x, w, b, v, c, k: x @ v, "RuntimeError"),
    ("sae.fraction_unexplained", lambda x, told: ((x - told) ** 2).mean() / (x**2).mean(), "measured from zero"),
    (
        "sae.fraction_unexplained",
        lambda x, told: ((x - told) ** 2).sum() / (len(x) * x.var(0, correction=1).sum()),
        "Not yet",
    ),
    ("sae.fraction_unexplained", lambda x, told: float(((x - told) ** 2).sum(1).mean()), "1 expected, 5.750519 there"),
    ("sae.density", lambda i, n: [(i == f).float().mean() for f in range(n)], "divide by T"),
    ("sae.density", lambda i, n: torch.nn.functional.one_hot(i % n, n).sum((0, 1)) / len(i), "counted as the last"),
    ("sae.density", lambda i, n: torch.zeros(n), "0.25 expected, 0 there"),
    ("sae.balanced_accuracy", lambda s, f: 1 - (s ^ f).float().mean(), "This is plain accuracy"),
    ("sae.balanced_accuracy", lambda s, f: (s & f).sum() / f.sum(), "This is the first half"),
    ("sae.balanced_accuracy", lambda s, f: s == f, "Not yet"),
    ("sae.add_along", lambda x, d, a: x + a * d / sum(d**2) ** 0.5, "The first token is pushed as well"),
    ("sae.add_along", lambda x, d, a: torch.vstack([x[0], x[1:] + a * d]), "at its own length"),
    ("sae.add_along", lambda x, d, a: a * d, "Not yet"),
]


@pytest.mark.parametrize(("id", "answer", "said"), LEARNERS)
def test_what_a_learner_might_write_gets_a_helpful_answer(id: str, answer: Any, said: str) -> None:
    result = lk.check(id, answer)
    assert result.passed is False
    assert said in result.message
    assert result.message in repr(result)


def test_answers_in_numpy_and_in_lists_are_taken() -> None:
    assert lk.check("attention.causal_mask", lambda T: np.tril(np.ones((T, T), dtype=bool))).passed
    assert lk.check("attention.causal_mask", lambda T: [[j <= i for j in range(T)] for i in range(T)]).passed
    assert lk.check("first_look.surprise", lambda p: [float(-p.log().sum()), np.exp(-p.log().mean().item())]).passed
    assert lk.check("attention.cache_bytes", lambda *n: np.int64(2 * math.prod(n))).passed
    assert lk.check("moe.mutual_information", lambda table: information_in_a_loop(table, math.log2)).passed
    assert lk.check("moe.active_parameters", lambda *n: [n[5] + 3 * math.prod(n[:3]) * m for m in n[3:5]]).passed


def broken(T: int) -> torch.Tensor:
    rows = torch.arange(T)
    return rows.no_such_method()  # type: ignore[operator]


def test_an_exception_is_told_with_the_line_of_the_answer() -> None:
    result = lk.check("attention.causal_mask", broken)
    line = inspect.getsourcelines(broken)[1] + 2
    assert "It raised AttributeError" in result.message
    assert f"That was in line {line}: return rows.no_such_method()" in result.message


def test_the_failing_case_shows_input_expected_and_got() -> None:
    result = lk.check("attention.causal_mask", lambda T: torch.ones(T, T, dtype=torch.bool))
    details = dict(result.details)
    assert details["input"] == "T = 2"
    assert details["expected"] == "[[ True, False],\n [ True,  True]]"
    assert details["got"] == "[[True, True],\n [True, True]]"
    assert "1 of 4 cases agree." in result.message
    assert [case.passed for case in result.cases] == [True, False, False, False]


def test_an_answer_may_write_print_draw_and_switch_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    def rude(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        print("a secret" * 1000)
        random.random(), np.random.rand(), torch.rand(3)
        random.seed(1)
        torch.manual_seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        output = all_exercises()["attention.attention_head"].reference(query, key, value)
        query.zero_(), key.zero_(), value.zero_()
        return output

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    wanted = random.random(), np.random.rand(), torch.rand(2).tolist()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    result = lk.check("attention.attention_head", rude)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == wanted
    assert result.passed is True
    assert "writes into query and key and value" in result.message
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert capsys.readouterr().out == ""


def test_what_a_failing_answer_printed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def talks(T: int) -> None:
        print("T is", T)

    details = dict(lk.check("attention.causal_mask", talks).details)
    assert details["printed"] == "T is 1"
    assert capsys.readouterr().out == ""


def test_an_answer_that_fills_one_tensor_again_and_again_is_judged_by_each_call() -> None:
    kept = torch.zeros(7, 3)

    def reuses(scores: torch.Tensor, values: torch.Tensor, tile: int) -> torch.Tensor:
        out = kept[0, : values.shape[1]]
        out.copy_(find("attention.online_softmax").reference(scores, values, tile))
        return out

    assert lk.check("attention.online_softmax", reuses).passed is True


def test_an_interrupt_is_the_users() -> None:
    def interrupted(T: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lk.check("attention.causal_mask", interrupted)


def test_an_unknown_exercise_names_the_nearest() -> None:
    for wrong in ("attention.casual_mask", "causal_mask"):
        with pytest.raises(lk.BadInput, match=r"did you mean attention\.causal_mask"):
            lk.check(wrong, ...)
    with pytest.raises(lk.BadInput, match="there are first_look"):
        lk.exercise(7)  # type: ignore[arg-type]


class Hostile:
    """Fails whatever is done to it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no array")


class BadError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raises(error: BaseException) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        raise error

    return answer


GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.lists(st.integers(-3, 3), max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
    st.tuples(st.floats(), st.text(max_size=3), st.none()),
    st.sampled_from(
        [
            torch.zeros(0), torch.full((4, 4), math.nan), torch.full((4, 4), math.inf), torch.zeros(3, 3, 3),
            torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta"), torch.eye(3).to_sparse(),
            torch.tensor(1.0, requires_grad=True), np.array([None, "a"]), np.zeros((2, 2)), np.float32(2), np.array("x"),
            {"a": 1}, {1, 2}, object(), int, Hostile(), [Hostile()], (Hostile(), Hostile(), Hostile()), 10**400, [[1], [1, 2]],
        ]
    ),
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GARBAGE, st.sampled_from(IDS))
def test_garbage_is_told_not_raised(value: Any, id: str) -> None:
    for answer in (value, lambda *_: value):
        result = lk.check(id, answer)
        assert result.passed is False
        assert repr(result).startswith("Not yet")
        assert "<script" not in result._repr_html_()


@pytest.mark.parametrize(
    "error", [SystemExit(1), RecursionError(), MemoryError(), BadError(), ValueError("<script>\u202e" * 900)]
)
def test_whatever_an_answer_raises_is_told(error: BaseException) -> None:
    result = lk.check("attention.causal_mask", raises(error))
    assert result.passed is False
    assert type(error).__name__ in result.message
    assert "<script" not in result._repr_html_()
    assert "\u202e" not in repr(result)
    assert len(repr(result)) < 2000


def test_only_one_case_wrong_is_found() -> None:
    """A check that looked at the first case alone would pass this."""

    def nearly(T: int) -> torch.Tensor:
        right = mask(T)
        if T == 7:
            right[6, 6] = False
        return right

    result = lk.check("attention.causal_mask", nearly)
    assert result.passed is False
    assert "1 of 49 places differ, the first at [6, 6]" in result.message


def hostile_exercise() -> Exercise:
    from dataclasses import replace

    return replace(all_exercises()["attention.rotate"], title="<img src=x onerror=alert(1)>", task="</script>`<b>`")


def test_the_card_without_a_front_end() -> None:
    card = lk.exercise("attention.rotate")
    assert repr(card) == "ExerciseCard('attention.rotate')"
    data, _ = card._repr_mimebundle_()
    assert "Positions by rotation" in data["text/plain"]
    assert "not tried yet" in data["text/html"]
    assert "first * cos" not in data["text/html"] + data["text/plain"], "the solution stays out of a saved notebook"
    assert repr(card.hint()).startswith("Hint 1 of 2: ")
    assert card.opened == 1
    card.hint()
    assert repr(card.hint()).startswith("No more hints")
    assert card.state["solution_seen"] is False
    assert "first * cos - second * sin" in repr(card.solution())
    assert card.state["solution_seen"] is True, "the card follows the progress"
    lk.check("attention.rotate", all_exercises()["attention.rotate"].reference)
    assert (card.state["solved"], card.state["unaided"]) == (True, False)
    assert "solved, with the solution seen" in card._static_text()
    card.close()
    lk.check("attention.rotate", lambda *_: None)


def test_hostile_text_in_a_card_is_escaped() -> None:
    from labkit.teaching.card import ExerciseCard

    fallback = ExerciseCard(hostile_exercise())._static_html()
    assert "<img" not in fallback
    assert "<code>&lt;b&gt;</code>" in fallback


def test_a_right_answer_that_is_not_in_tiles_is_told_so() -> None:
    result = lk.check("attention.online_softmax", lambda scores, values, tile: torch.softmax(scores, 0) @ values)
    assert result.passed is False
    assert "all weights existed at once" in result.message
