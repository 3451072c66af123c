"""The same code on a GPU. Run where there is one: pytest tests/gpu"""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest
import torch

import labkit as lk
from labkit.models import hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_auto_means_the_gpu_in_bfloat16(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder)
    assert lab.device.type == "cuda"
    assert lab.dtype is torch.bfloat16


def test_generation_matches_the_cpu_in_float32(tiny_folder: Path) -> None:
    on_gpu, on_cpu = (lk.load(tiny_folder, device=d, dtype="float32") for d in ("cuda", "cpu"))
    settings = {"chat": False, "max_new_tokens": 24}
    a, b = on_gpu.generate("abc", **settings), on_cpu.generate("abc", **settings)
    assert a.ids == b.ids
    assert torch.allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert a.logprobs.device.type == "cpu"


def test_fast_compiles_and_gives_the_same_greedy_tokens() -> None:
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    plain = lab.generate("abc", chat=False, max_new_tokens=24)
    fast = lab.generate("abc", chat=False, max_new_tokens=24, speed="fast")
    assert fast.ids == plain.ids
    assert fast.engine == "transformers (float32, compiled step)"


def test_a_step_is_compiled_once_and_replayed_for_other_texts() -> None:
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    torch._dynamo.utils.counters.clear()
    for prompt, new in (("abc", 24), ("abc", 24), ("the cat ran", 9), ("where", 30)):
        plain = lab.generate(prompt, chat=False, max_new_tokens=new)
        fast = lab.generate(prompt, chat=False, max_new_tokens=new, speed="fast")
        assert fast.ids == plain.ids
        assert torch.allclose(fast.logprobs, plain.logprobs, atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


def test_a_seed_draws_the_same_tokens_fast() -> None:
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    settings = {
        "chat": False,
        "max_new_tokens": 24,
        "temperature": 1.2,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "seed": 4,
    }
    assert lab.generate("abc", speed="fast", **settings).ids == lab.generate("abc", **settings).ids


def test_an_edit_holds_in_a_step_that_was_compiled_before() -> None:
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    free = lab.generate("abc", chat=False, max_new_tokens=12, speed="fast")
    with lab.edit(lk.ablate_head(0, 1), lk.ablate_head(1, 0)):
        plain = lab.generate("abc", chat=False, max_new_tokens=12)
        assert lab.generate("abc", chat=False, max_new_tokens=12, speed="fast").ids == plain.ids != free.ids
    assert lab.generate("abc", chat=False, max_new_tokens=12, speed="fast").ids == free.ids


def test_fast_on_a_gpu_frees_its_caches_and_graphs() -> None:
    held = torch.cuda.memory_allocated()
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    lab.generate("abc", chat=False, max_new_tokens=24, speed="fast")
    lab.close()
    assert torch.cuda.memory_allocated() <= held + (1 << 20)


@pytest.mark.parametrize("draft", [lk.Draft("prompt_lookup", ngram=1), lk.Draft(early_exit=1, confidence=0.0)])
def test_drafts_change_no_text(draft: lk.Draft) -> None:
    lab = lk.Lab(fuzz.tiny_model().cuda().eval(), fuzz.tiny_tokenizer())
    plain = lab.generate("abc abc", chat=False, max_new_tokens=24)
    gen = lab.generate("abc abc", chat=False, max_new_tokens=24, speculation=draft)
    assert gen.ids == plain.ids
    assert torch.allclose(gen.logprobs, plain.logprobs, atol=1e-4)
    sampled = lab.generate("abc abc", chat=False, max_new_tokens=24, speculation=draft, temperature=1.0, seed=1)
    assert len(sampled.ids) == 24


def test_sampling_is_seeded_and_leaves_the_random_state(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder)
    before = torch.cuda.get_rng_state()
    first = lab.generate("abc", chat=False, temperature=1.0, seed=3)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert lab.generate("abc", chat=False, temperature=1.0, seed=3).ids == first.ids


def test_close_frees_the_gpu(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder, fresh=True)
    held = torch.cuda.memory_allocated()
    lab.close()
    assert torch.cuda.memory_allocated() < held


def test_the_hardware_is_described() -> None:
    assert hardware.pick_device() == "cuda"
    free, total = torch.cuda.mem_get_info()
    assert 0 < hardware.free_bytes("cuda") <= total
    assert free <= total
    assert torch.cuda.get_device_name() in hardware.describe_device()
    native = torch.cuda.get_device_capability()[0] >= 8
    assert hardware.pick_dtype("auto", "cuda") is (torch.bfloat16 if native else torch.float32)


def test_an_autoencoder_is_trained_where_its_activations_are() -> None:
    world = lk.sae.world(features=32, d=16, active=2.0)
    x, _ = world.sample(8_000)
    settings = lk.sae.Settings(features=32, k=3, tokens=80_000, batch=512, learning_rate=1e-2, warm_up=5_000)
    found = []
    for device in ("cuda", "cpu"):
        run = lk.sae.train(x.to(device), settings, layer=0)
        while True:
            try:
                next(run)
            except StopIteration as end:
                found.append(end.value)
                break
    assert all(each.decoder.device.type == "cpu" for each in found)
    on_gpu, on_cpu = (lk.sae.recovery(each.decoder, world.directions) for each in found)
    assert on_gpu.mean > 0.75 > 0.6 > on_gpu.chance
    assert abs(on_gpu.mean - on_cpu.mean) < 0.1


def test_features_of_a_model_on_the_gpu(tiny_folder: Path) -> None:
    on_gpu, on_cpu = (lk.load(tiny_folder, device=d, dtype="float32") for d in ("cuda", "cpu"))
    x, _ = lk.sae.world(features=64, d=on_cpu.config.hidden_size).sample(4_000)
    run = lk.sae.train(x, lk.sae.Settings(features=64, k=4, tokens=4_000, batch=500), layer=1)
    while True:
        try:
            next(run)
        except StopIteration as end:
            sae = end.value
            break
    a, b = (lk.sae.features(lab, sae, "abc abc abc") for lab in (on_gpu, on_cpu))
    assert torch.equal(a.indices.sort().values, b.indices.sort().values)
    with on_gpu.edit(lk.steer(sae[3], 2.0)), on_cpu.edit(lk.steer(sae[3], 2.0)):
        assert torch.allclose(on_gpu.trace("abc").logits.cpu(), on_cpu.trace("abc").logits, atol=1e-3)


def test_a_branch_and_a_prefix_on_the_gpu() -> None:
    """Keys and values stay where they are; the text is that of a run of its own."""
    lab = lk.Lab(fuzz.tiny_model().eval().cuda(), fuzz.tiny_tokenizer(), name="tiny")
    parent = lab.generate("the cat sat on the mat", chat=False, max_new_tokens=12)
    token = int(parent.top_ids[5, 1])
    branch = parent.branch(5, token)
    rest = lab.generate(parent.prompt_ids + branch.ids[:6], max_new_tokens=6)
    assert branch.ids[6:] == rest.ids
    assert torch.allclose(branch.logprobs[6:], rest.logprobs, atol=1e-4)
    assert branch.reuse is not None
    assert branch.reuse.run == 2
    assert branch.source is not None
    pasts = branch.source.kept.pasts
    assert pasts is not None
    assert pasts[0].layers[0] is not None
    assert pasts[0].layers[0][0].device.type == "cuda"
    assert parent.distribution(3).note == ""
    with lab.prefix("the cat sat", chat=False):
        assert lab.generate("the cat sat on the mat", chat=False, max_new_tokens=12).ids == parent.ids
    assert lk.generation.beams(lab, "the cat", 2, max_new_tokens=4, chat=False).names == ["beam 1", "beam 2"]
