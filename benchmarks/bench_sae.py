"""Sparse autoencoders on the default model, on the CPU: encoding and training against sae-lens, on the same model and sizes.

Encoding: from token ids to features, by lk.sae.features, which also names the tokens and measures what is left over.
Its pass stops where the autoencoder reads; sae-lens's runs on its SAETransformerBridge, with one hook's activation cached and
the pass stopped at the same layer (its most frugal way), and through run_with_cache_with_saes (its usual one). Training:
from token ids to trained weights, model included, labkit's harvest and step against sae-lens's own training runner, same
text, sizes, batch and precision.

--quick: fewer tokens and rounds. --json: the results as JSON.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from common import Result, compare, default_lab, report

import labkit as lk
from labkit.sae import training
from labkit.sae.reading import residuals

TARGET = "time ratio 0.67: 1.5 times as fast"
LENGTH, BATCH, FEATURES, K = 256, 4_096, 4_608, 32


@functools.cache
def sae() -> Any:
    return lk.sae.load()


@functools.cache
def ids(rows: int) -> torch.Tensor:
    """(rows, LENGTH) token ids of the texts that come with labkit."""
    tokenizer = default_lab().tokenizer
    stream: list[int] = []
    for texts in lk.moe.texts().values():
        for text in texts:
            stream += tokenizer(text)["input_ids"]
    need = rows * LENGTH
    return torch.tensor((stream * (need // len(stream) + 1))[:need]).view(rows, LENGTH)


@functools.cache
def bridge() -> Any:
    """sae-lens's bridge around the default model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAETransformerBridge

        lab = lk.load(device="cpu", fresh=True, attn_implementation="eager")
        return SAETransformerBridge.boot_transformers(
            lab.model.config._name_or_path, hf_model=lab.model, tokenizer=lab.tokenizer, device="cpu"
        )


def encode_ours(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([found.values for found in lk.sae.features(default_lab(), sae(), tokens.tolist())])


@torch.no_grad()
def encode_frugal(tokens: torch.Tensor) -> torch.Tensor:
    hook, model = f"blocks.{sae().layer - 1}.hook_out", bridge()
    _, cache = model.run_with_cache(tokens, names_filter=[hook], stop_at_layer=sae().layer)
    return sae().sae.encode(cache[hook])


@torch.no_grad()
def encode_usual(tokens: torch.Tensor) -> torch.Tensor:
    hook = f"blocks.{sae().layer}.hook_in.hook_sae_acts_post"
    _, cache = bridge().run_with_cache_with_saes(tokens, saes=[sae().sae], names_filter=[hook])
    return cache[hook]


def encoding(rows: int, rounds: int, theirs: tuple[str, Callable[[torch.Tensor], torch.Tensor]]) -> Result:
    tokens = ids(rows)
    ours, other = encode_ours(tokens), theirs[1](tokens).flatten(0, 1)
    # the first position of a text is an outlier no float32 pass agrees on, and is left out of all that labkit shows
    kept = ours.sum(-1) > 0
    apart = (ours.sum(-1) - other.sum(-1)).abs()[kept] / ours.sum(-1)[kept]
    assert kept.float().mean() > 0.9, "nearly all tokens have features"
    assert apart.median() < 1e-3, f"both must find the same features, and differ by {apart.median():.2g}"
    return compare(
        f"encoding {tokens.numel():,} tokens (to reach: {TARGET})",
        ("lk.sae.features", lambda: encode_ours(tokens)),
        (theirs[0], lambda: theirs[1](tokens)),
        rounds=rounds,
    )


def train_ours(tokens: torch.Tensor) -> float:
    """Seconds from ids to weights."""
    began = time.perf_counter()
    x = torch.cat(list(residuals(default_lab(), tokens.tolist(), sae().layer)))
    settings = training.Settings(features=FEATURES, k=K, tokens=len(x), batch=BATCH, warm_up=BATCH)
    for _ in training.train(x, settings, layer=sae().layer):
        pass
    return time.perf_counter() - began


def train_theirs(tokens: torch.Tensor) -> float:
    """Seconds of sae-lens's runner, from ids to weights, without its evaluations and logs."""
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.saes.topk_sae import TopKTrainingSAEConfig

    lab = default_lab()
    hook = f"model.layers.{sae().layer - 1}"  # what leaves the layer before is what enters this one
    module = lab.model.get_submodule(hook)
    others = set(module._forward_hooks)
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=sae().d_in, d_sae=FEATURES, k=K, normalize_activations="expected_average_only_in"
        ),
        model_name="default",
        model_class_name="AutoModelForCausalLM",
        hook_name=hook,
        dataset_path="",
        is_dataset_tokenized=True,
        streaming=False,
        prepend_bos=False,
        context_size=LENGTH,
        training_tokens=tokens.numel(),
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=16,
        n_batches_in_buffer=16,
        n_batches_for_norm_estimate=4,
        lr=1e-3,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None,
        device="cpu",
        dtype="float32",
        verbose=False,
    )
    data = Dataset.from_dict({"tokens": tokens.repeat(2, 1).tolist()}).with_format("torch")
    model = HookedProxyLM(lab.model, lab.tokenizer, hook_names=[hook])
    runner = LanguageModelSAETrainingRunner(config, override_dataset=data, override_model=model)
    began = time.perf_counter()
    try:
        runner.run()
        return time.perf_counter() - began
    finally:
        for own in set(module._forward_hooks) - others:  # the proxy leaves its hook behind
            del module._forward_hooks[own]


def steps_ours(x: torch.Tensor) -> float:
    trainer = training.start(x.shape[1], training.Settings(features=FEATURES, k=K, tokens=len(x), batch=BATCH), x)
    return _stepped(trainer, x)


def steps_theirs(x: torch.Tensor) -> float:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    own = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=FEATURES, k=K))
    settings = SAETrainerConfig(total_training_samples=len(x), train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-4)
    return _stepped(SAETrainer(settings, own, iter(())), x)


def _stepped(trainer: Any, x: torch.Tensor) -> float:
    began = time.perf_counter()
    for batch in x.split(BATCH):
        if len(batch) == BATCH:
            trainer.step(batch)
            trainer.n_training_steps += 1
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    rounds, rows = (2, 16) if asked.quick else (5, 64)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((BATCH * (2 if asked.quick else 6), 576))).float()
    results = [
        encoding(rows, rounds, ("sae-lens, one hook, stopped at the layer", encode_frugal)),
        encoding(rows, rounds, ("sae-lens, run_with_cache_with_saes", encode_usual)),
        compare(
            f"training steps on {BATCH:,} tokens each (to reach: {TARGET})",
            ("labkit's step", lambda: steps_ours(x)),
            ("sae-lens's step", lambda: steps_theirs(x)),
            rounds=rounds,
        ),
        compare(
            f"training on {32 * LENGTH * (4 if asked.quick else 8):,} tokens, model included (to reach: {TARGET})",
            ("labkit: harvest and steps", lambda: train_ours(ids(32 * (4 if asked.quick else 8)))),
            ("sae-lens's training runner", lambda: train_theirs(ids(32 * (4 if asked.quick else 8)))),
            rounds=max(1, rounds // 2),
        ),
    ]
    report(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
