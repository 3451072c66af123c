"""Stretched positions and windows one inside another, in lists of unequal texts, and after other texts."""

from __future__ import annotations

import pytest
import torch
from test_positions import TEXT, config_of, lab_of

import labkit as lk

LONG = [(7 * i + 3) % 100 for i in range(60)]
LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}


def logits(lab: lk.Lab, ids: list[int]) -> torch.Tensor:
    return lab.trace(ids, keep="logits").logits


@pytest.fixture
def lab() -> lk.Lab:
    return lab_of("llama3", max_position_embeddings=24)


def test_a_second_scaling_is_refused_and_nothing_is_left(lab: lk.Lab) -> None:
    before = logits(lab, TEXT[:20])
    with lab.edit(lk.context.positions("yarn", 2)):
        for kind in ("linear", "default"):
            with pytest.raises(lk.Unavailable, match="leave that edit"), lab.edit(lk.context.positions(kind, 2)):
                pass
        with pytest.raises(lk.Unavailable, match="leave that edit"):
            lk.context.scaled(lab, "linear", 2)
        assert lab.context == 48
    both = (lk.context.positions("yarn", 2), lk.context.positions("linear", 2))
    with pytest.raises(lk.Unavailable, match="leave that edit"), lab.edit(*both):
        pass
    far = lk.context.scaled(lab, "ntk", 2)  # of which the configuration tells a larger base and nothing else
    with pytest.raises(lk.Unavailable, match="stretched already"):
        lk.context.scaled(far, "yarn", 2)
    with pytest.raises(lk.Unavailable, match="stretched already"), far.edit(lk.context.positions("linear", 2)):
        pass
    assert lab.context == 24
    assert torch.equal(logits(lab, TEXT[:20]), before)
    assert not any("forward" in vars(module) for module in lab.model.modules())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_what_a_text_gives_depends_on_its_own_length_alone(lab: lk.Lab, kind: str) -> None:
    texts = [LONG, TEXT[:30], TEXT[:10]]
    with lab.edit(lk.context.positions(kind, 4, **LONGROPE if kind == "longrope" else {})):
        fresh = logits(lab, TEXT[:30])
        alone = [logits(lab, text) for text in texts]
        assert torch.equal(alone[1], fresh), "a longer text was read before"
        for trace, own in zip(lab.trace(texts, keep="logits"), alone, strict=True):
            assert torch.allclose(trace.logits, own, atol=1e-4)


def test_models_that_come_so_are_read_so() -> None:
    for given, limit in (({"rope_type": "dynamic"}, 24), ({"rope_type": "longrope", **LONGROPE}, 96)):
        rope = {**given, "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 24}
        lab = lab_of("llama3", max_position_embeddings=limit, rope_parameters=rope)
        lab.config.max_position_embeddings = 96
        fresh = logits(lab, TEXT[:30])
        far = logits(lab, LONG)
        assert torch.equal(logits(lab, TEXT[:30]), fresh)
        many = lab.trace([LONG, TEXT[:30]], keep="logits")
        assert torch.allclose(many[0].logits, far, atol=1e-4)
        assert torch.allclose(many[1].logits, fresh, atol=1e-4)


def test_windows_one_in_another_are_the_narrower_of_both_also_with_a_cache(lab: lk.Lab) -> None:
    wide, narrow = lk.context.windowed(5), lk.context.windowed(3, sinks=2)
    for first, second in ((wide, narrow), (narrow, wide)):
        with lab.edit(first), lab.edit(second):
            written = lab.generate(TEXT[:12], max_new_tokens=6)
            again = lab.trace([*TEXT[:12], *written.ids], keep=("attention", "logits"))
        assert written.ids == again.logits[11:-1].argmax(-1).tolist()
        assert (again.attention(0, 0)[11] > 0).nonzero().flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("yarn", {"beta_fast": "x"}),
        ("yarn", {"beta_fast": 1, "beta_slow": 32}),
        ("yarn", {"attention_factor": -1}),
        ("yarn", {"truncate": 1}),
        ("yarn", {"factor": 1e300}),
        ("yarn", {"trained": 10**30}),
        ("llama3", {"low_freq_factor": 4, "high_freq_factor": 4}),
        ("longrope", LONGROPE | {"short_factor": None}),
        ("longrope", LONGROPE | {"long_factor": [0.0] * 4}),
        ("longrope", LONGROPE | {"long_factor": [1.0] * 3}),
    ],
)
def test_parameters_that_would_give_no_frequencies_are_refused(lab: lk.Lab, kind: str, more: dict[str, object]) -> None:
    with pytest.raises(lk.BadInput), lab.edit(lk.context.positions(kind, **{"factor": 4} | more)):  # type: ignore[arg-type]
        pass
    assert lab.context == 24


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"rope_theta": -5.0}, "rope_theta=-5"),
        ({"rope_type": "longrope", "factor": 2.0}, "short_factor=None"),
        ({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0], "long_factor": [1.0]}, "one for each pair"),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}, "embeddings=0"),
    ],
)
def test_configurations_that_give_no_frequencies_are_refused(given: dict[str, object], match: str) -> None:
    config = config_of({})
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4} | given
    with pytest.raises(lk.BadInput, match=match):
        lk.context.frequencies(config)


def test_lengths_that_can_not_be_are_refused() -> None:
    for tokens in (0, -5, "x"):
        with pytest.raises(lk.BadInput, match="tokens"):
            lk.context.frequencies(config_of({"rope_type": "dynamic", "factor": 2.0}), tokens=tokens)  # type: ignore[arg-type]
    with pytest.raises(lk.NotEnoughMemory, match="fewer tokens"):
        lk.context.alibi_bias(128, 10**6)
