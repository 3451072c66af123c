"""The solutions of notebook 09's exercises beside what labkit and a real tokenizer count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import labkit as lk
from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"landscape.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"landscape.{name}").cases()]


@pytest.mark.parametrize("inputs", inputs("parameters"))
def test_parameters_are_those_of_the_real_architecture(inputs: tuple[Any, ...]) -> None:
    d_model, d_ff, layers, heads, kv_heads, vocabulary, tied = inputs
    config = {
        "model_type": "llama",
        "hidden_size": d_model,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "head_dim": d_model // heads,
    }
    assert solution("parameters")(*inputs) == lk.memory(config, tokens=1).parameters


def test_a_step_is_bound_by_reading_for_one_text_and_by_computing_for_many() -> None:
    times = [solution("step_time")(13.5e9, 0.0, 14e9, batch, 2.039e12, 312e12) for batch in (1, 2, 512, 1024)]
    assert times[0] == times[1] == pytest.approx(13.5e9 / 2.039e12), "the second text is free"
    assert times[3] == pytest.approx(2 * times[2]), "later each costs as much as the one before"


def test_all_that_is_kept_is_sixteen_bytes_a_parameter_however_it_is_shared() -> None:
    for parameters, _, _ in inputs("training_bytes"):
        assert solution("training_bytes")(parameters, 1, 3) == 16 * parameters
        shared = [solution("training_bytes")(parameters, 8, stage) for stage in range(4)]
        assert shared == sorted(shared, reverse=True)
        assert shared[3] * 8 == pytest.approx(16 * parameters)


@pytest.mark.real_model
def test_merges_one_after_the_other_give_the_tokenizers_own_tokens(default_lab: lk.Lab) -> None:
    import json

    model = json.loads(default_lab.tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    for word in ("interpretability", "strawberry", "aaaaaaa"):
        ids = torch.tensor([vocabulary[letter] for letter in word])
        for pair in model["merges"]:
            left, right = pair if isinstance(pair, list) else pair.split(" ")
            if left in word and right in word:
                ids = solution("merge")(ids, vocabulary[left], vocabulary[right], vocabulary[left + right])
        assert ids.tolist() == default_lab.tokenizer(word, add_special_tokens=False)["input_ids"]


def test_bits_are_those_of_a_compressor_that_knows_the_probabilities() -> None:
    losses, sizes = -torch.log(torch.tensor([0.5, 0.25, 0.125])), torch.tensor([1, 1, 2])
    assert float(solution("bits_per_byte")(losses, sizes)) == pytest.approx((1 + 2 + 3) / 4)
