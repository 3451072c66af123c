"""The recipe of the shipped lens, run at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from made_up_texts import write_documents
from transformers import LlamaConfig, LlamaForCausalLM

import labkit as lk
from labkit.circuits import jacobians, lens_fitting
from labkit.recipes import lens as recipe


def tiny_lab(_dtype: str = "float32") -> lk.Lab:
    tokenizer = fuzz.tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lk.Lab(LlamaForCausalLM(config).eval(), tokenizer, name=recipe.MODEL)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up documents; nothing is written into the assets."""
    for name, value in {
        "LENGTH": 40,
        "FOLDER": tmp_path / "shipped",
        "RECORD": tmp_path / "shipped.jsonl",
        "TRIED_ROWS": (0, 7),
        "MEASURED": (1, 3),
        "STORED_AT": (2,),
        "DOCUMENTS": 2,
        "_lab": tiny_lab,
    }.items():
        monkeypatch.setattr(recipe, name, value)
    write_documents(tmp_path)
    return tmp_path


def _lines(work: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (work / "record.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_fit_taken_up_again_is_the_fit_not_interrupted(work: Path) -> None:
    recipe.fit(work, stop_after=5)
    whole, lines = recipe.load_sums(work), _lines(work)
    (work / recipe.SUMS).unlink()
    (work / "record.jsonl").unlink()
    recipe.fit(work, stop_after=2)
    assert recipe.load_sums(work)[1] == 2
    with (work / "record.jsonl").open("a", encoding="utf-8") as file:  # a prompt whose sums were not saved any more
        file.write('{"prompt": 2}\n')
    recipe.fit(work, stop_after=5)
    again = recipe.load_sums(work)
    assert again[1] == whole[1] == 5
    for half in recipe.HALVES:
        assert torch.equal(again[0][half], whole[0][half])
    assert _lines(work) == lines
    assert [line["prompt"] for line in lines[1:]] == [0, 1, 2, 3, 4]
    assert [line["kind"] for line in lines[1:]] == ["prose", "encyclopaedia", "python", "prose", "encyclopaedia"]


def test_the_lens_is_the_mean_over_the_prompts(work: Path) -> None:
    recipe.fit(work, stop_after=3)
    lab, each = tiny_lab(), []
    for prompt, _ in zip(recipe.prompts(work, lab.tokenizer), range(3), strict=False):
        assert len(prompt.ids) == 40
        with lab.turn():
            each.append(jacobians.text_jacobians(lab, prompt.ids))
    fitted = recipe.fitted(work)
    assert fitted.prompts == 3
    torch.testing.assert_close(fitted.jacobians[2], torch.stack(each).mean(0)[1])
    by_sums = lens_fitting.lens_of_sums(each[0] + each[2], each[1], 3, recipe.MODEL)
    assert fitted.agreement == pytest.approx(dict(by_sums.agreement), abs=1e-5)


def test_each_prompt_is_of_another_document(work: Path) -> None:
    tokenizer = tiny_lab().tokenizer
    found = list(recipe.prompts(work, tokenizer))
    assert len(found) == 18
    assert len({(one.kind, one.title) for one in found}) == 18
    assert [one.ids for one in recipe.prompts(work, tokenizer, 7)] == [one.ids for one in found[7:]]


def test_what_is_shipped_is_the_fit_with_its_card(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.fit(work, stop_after=4)
    recipe.pack(work)
    shipped = lk.circuits.load_lens(recipe.FOLDER / recipe.FILE)
    exact = recipe.fitted(work)
    assert (shipped.prompts, shipped.model, shipped.readable) == (4, recipe.MODEL, (1, 2, 3, 4))
    for layer, matrix in exact.jacobians.items():
        assert (shipped.jacobians[layer] - matrix).norm() < 0.01 * matrix.norm()
    recipe.measure(work)
    card = (recipe.FOLDER / "README.md").read_text("utf-8")
    assert "Fitted on 4 prompts of 40 tokens" in card
    assert "| 3 | " in card
    assert "| unigram |" in card
    assert "{" not in card
    sums = json.loads((recipe.FOLDER / "SHA256.json").read_text("utf-8"))
    assert set(sums) == {recipe.FILE, recipe.QUALITY, recipe.DIFFERENCES, recipe.COST}
    recipe.agree(work)
    assert "layer  2: rounding 0.000" in capsys.readouterr().out
