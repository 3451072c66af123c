"""The same passages in many languages: what ships, how it is counted, what it does to price, context and speed."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz
import numpy as np
import pytest
import tokenizers_of_kinds
from transformers import AutoTokenizer

import labkit as lk
from labkit.models.shipped import ASSETS, MODELS
from labkit.recipes import languages as recipe
from labkit.tokenization import language_tax, languages

OURS = {"English": ["the cat sat", "a dog", "the mat", "it was", "tired"], "Two": ["é", "ü", "ß", "ø the", "å" * 4]}


def test_what_ships_is_parallel_small_and_has_its_licence() -> None:
    found = languages()
    assert len(found) == 83
    assert next(iter(found)) == "eng"
    assert {len(language.passages) for language in found.values()} == {14}
    assert len({language.name for language in found.values()}) == 83
    assert len({language.script for language in found.values()}) > 20
    assert found["deu_1996"].passages[1].startswith("Jeder hat das Recht auf Leben")
    folder = ASSETS / "languages"
    assert (folder / "declaration.json").stat().st_size <= 300_000
    assert "MIT" in (folder / "README.md").read_text("utf-8")


def test_the_recipe_reads_pages_and_refuses_uneven_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = "".join(
        f'<article data-number="{n}"><h2>No</h2><p>a &amp; \n b{n}</p></article>' for n in (1, 2, *recipe.ARTICLES[1:])
    )
    assert recipe.passages(articles) == [f"a & b{n}" for n in recipe.ARTICLES]
    (tmp_path / "declaration").mkdir()
    monkeypatch.setattr(recipe, "LANGUAGES", {"eng": "Latn", "deu_1996": "Latn"})
    (tmp_path / "index.js").write_text("{\n code: 'eng',\n name: 'English (x)'}, {code: 'deu_1996', name: \"G\"}")
    for code in recipe.LANGUAGES:
        (tmp_path / "declaration" / f"{code}.html").write_text(articles)
    made = json.loads(json.dumps(recipe.gathered(tmp_path)))
    assert made["languages"]["eng"]["name"] == "English"
    assert made["languages"]["deu_1996"] == {"name": "German", "script": "Latn", "passages": recipe.passages(articles)}
    (tmp_path / "declaration" / "deu_1996.html").write_text(articles.replace('"5"', '"50"'))
    with pytest.raises(SystemExit, match="deu_1996"):
        recipe.gathered(tmp_path)


def test_tokens_are_counted_as_the_tokenizer_counts_and_intervals_draw_passages() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    found = language_tax({"tiny": tokenizer}, OURS, draws=400, seed=1)
    rows = found.table.set_index(["tokenizer", "language"])
    counts = {name: [len(tokenizer(text)["input_ids"]) for text in some] for name, some in OURS.items()}
    two = rows.loc[("tiny", "Two")]
    assert two["tokens"] == sum(counts["Two"])
    assert two["relative"] == sum(counts["Two"]) / sum(counts["English"])
    assert two["per_character"] == sum(counts["Two"]) / sum(map(len, OURS["Two"]))
    assert two["per_byte"] == sum(counts["Two"]) / sum(len(text.encode()) for text in OURS["Two"])
    assert two["low"] < two["relative"] < two["high"]
    english = rows.loc[("tiny", "English")]
    assert (english["low"], english["relative"], english["high"]) == (1, 1, 1)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 5, 5) for _ in range(4000)]
    ratios = [np.array(counts["Two"])[d].sum() / np.array(counts["English"])[d].sum() for d in drawn]
    assert np.allclose([two["low"], two["high"]], np.percentile(ratios, (2.5, 97.5)), rtol=0.15)
    assert rows.loc[("bytes", "Two"), "tokens"] == sum(len(text.encode()) for text in OURS["Two"])
    assert rows.loc[("characters", "Two"), "tokens"] == sum(map(len, OURS["Two"]))


def test_what_it_does_to_price_context_and_speed() -> None:
    found = language_tax({"tiny": fuzz.tiny_tokenizer()}, OURS, draws=10)
    relative = found.worst("tiny")["relative"]
    rows = found.consequences("tiny", price=2.0, context=1000, tokens_per_second=30).set_index("code")
    assert rows.loc["Two", "price"] == 2 * relative
    assert rows.loc["Two", "context"] == round(1000 / relative)
    assert rows.loc["Two", "speed"] == 30 / relative
    assert rows.loc["Two", "attention"] == relative**2
    assert rows.loc["English", "context"] == 1000
    with pytest.raises(lk.BadInput, match="did you mean"):
        found.consequences("tinny")


def test_a_tokenizer_that_learnt_chinese_does_not_tax_it() -> None:
    own = AutoTokenizer.from_pretrained(MODELS["labkit-moe"].tokenizer_path)
    rows = language_tax(own, draws=100).table
    rows = rows[~rows["tokenizer"].isin(["bytes", "characters"])].set_index("code")
    assert rows.loc["cmn_hans", "low"] < 1.1
    assert rows.loc["rus", "low"] > 5
    assert rows.loc["mya", "relative"] > 10


def test_unknown_tokens_are_counted_and_said() -> None:
    found = language_tax({"words": tokenizers_of_kinds.wordpiece()}, OURS, draws=10)
    row = found.table.set_index(["tokenizer", "language"]).loc[("words", "Two")]
    assert row["unknown"] > 0.5
    assert "signs for what is unknown" in repr(found)


def test_what_can_not_be_counted() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    for texts, why in (
        ({"a": ["x"] * 5, "b": ["x"] * 6}, "as many passages"),
        ({"a": ["x"] * 4}, "5 at least"),
        ({"a": ["x"] * 4 + [""]}, "none of them empty"),
        ({"a": ["x"] * 4 + ["\ud800"]}, "half of a surrogate"),
        ({}, "by language"),
    ):
        with pytest.raises(lk.BadInput, match=why):
            language_tax(tokenizer, texts)
    with pytest.raises(lk.BadInput, match="stands beside"):
        language_tax({"bytes": tokenizer}, OURS)
    with pytest.raises(lk.BadInput, match="no tokenizer"):
        language_tax([], OURS)
    with pytest.raises(lk.BadInput, match="reference"):
        language_tax(tokenizer, OURS, reference="eng")


def test_the_chart_draws_each_tokenizer_with_its_intervals() -> None:
    hostile = {"<b>$x$": OURS["English"], "Two": OURS["Two"]}
    found = language_tax({"tiny": fuzz.tiny_tokenizer()}, hostile, draws=50)
    chart = lk.views.languages(found)
    plain, own = chart.figure.data
    relative = found.worst("tiny")["relative"]
    assert max(own.x) == pytest.approx(np.log2(relative))
    assert chart.figure.layout.yaxis.ticktext == ("Two", "&lt;b&gt;&#36;x&#36;")
    assert plain.name == "plain bytes"
    assert f"Two takes {relative:.1f} times the tokens" in chart.figure.layout.title.text
    high = found.worst("tiny")["high"]
    assert own.error_x.array[own.x.index(max(own.x))] == pytest.approx(np.log2(high / relative))
    with pytest.raises(lk.BadInput, match="language_tax"):
        lk.views.languages(found.table.drop(columns="low"))
    with pytest.raises(lk.BadInput, match="1 to 5 tokenizers"):
        lk.views.languages(found.table[found.table["tokenizer"] == "bytes"])


def test_intervals_across_are_in_the_picture_too(tmp_path: Path) -> None:
    found = language_tax({"tiny": fuzz.tiny_tokenizer()}, OURS, draws=50)
    chart = lk.views.languages(found)
    with_bars = chart.to_svg(tmp_path / "a.svg").read_text("utf-8")
    for trace in chart.figure.data:
        trace.error_x = None
    assert with_bars.count("<path") + with_bars.count("<line") + with_bars.count("<polyline") > sum(
        chart.to_svg(tmp_path / "b.svg").read_text("utf-8").count(tag) for tag in ("<path", "<line", "<polyline")
    )
