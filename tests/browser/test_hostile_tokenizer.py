"""A vocabulary of markup, scripts and control characters, from the tokenizer through the model to the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from generations import HOSTILE

import labkit as lk

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def hostile_lab() -> lk.Lab:
    """A tiny model whose every token is hostile; whatever it writes, and whatever else it might have, is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = list(dict.fromkeys(word for word in HOSTILE if word))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.Split("\x1f", "removed")
    inner.decoder = decoders.Fuse()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=128, **sizes)).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    return lk.Lab(model, tokenizer, name="<script>window.broken=1</script>")


def test_hostile_tokens_from_end_to_end(hostile_lab: lk.Lab, open_page: Callable[..., Any], tmp_path: Path) -> None:
    prompt = "\x1f".join(list(dict.fromkeys(word for word in HOSTILE if word))[:20])
    gen = hostile_lab.generate(prompt, chat=False, max_new_tokens=60, temperature=50.0, seed=1)
    assert len(set(gen.tokens)) > 10
    assert any("<" in token for token in gen.tokens)
    assert len(gen.prompt_ids) == 20
    page = open_page(lk.views.tokens(gen).to_html(tmp_path / "hostile.html"))
    for _ in range(len(gen.tokens)):
        page.locator(".lk-list").press("ArrowRight")
    assert page.evaluate("window.broken") is None
    assert page.locator("#labkit-view script, #labkit-view img, #labkit-view iframe, #labkit-view a").count() == 0
    assert "script" not in page.evaluate("document.title").lower()
    card = tmp_path / "card.html"
    card.write_text(f"<!doctype html><title>card</title>{hostile_lab._repr_html_()}", encoding="utf-8")
    page = open_page(card)
    assert page.evaluate("window.broken") is None
    assert "<script>" in page.locator("td").first.inner_text()
