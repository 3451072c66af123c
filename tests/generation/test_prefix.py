"""Prompts that share a beginning: what they give is what they give without it, and what it saves; sizes of caches."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk
from labkit.errors import BadInput, LabClosed, Unavailable
from labkit.generation import caches

SHARED = list(range(10, 30))
ENDS = [[5], [6, 7, 8], [9] * 7, [40, 41]]


def lab_of(family: str = "llama3") -> lk.Lab:
    return lk.Lab(build((FAMILIES | UNUSUAL)[family]), Tokens(), name=family)


def check(one: lk.Generation, other: lk.Generation) -> None:
    assert one.ids == other.ids
    assert one.prompt_ids == other.prompt_ids
    for name in ("logprobs", "sampled_logprobs", "entropies"):
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-4)


@pytest.mark.parametrize("family", ["llama3", "gpt2", "bloom", "deepseek_v3", "falcon_multi_query"])
def test_prompts_behind_a_prefix_are_what_they_are_without(family: str) -> None:
    lab = lab_of(family)
    prompts = [SHARED + end for end in ENDS]
    settings: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.9, "seed": 3}
    alone = [lab.generate(prompt, **settings) for prompt in prompts]
    together = lab.generate(prompts, **settings)
    with lab.prefix(SHARED) as prefix:
        for prompt, wanted in zip(prompts, alone, strict=True):
            found = lab.generate(prompt, **settings)
            check(found, wanted)
            assert found.reuse is not None
            assert (found.reuse.tokens, found.reuse.run) == (len(SHARED), len(prompt) - len(SHARED))
        longest = max(map(len, ENDS))
        for found, wanted in zip(lab.generate(prompts, **settings), together, strict=True):
            check(found, wanted)
            assert found.reuse is not None
            assert found.reuse.tokens == len(found.prompt_ids) - longest
    assert prefix.size_bytes == 0
    assert lab.generate(prompts[0], max_new_tokens=1).reuse is None


def test_as_many_tokens_as_are_the_same(tiny_lab: lk.Lab) -> None:
    """The ids are always those of the whole prompt, also where the tokenizer joins its parts otherwise."""
    text = "the cat sat on the m"
    wanted = tiny_lab.generate(text + "at because it", chat=False, max_new_tokens=6)
    split = tiny_lab.tokenizer(text).input_ids
    common = next(i for i, (a, b) in enumerate(zip(split, wanted.prompt_ids, strict=False)) if a != b)
    assert common < len(split), "the tokenizer joins nothing here: the test tests nothing"
    with tiny_lab.prefix(text, chat=False):
        found = tiny_lab.generate(text + "at because it", chat=False, max_new_tokens=6)
        check(found, wanted)
        assert found.reuse is not None
        assert found.reuse.tokens == common
        same = tiny_lab.generate(text, chat=False, max_new_tokens=3)  # the last token is run for its logits
        assert same.reuse is not None
        assert (same.reuse.tokens, same.reuse.run) == (len(split) - 1, 1)
        other = tiny_lab.generate("where", chat=False, max_new_tokens=3)
        assert other.reuse is not None
        assert (other.reuse.tokens, other.reuse.note) == (0, "the prompt begins otherwise than the prefix")


def test_a_chat_template_and_the_longest_of_several(tiny_lab: lk.Lab) -> None:
    messages = [{"role": "user", "content": "the cat sat"}]
    wanted = tiny_lab.generate(messages, max_new_tokens=5)
    more = [*messages, {"role": "assistant", "content": "on the mat"}, {"role": "user", "content": "why"}]
    wanted_more = tiny_lab.generate(more, max_new_tokens=5)
    with tiny_lab.prefix(messages) as short, tiny_lab.prefix(more) as long:
        found, found_more = tiny_lab.generate(messages, max_new_tokens=5), tiny_lab.generate(more, max_new_tokens=5)
        check(found, wanted)
        check(found_more, wanted_more)
        assert found_more.reuse is not None
        assert found_more.reuse.tokens == len(long.ids) - 1 > len(short.ids)
        assert "".join(tiny_lab.stream(more, max_new_tokens=5)) == wanted_more.text
        branch = found_more.branch(2, 7)
    assert branch.ids == wanted_more.branch(2, 7).ids


def test_while_the_model_is_changed_nothing_is_shared() -> None:
    lab = lab_of()
    prompt = SHARED + ENDS[1]
    with lab.edit(lk.ablate_head(0, 1)):
        wanted = lab.generate(prompt, max_new_tokens=5)
        with pytest.raises(Unavailable, match="outside"), lab.prefix(SHARED):
            pass
    with lab.prefix(SHARED):
        with lab.edit(lk.ablate_head(0, 1)):
            found = lab.generate(prompt, max_new_tokens=5)
        check(found, wanted)
        assert found.reuse is not None
        assert "not what it was" in found.reuse.note
        assert lab.generate(prompt, max_new_tokens=1).reuse == lk.generation.Reuse(len(SHARED), len(ENDS[1]))
    assert lab._prefixes == []


def test_what_a_prefix_refuses() -> None:
    for family in ("mamba", "mistral", "llama_both_ways"):
        with pytest.raises(Unavailable, match="can't share a prefix"), lab_of(family).prefix(SHARED):
            pass
    lab = lab_of()
    with pytest.raises(BadInput, match="nest several"), lab.prefix([SHARED, SHARED]):
        pass
    with pytest.raises(BadInput), lab.prefix([]):
        pass
    with pytest.raises(RuntimeError), lab.prefix(SHARED):
        raise RuntimeError
    assert lab._prefixes == []
    with lab.prefix(SHARED) as prefix:
        assert prefix.size_bytes == 2 * 2 * 2 * 8 * 4 * len(SHARED)
        assert "20 tokens" in repr(prefix)
        lab.close()
        gc.collect()
        assert prefix.size_bytes == 0
        with pytest.raises(LabClosed):
            lab.generate(SHARED)


def test_prefixes_and_threads() -> None:
    lab = lab_of()
    wanted = lab.generate([*SHARED, 5], max_new_tokens=4)
    found: list[lk.Generation] = []
    with lab.prefix(SHARED):
        threads = [
            threading.Thread(target=lambda: found.append(lab.generate([*SHARED, 5], max_new_tokens=4)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 3
    for one in found:
        check(one, wanted)


# sizes and times of caches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama2", "llama3", "mistral", "gemma2", "deepseek_v3", "mamba", "falcon_grouped"])
def test_measured_sizes_are_the_computed_ones(family: str) -> None:
    lab = lab_of(family)
    found = lab.cache((4, 16, 40), batch=2)
    assert found["measured_bytes"].tolist() == found["computed_bytes"].tolist()
    assert found["computed_bytes"].tolist() == [lab.memory(n, batch=2).kv_cache_bytes for n in (4, 16, 40)]
    if family == "llama3":  # 2 layers, keys and values, 2 heads that 4 queries share, 8 numbers of 4 bytes
        assert found["bytes_per_token"].tolist() == [2 * 2 * 2 * 8 * 4] * 3
    if family == "deepseek_v3":
        assert found["latent_bytes"].tolist() == [2 * n * 2 * (16 + 8) * 4 for n in (4, 16, 40)]


def test_a_cache_of_few_bits() -> None:
    lab = lab_of()
    found = lk.quantization.cache_sizes(lab, (20, 100), bits=(8, 2), group=8, residual=8)
    assert found["measured_bytes"].tolist() == found["computed_bytes"].tolist()
    whole = found[found["bits"].isna().to_numpy()].table
    assert whole["measured_bytes"].tolist() == lab.cache((20, 100))["measured_bytes"].tolist()
    # 88 of 100 tokens in groups of 8: codes, and a scale and zero point of 16 bits a group
    each = 2 * 2 * 2 * 8
    eight = found.table.iloc[4]
    assert eight["tokens"] == 100
    assert eight["measured_bytes"] >= 88 * each + 12 * each * 4
    assert eight["measured_bytes"] < 88 * each * 2 + 12 * each * 4
    with pytest.raises(Unavailable, match="can't be packed"):
        lk.quantization.cache_sizes(lab_of("mamba"), (20,))


def test_times_of_a_cache() -> None:
    lab = lab_of()
    found = caches.cache_times(lab, (20, 60), repeats=2)
    assert found["tokens"].tolist() == [20, 60]
    assert (found["with_seconds"] > 0).all()
    assert (found["ratio"] > 0).all()
    for lengths in ((), (0,), (200,)):
        with pytest.raises(BadInput):
            lab.cache(lengths)
    with pytest.raises(Unavailable, match="without a cache"):
        lab_of("llama_both_ways").cache((4,))
